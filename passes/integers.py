"""What passes need to know of quantized values: which real numbers they stand for, and how to write them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ir import Builder, Constant, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.quant import Dequantize, IntegerConv, IntegerMatmul, Quantize
from hardy.compiler.types import DType
from hardy.passes.integer_bounds import magnitude

# What a device multiplies: activations and, once the zero point is taken out, weights.
ACTIVATIONS = (DType.i8, DType.u8)
NARROW = (DType.i8, DType.u8, DType.i4, DType.u4)


@dataclass(frozen=True)
class Real:
    """The real numbers (q - zero) * scale; parameters are constants, scalars or vectors along `axis`."""

    q: Value
    scale: Tensor  # f64
    zero: Tensor  # i64
    axis: int

    @property
    def per_tensor(self) -> bool:
        return self.scale.ndim == 0 and self.zero.ndim == 0

    @property
    def is_activation(self) -> bool:
        """Computed at run time, 8 bits, one scale."""
        return self.per_tensor and self.q.type.dtype in ACTIVATIONS and self.q.literal is None

    @property
    def is_sum(self) -> bool:
        """An i32 sum of products."""
        return self.q.type.dtype is DType.i32 and not self.zero.any()


def real_of(value: Value) -> Real | None:
    """What a value stands for where it is a dequantization of integers by constant f32 scales."""
    op = value.op
    if not isinstance(op, Dequantize) or op.block or not value.node.operands[0].type.dtype.is_integer:
        return None
    q, *parameters = value.node.operands
    literals = [v.literal for v in parameters]
    if parameters[0].type.dtype is not DType.f32 or any(x is None for x in literals):
        return None
    scale, *zeros = [x.tensor for x in literals if x is not None]
    scale = scale.double()
    if not (scale.isfinite().all() and (scale >= 0).all() and scale.any()):
        return None
    zero = zeros[0].long() if zeros else torch.tensor(0)
    return Real(q, scale, zero, op.axis)


def number(value: Value) -> Tensor | None:
    """The real numbers of a constant, quantized or not, in f64."""
    literal = value.literal
    if literal is not None:
        return literal.tensor.double()
    if isinstance(value.op, Dequantize) and all(isinstance(v.op, Constant) for v in value.node.operands):
        tensors = [v.literal.tensor for v in value.node.operands if v.literal is not None]
        return value.op.reference(*tensors).double()
    return None


def f32(b: Builder, tensor: Tensor | float) -> Value:
    """A constant, rounded to f32."""
    return b.constant(torch.as_tensor(tensor, dtype=torch.float64).float())


def zero_point(b: Builder, zero: Tensor | int, dtype: DType) -> Value:
    return b.constant(Literal(torch.as_tensor(zero).to(dtype.torch), dtype))


def dequantized(b: Builder, q: Value, scale: Tensor, zero: Tensor | int = 0, axis: int = 0) -> Value:
    """(q - zero) * scale; the scale is rounded to f32."""
    if scale.ndim and bool((scale == scale.flatten()[0]).all()):
        scale = scale.flatten()[0]
    zeros = [zero_point(b, zero, q.type.dtype)] if torch.as_tensor(zero).any() else []
    axis = axis if scale.ndim or torch.as_tensor(zero).ndim else 0
    return b(Dequantize(axis), q, f32(b, scale), *zeros)


@dataclass(frozen=True)
class Grid:
    """The numbers that a quantization per tensor can give: (q - zero) * scale."""

    dtype: DType
    scale: float
    zero: int

    @property
    def unit(self) -> Grid:
        """The same integers for numbers that were divided by the scale."""
        return Grid(self.dtype, 1.0, self.zero)

    def place(self, number: float) -> int:
        """The integer that stands for a number."""
        low, high = self.dtype.range
        if math.isinf(number):
            return high if number > 0 else low
        x = torch.tensor(number, dtype=torch.float32)
        scale = torch.tensor(self.scale, dtype=torch.float32)
        return int(min(max(float((x / scale).round()) + self.zero, low), high))

    def quantize(self, b: Builder, x: Value) -> Value:
        zeros = [zero_point(b, self.zero, self.dtype)] if self.zero else []
        return b(Quantize(self.dtype), x, f32(b, self.scale), *zeros)


def grid_of(value: Value) -> Grid | None:
    """The grid of a quantization to at most 8 bits by constants, per tensor."""
    op = value.op
    if not isinstance(op, Quantize) or op.block or op.dtype not in NARROW:
        return None
    _, *parameters = value.node.operands
    literals = [v.literal for v in parameters]
    if parameters[0].type.dtype is not DType.f32 or any(v.type.rank for v in parameters):
        return None
    numbers = [x.item() for x in literals if x is not None]
    if len(numbers) != len(parameters) or not (math.isfinite(numbers[0]) and numbers[0] > 0):
        return None
    return Grid(op.dtype, float(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0)


def centred_weight(real: Real) -> Literal | None:
    """A constant weight less its zero point as i8; None where that does not fit."""
    literal = real.q.literal
    if literal is None or literal.type.dtype not in NARROW:
        return None
    zero = real.zero
    if zero.ndim:
        shape = [1] * literal.tensor.ndim
        shape[real.axis] = -1
        zero = zero.reshape(shape)
    if not zero.any() and literal.type.dtype is DType.i8:
        return literal
    values = literal.tensor.long() - zero
    if values.numel() and (values.min() < -128 or values.max() > 127):
        return None
    return Literal(values.to(torch.int8))


def with_bias(b: Builder, real: Real, bias: Tensor) -> Value | None:
    """The sum of an integer product and a bias along its axis, rounded to whole units of the sum.

    Beside weights that are almost zero a bias may be more units than i32 holds: such a channel gets larger
    units, in which its weights are rounded. None where that cannot be.
    """
    product = isinstance(real.q.op, IntegerConv | IntegerMatmul)
    if not product or not real.is_sum or not bias.isfinite().all():
        return None
    total, scale = real.q, real.scale
    most = magnitude(total)
    # Where that is possible, half the range stays free, for what is added when the sum is rounded.
    limit = float((2**30 if most < 2**29 else 2**31) - 1 - most)
    least = bias.abs() / limit
    if (scale < least).any():
        scale = scale.expand(bias.shape)
        growth = torch.where(scale > 0, 2.0 ** (least / scale).log2().ceil().clamp(min=0), math.inf)
        coarse = _coarser(b, total, growth, real.axis)
        if coarse is None:
            return None
        total = coarse
        scale = torch.where(
            scale > 0, scale * growth, torch.where(least > 0, 2.0 ** least.log2().ceil(), 1.0)
        )
    units = torch.where(bias == 0, 0.0, bias / scale).round()
    if not units.any():
        return dequantized(b, total, scale, axis=real.axis)
    shape = [1] * (total.type.rank - real.axis)
    shape[0] = -1
    term = b.constant(units.to(torch.int32).reshape(shape if units.ndim else []))
    return dequantized(b, b(Add(), total, term), scale, axis=real.axis)


def _coarser(b: Builder, total: Value, growth: Tensor, axis: int) -> Value | None:
    """The product with each output channel's constant weights divided by `growth` and rounded."""
    node = total.node
    weight = node.operands[1]
    if weight.literal is None or growth.ndim != 1:
        return None
    if isinstance(node.op, IntegerMatmul):
        if weight.type.rank != 2 or axis != total.type.rank - 1:
            return None
        shape = [-1, 1] if node.op.transpose_b else [1, -1]
    else:
        shape = [-1] + [1] * (weight.type.rank - 1)
    values = (weight.literal.tensor / growth.reshape(shape)).round().to(torch.int8)
    kernel = b.constant(values, name=weight.node.name, source=weight.node.source)
    return b(node.op, node.operands[0], kernel, *node.operands[2:], name=node.name)
