"""Quantizes weights at compile time and activations at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.literal import Literal
from hardy.compiler.ops.dynamic import DynamicQuantize
from hardy.compiler.ops.elementwise import Add, Mul
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.quant import Dequantize, IntegerConv, IntegerMatmul
from hardy.compiler.ops.shape import Reshape, Transpose
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.passes.layers import Layer, layers, select

MAX_TERMS = 2**31 // 255**2  # of a sum of products that i32 surely holds


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Quantize weights to i8 per output channel, and activations at run time by their own range.

    No calibration is needed; each input is quantized as it comes. `rows` gives every row of a matrix
    product's activation its own scale, which keeps a row with large numbers from coarsening the others;
    without, there is one for the whole tensor. Matrix products take u8 with a zero point, or with
    `symmetric` i8 without; convolutions take symmetric i8 with one scale. `only` and `skip` choose layers
    by shell patterns.
    """

    exact: ClassVar[bool] = False

    rows: bool = True
    symmetric: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph) -> Graph:
        chosen = {layer.node: layer for layer in select(layers(graph), self.only, self.skip) if _takes(layer)}
        book = ledger()

        def quantize(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            layer = chosen.get(node)
            if layer is None or not book.take(f"quantize {node.op.name}"):
                return None
            q, scale = _quantized_weight(layer)
            weight = b.constant(q, name=layer.weight.node.name, source=layer.weight.node.source)
            make = self._conv if isinstance(node.op, Conv) else self._matmul
            return [make(b, layer, operands, weight, b.constant(scale))]

        return transform(graph, quantize)

    def _matmul(
        self, b: Builder, layer: Layer, operands: tuple[Value, ...], weight: Value, scale: Value
    ) -> Value:
        op = layer.node.op
        assert isinstance(op, Matmul)
        x = operands[0]
        if op.transpose_a:
            rank = x.type.rank
            x = b(Transpose((*range(rank - 2), rank - 1, rank - 2)), x)
        k = x.type.shape[-1]
        matrix = b(Reshape((x.type.size // k, k)), x) if x.type.rank != 2 else x
        dtype = DType.i8 if self.symmetric else DType.u8
        q, unit, zero = b.multi(DynamicQuantize(dtype, self.rows, self.symmetric), matrix)
        total = b(IntegerMatmul(op.transpose_b), q, weight, *([] if self.symmetric else [zero]))
        y = b(Dequantize(1), total, scale)
        y = b(Mul(), y, b(Reshape((matrix.type.shape[0], 1)), unit) if self.rows else unit)
        return b(Reshape(layer.node.type.shape), y) if y.type != layer.node.type else y

    def _conv(
        self, b: Builder, layer: Layer, operands: tuple[Value, ...], weight: Value, scale: Value
    ) -> Value:
        op = layer.node.op
        assert isinstance(op, Conv)
        x, _, *bias = operands
        q, unit, _ = b.multi(DynamicQuantize(DType.i8, symmetric=True), x)
        total = b(IntegerConv(op.strides, op.padding, op.dilations, op.groups, op.layout), q, weight)
        axis = 1 if op.layout == "channels_first" else total.type.rank - 1
        y = b(Mul(), b(Dequantize(axis), total, scale), unit)
        if not bias:
            return y
        return b(Add(), y, b(Reshape((bias[0].type.size, *[1] * (y.type.rank - axis - 1))), bias[0]))


def _takes(layer: Layer) -> bool:
    """A f32 layer whose weight is the second operand and whose sums i32 holds."""
    terms = layer.rows().shape[1]
    f32 = all(v.type.dtype is DType.f32 and v.type.size for v in layer.node.operands)
    return f32 and layer.place == 1 and terms <= MAX_TERMS


def _quantized_weight(layer: Layer) -> tuple[Literal, torch.Tensor]:
    """The weight as i8 and the scale of each output channel."""
    rows = layer.rows()
    scale = rows.abs().amax(1) / 127
    scale = torch.where(scale > 0, scale, 1.0)
    q = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return Literal(layer.unrows(q)), scale
