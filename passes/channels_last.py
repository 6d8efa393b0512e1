"""Gives windowed ops the channels-last layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.ops.elementwise import Add, Div, Mul, Sqrt, Sub
from hardy.compiler.ops.linear import Conv
from hardy.compiler.ops.norm import GroupNorm, ReduceMean
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.quant import IntegerConv
from hardy.compiler.ops.shape import Reshape, Transpose
from hardy.compiler.pipeline import Pass
from hardy.passes.clean_transposes import CleanTransposes
from hardy.passes.permute import inverse


@dataclass(frozen=True)
class ChannelsLast(Pass):
    """Run convolutions, pooling and group normalization with channels last.

    The transpositions this needs move to the graph's inputs and outputs where they cannot cancel.
    `spatial` lists the numbers of spatial axes that are changed. Weights keep their layout.
    """

    spatial: tuple[int, ...] = (1, 2, 3)

    def run(self, graph: Graph) -> Graph:
        book = ledger()

        def change(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            op = node.op
            if not isinstance(op, Conv | IntegerConv | MaxPool | AvgPool | GroupNorm):
                return None
            if not isinstance(op, GroupNorm) and op.layout != "channels_first":
                return None
            if node.type.rank - 2 not in self.spatial:
                return None
            if not book.take(f"channels last {op.name}"):
                return None
            rank = node.type.rank
            to_last = (0, *range(2, rank), 1)
            x = b(Transpose(to_last), operands[0])
            if isinstance(op, GroupNorm):
                y = _group_norm(b, op, x, *operands[1:])
            else:
                y = b(dataclasses.replace(op, layout="channels_last"), x, *operands[1:], name=node.name)
            return (b(Transpose(inverse(to_last)), y),)

        changed = transform(graph, change)
        return graph if changed is graph else CleanTransposes().run(changed)


def _group_norm(
    b: Builder, op: GroupNorm, x: Value, weight: Value | None = None, bias: Value | None = None
) -> Value:
    """Group normalization of [batch, *spatial, channels], from its definition."""
    t = x.type
    batch, channels = t.shape[0], t.shape[-1]
    per_channel = t.size // max(batch * channels, 1)
    grouped = b(Reshape((batch, per_channel, op.groups, channels // op.groups)), x)
    mean = ReduceMean((1, 3), True)
    centred = b(Sub(), grouped, b(mean, grouped))
    variance = b(mean, b(Mul(), centred, centred))
    root = b(Sqrt(), b(Add(), variance, b.scalar(op.epsilon, t.dtype)))
    y = b(Reshape(t.shape), b(Div(), centred, root))
    if weight is not None:
        y = b(Mul(), y, weight)
    return y if bias is None else b(Add(), y, bias)
