"""Removes what computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.ops.shape import BroadcastTo
from hardy.compiler.pipeline import Pass
from hardy.compiler.rewrite import apply_rules, settle
from hardy.compiler.types import broadcast_shapes
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.properties import broadcasts
from hardy.passes.rules import arithmetic, shapes


@dataclass(frozen=True)
class Simplify(Pass):
    """Apply the identities of arithmetic and shapes.

    Such as x + 0, reshapes of reshapes, casts to the same type, slices of concatenations, and
    broadcasts that the next op does anyway.
    """

    def run(self, graph: Graph) -> Graph:
        rules = arithmetic.RULES + shapes.RULES
        return settle(graph, lambda g: apply_rules(g, rules), drop_broadcasts)


def drop_broadcasts(graph: Graph) -> Graph:
    """Elementwise ops broadcast by themselves: skip a broadcast_to before one if its shape results anyway."""
    book = ledger()

    def skip(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        if not broadcasts(type(node.op)) or not any(isinstance(v.op, BroadcastTo) for v in operands):
            return None
        kept = list(operands)
        for i, v in enumerate(operands):
            if isinstance(v.op, BroadcastTo):
                kept[i] = v.node.operands[0]
                if broadcast_shapes(*[k.type.shape for k in kept]) != node.type.shape:
                    kept[i] = v
        if tuple(kept) == operands or not book.take("skip broadcast"):
            return None
        return (b(node.op, *kept, name=node.name),)

    after = transform(graph, skip)
    return after if after is graph else EliminateDeadCode().run(after)
