"""Computes once what a graph computes several times."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields

import torch

from hardy.compiler.ir import Builder, Constant, Graph, Node, Op, Value, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.literal import Literal
from hardy.compiler.matching.terms import COMMUTATIVE
from hardy.compiler.pipeline import Pass

# Constants up to this size are compared directly; of larger ones a sample decides first, so that
# weights are not read unless they look alike.
SMALL = 256
SAMPLES = 64


@dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Merge nodes that apply equal ops to the same operands, and constants with equal bytes."""

    def run(self, graph: Graph) -> Graph:
        known: dict[Hashable, Node] = {}
        book = ledger()

        def merge(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            op = node.op
            key: Hashable
            if isinstance(op, Constant):
                key = _constant_key(op.literal)
            else:
                unordered = type(op) in COMMUTATIVE
                key = (op, frozenset(operands) if unordered else operands, _zero_signs(op))
            first = known.setdefault(key, node)
            if first is node:
                if operands != node.operands:
                    known[key] = copy = Node(op, operands, node.types, node.name, node.source)
                    return b.append(copy)
                return None
            return first.values if book.take(f"merge {op.name}") else None

        return transform(graph, merge)


def _constant_key(literal: Literal) -> Hashable:
    if literal.type.nbytes <= SMALL:
        return literal.type, _bytes(literal.tensor)
    step = max(literal.tensor.numel() // SAMPLES, 1)
    return literal.type, _bytes(literal.tensor.reshape(-1)[::step]), _ByContent(literal)


class _ByContent:
    """Compares a literal by its bytes, hashing them only when something has to be compared."""

    def __init__(self, literal: Literal) -> None:
        self.literal = literal

    def __hash__(self) -> int:
        return hash(self.literal.type)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByContent) and self.literal == other.literal


def _bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.reshape(-1).contiguous()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _zero_signs(op: Op) -> tuple[float, ...]:
    """Signs of the float attributes: 0.0 equals -0.0, yet they compute different things."""
    return tuple([math.copysign(1.0, getattr(op, name)) for name in _float_fields(type(op))])


@functools.cache
def _float_fields(op: type[Op]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(op) if f.type in ("float", float))
