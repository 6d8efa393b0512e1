"""Moves reshapes towards the outputs so that they cancel."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from hardy.compiler.ir import Builder, Constant, Graph, Node, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.activation import LogSoftmax, Softmax
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.norm import LayerNorm, RmsNorm
from hardy.compiler.ops.quant import IntegerMatmul
from hardy.compiler.ops.reduce import CumSum
from hardy.compiler.ops.shape import Reshape
from hardy.compiler.pipeline import Pass
from hardy.compiler.rewrite import settle
from hardy.passes.permute import axis_runs
from hardy.passes.properties import along_axis, broadcasts
from hardy.passes.sinking import Carried, Price, View, sink

Shape = tuple[int, ...]


@dataclass(frozen=True)
class CleanReshapes(Pass):
    """Move reshapes past elementwise ops, normalizations and products by matrices, so that they cancel.

    A linear layer that flattens its leading axes and restores them afterwards then does without.
    """

    def run(self, graph: Graph) -> Graph:
        return settle(graph, lambda g: sink(g, Reshapes()))


class Reshapes(View[Shape]):
    """A value lacks the shape of its base, which has the same elements in the same order."""

    label = "move reshapes"

    def is_view(self, node: Node) -> bool:
        return isinstance(node.op, Reshape)

    def lack(self, node: Node, before: Shape | None) -> Shape | None:
        base = node.operands[0].type.shape if before is None else before
        return None if base == node.type.shape else base

    def carry(self, node: Node, lacks: tuple[Shape | None, ...]) -> Carried[Shape] | None:
        op = node.op
        if any(v.type.size == 0 for v in node.operands):
            return None
        if broadcasts(type(op)):
            return self._carry_elementwise(node, lacks)
        base = lacks[0]
        if base is None:
            return None
        others = (None,) * (len(lacks) - 1)
        x = node.operands[0].type.shape
        if isinstance(op, Matmul | IntegerMatmul):
            return self._carry_product(node, base)
        axis = getattr(op, "axis", None)
        if along_axis(type(op)) and not getattr(op, "block", 0):
            if all(v.type.size == 1 and v.type.rank == 0 for v in node.operands[1:]):
                return Carried(op, (base, *others), base)
        elif isinstance(op, LayerNorm | RmsNorm):
            if op.axis != len(x) - 1 or map_axis(x, base, op.axis) != len(base) - 1:
                return None
        elif not isinstance(op, Softmax | LogSoftmax | CumSum):
            return None
        new_axis = None if axis is None else map_axis(x, base, axis)
        if new_axis is None:
            return None
        new: Any = {"axis": new_axis}
        return Carried(dataclasses.replace(op, **new), (base, *others), base)

    def _carry_elementwise(self, node: Node, lacks: tuple[Shape | None, ...]) -> Carried[Shape] | None:
        shape = node.type.shape
        base = next(
            (
                lack
                for v, lack in zip(node.operands, lacks, strict=True)
                if lack is not None and v.type.shape == shape
            ),
            None,
        )
        if base is None:
            return None
        operands = []
        for v in node.operands:
            mapped = map_operand(v.type.shape, shape, base)
            if mapped is None:
                return None
            operands.append(mapped)
        return Carried(node.op, tuple(operands), base)

    def _carry_product(self, node: Node, base: Shape) -> Carried[Shape] | None:
        """A product by one matrix applies to each row, however the rows are arranged."""
        a, w, *zeros = node.operands
        if getattr(node.op, "transpose_a", False) or w.type.rank != 2 or len(base) < 2:
            return None
        if zeros and zeros[0].type.rank:
            return None
        if map_axis(a.type.shape, base, a.type.rank - 1) != len(base) - 1:
            return None
        result = (*base[:-1], node.type.shape[-1])
        others = (None,) * (len(node.operands) - 1)
        return Carried(node.op, (base, *others), result if result != node.type.shape else None)

    def price(self, value: Value, lack: Shape) -> Price:
        return Price(0, 1)

    def price_of_base(self, value: Value, lack: Shape) -> Price:
        free = isinstance(value.node.op, Constant) or value.type.shape == lack
        return Price(0, 0 if free else 1)

    def put_back(self, b: Builder, base: Value, value: Value, lack: Shape) -> Value:
        return b(Reshape(value.type.shape), base)

    def base(self, b: Builder, x: Value, value: Value, lack: Shape) -> Value:
        if x.type.shape == lack:
            return x
        if value.literal is not None:
            literal = Literal(value.literal.tensor.reshape(lack), value.type.dtype)
            return b.constant(literal, name=value.node.name)
        return b(Reshape(lack), x)


def map_axis(a: Shape, b: Shape, axis: int) -> int | None:
    """The axis of b that is axis `axis` of a; None where it was split, merged, or is of size one."""
    for axes_a, axes_b in axis_runs(a, b):
        if axis in axes_a:
            same = [j for j in axes_b if b[j] == a[axis]]
            whole = a[axis] == math.prod(a[i] for i in axes_a)
            return same[0] if whole and len(same) == 1 and a[axis] != 1 else None
    return None


def map_operand(operand: Shape, result: Shape, base: Shape) -> Shape | None:
    """The shape with which an operand that broadcasts to `result` broadcasts to `base` instead."""
    if math.prod(operand) == 1:
        return () if len(operand) > len(base) else operand
    if operand == result:
        return base
    wide = (1,) * (len(result) - len(operand)) + operand
    mapped = [1] * len(base)
    for axes, base_axes in axis_runs(result, base):
        part = [wide[i] for i in axes]
        if part == [result[i] for i in axes]:
            for j in base_axes:
                mapped[j] = base[j]
        elif any(n != 1 for n in part):
            return None
    # Without the ones in front, as vectors are usually written.
    while len(mapped) > len(operand) and mapped[0] == 1:
        del mapped[0]
    return tuple(mapped)
