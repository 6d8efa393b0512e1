"""Lets matrix products read their operands transposed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from hardy.compiler.ir import Builder, Graph, Value
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.quant import IntegerMatmul
from hardy.compiler.ops.shape import Transpose
from hardy.compiler.pipeline import Pass
from hardy.compiler.rewrite import Match, Pattern, Rule, Term, apply_rules
from hardy.passes.permute import Permutation, is_identity


@dataclass(frozen=True)
class AbsorbTransposes(Pass):
    """Fold transpositions of the last two axes into the flags of matrix products.

    A transposition that moves other axes as well keeps its last axis in place afterwards, which is
    the cheaper one to do.
    """

    def run(self, graph: Graph) -> Graph:
        return apply_rules(graph, RULES)


def _swapped(perm: Permutation) -> Permutation:
    return (*perm[:-2], perm[-1], perm[-2])


def _keeps_last(perm: Permutation) -> bool:
    return perm[-1] == len(perm) - 1


class AbsorbTranspose(Rule):
    """The transposition of one operand of a matrix product."""

    shares = True

    def __init__(self, operand: int, flag: str) -> None:
        self.operand = operand
        self.flag = flag

    @property
    def label(self) -> str:
        return f"Absorb{self.flag.title().replace('_', '')}"

    def pattern(self, p: Pattern, a: Term, w: Term) -> Term:
        moved: list[Any] = [a, w]
        moved[self.operand] = p(Transpose, moved[self.operand], permutation=p.attribute("perm"))
        ops = (Matmul,) if self.operand == 0 else (Matmul, IntegerMatmul)
        return p(ops, *moved)

    def check(self, m: Match) -> bool | str:
        perm = m.attribute("perm")
        if is_identity(perm):
            return "the transposition moves nothing"
        better = _keeps_last(_swapped(perm)) and not _keeps_last(perm)
        return better or "the last axis already stays in place, or neither way keeps it"

    def rewrite(self, b: Builder, m: Match) -> Value:
        operands = list(m.root.operands)
        x = operands[self.operand].node.operands[0]
        rest = _swapped(m.attribute("perm"))
        operands[self.operand] = x if is_identity(rest) else b(Transpose(rest), x)
        flipped: Any = {self.flag: not getattr(m.root.op, self.flag)}
        return b(dataclasses.replace(m.root.op, **flipped), *operands, name=m.root.name)


RULES: tuple[Rule, ...] = (AbsorbTranspose(0, "transpose_a"), AbsorbTranspose(1, "transpose_b"))
