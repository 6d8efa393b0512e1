"""Turns convolutions and pooling over one axis into ones over two."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.literal import Literal
from hardy.compiler.ops.linear import Conv
from hardy.compiler.ops.pool import AvgPool, MaxPool, Pool
from hardy.compiler.ops.quant import IntegerConv
from hardy.compiler.ops.shape import Reshape
from hardy.compiler.pipeline import Pass


@dataclass(frozen=True)
class WidenConvolutions(Pass):
    """Give convolutions and pooling over one spatial axis a second one of size 1.

    For targets with kernels for two axes only. The new axis comes first: [batch, channels, 1, length].
    """

    def run(self, graph: Graph) -> Graph:
        book = ledger()

        def widen(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            op = node.op
            if not isinstance(op, Conv | IntegerConv | MaxPool | AvgPool) or len(op.strides) != 1:
                return None
            if not book.take(f"widen {op.name}"):
                return None
            wide = dataclasses.replace(
                op, strides=(1, *op.strides), padding=((0, 0), *op.padding), dilations=(1, *op.dilations)
            )
            if isinstance(wide, Pool):
                wide = dataclasses.replace(wide, kernel=(1, *wide.kernel))
            axis = 2 if op.layout == "channels_first" else 1
            x, *rest = operands
            x = _with_axis(b, x, axis)
            if rest:
                # Weights have the same layout for both, bias and zero points no spatial axes.
                rest[0] = _with_axis(b, rest[0], 2)
            y = b(wide, x, *rest, name=node.name)
            return (b(Reshape(node.type.shape), y),)

        return transform(graph, widen)


def _with_axis(b: Builder, x: Value, axis: int) -> Value:
    shape = x.type.shape
    wide = (*shape[:axis], 1, *shape[axis:])
    if x.literal is not None:
        literal = Literal(x.literal.tensor.reshape(wide), x.type.dtype)
        return b.constant(literal, name=x.node.name, source=x.node.source)
    return b(Reshape(wide), x)
