"""Layers over quantized values as integer ops: products, sums and means.

Each function gets a float node over dequantized operands and gives the same numbers as the
dequantization of an i32 sum, or None where the operands do not allow it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardy.compiler.ir import Builder, Node, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.elementwise import Add, Cast, Sub
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.pool import AvgPool
from hardy.compiler.ops.quant import IntegerConv, IntegerMatmul
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.shape import Reshape, Transpose
from hardy.compiler.types import DType
from hardy.passes.integers import (
    Real,
    centred_weight,
    dequantized,
    number,
    real_of,
    with_bias,
    zero_point,
)


def conv(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """A convolution of an activation with a constant weight, scaled per tensor or per output channel."""
    op = node.op
    assert isinstance(op, Conv)
    x, w = real_of(operands[0]), real_of(operands[1])
    if x is None or w is None or not x.is_activation or (not w.per_tensor and w.axis != 0):
        return None
    weight = centred_weight(w)
    if weight is None or _overflows(math.prod(weight.type.shape[1:]), x.q.type.dtype, DType.i8):
        return None
    core = IntegerConv(op.strides, op.padding, op.dilations, op.groups, op.layout)
    kernel = b.constant(weight, name=w.q.node.name, source=w.q.node.source)
    total = b(core, x.q, kernel, *_zeros(b, x), name=node.name)
    axis = 1 if op.layout == "channels_first" else total.type.rank - 1
    y = dequantized(b, total, x.scale * w.scale, axis=axis)
    return y if len(operands) == 2 else _biased(b, y, x.scale * w.scale, axis, operands[2])


def _biased(b: Builder, y: Value, scale: Tensor, axis: int, bias: Value) -> Value:
    """A dequantized sum plus a bias vector along `axis`; a float addition where it must be."""
    constant = number(bias)
    if constant is not None:
        result = with_bias(b, Real(y.node.operands[0], scale, torch.tensor(0), axis), constant)
        if result is not None:
            return result
    shape = (-1,) + (1,) * (y.type.rank - axis - 1)
    if bias.literal is not None:
        return b(Add(), y, b.constant(bias.literal.tensor.reshape(shape), name=bias.node.name))
    return b(Add(), y, b(Reshape((bias.type.size, *shape[1:])), bias))


def matmul(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """A product of two quantized operands: rows of a and columns of b may have scales, but not both."""
    op = node.op
    assert isinstance(op, Matmul)
    left, right = real_of(operands[0]), real_of(operands[1])
    if left is None or right is None or min(v.type.rank for v in operands) < 2:
        return None
    rows = left.q.type.rank - (1 if op.transpose_a else 2)
    columns = right.q.type.rank - (2 if op.transpose_b else 1)
    rank = node.type.rank
    if not right.per_tensor and (right.axis != columns or not left.per_tensor):
        return None
    if not left.per_tensor and left.axis != rows:
        return None
    sides = [_side(b, left), _side(b, right)]
    k = left.q.type.shape[-2 if op.transpose_a else -1]
    if None in sides or left.q.literal is right.q.literal is not None:
        return None
    (a, a_zero), (w, w_zero) = sides  # type: ignore[misc]  # None was refused
    if _overflows(k, a.type.dtype, w.type.dtype):
        return None
    if op.transpose_a:
        last = a.type.rank
        a = b(Transpose((*range(last - 2), last - 1, last - 2)), a)
    zeros = []
    if a_zero or w_zero:
        zeros.append(zero_point(b, a_zero, a.type.dtype))
    if w_zero:
        zeros.append(zero_point(b, w_zero, w.type.dtype))
    total = b(IntegerMatmul(op.transpose_b), a, w, *zeros, name=node.name)
    axis = rank - 2 if not left.per_tensor else rank - 1
    return dequantized(b, total, left.scale * right.scale, axis=axis)


def _side(b: Builder, real: Real) -> tuple[Value, int] | None:
    """An operand of a product and its zero point."""
    if real.q.literal is not None:
        weight = centred_weight(real)
        if weight is None:
            return None
        return b.constant(weight, name=real.q.node.name, source=real.q.node.source), 0
    if not real.is_activation:
        return None
    return real.q, int(real.zero)


def bias(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """A constant added to an integer product along the axis of its channels."""
    for x, y in (operands, operands[::-1]):
        real, constant = real_of(x), number(y)
        if real is None or constant is None or not real.is_sum or node.type != x.type:
            continue
        wide = (1,) * (x.type.rank - y.type.rank) + y.type.shape
        axis = real.axis if real.scale.ndim else next((i for i, n in enumerate(wide) if n != 1), 0)
        if any(n != 1 for i, n in enumerate(wide) if i != axis):
            continue
        vector = constant.reshape(-1).expand(x.type.shape[axis])
        moved = Real(real.q, real.scale, real.zero, axis)
        result = with_bias(b, moved, vector)
        if result is not None:
            return result
    return None


def mean(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """A sum or mean over axes of an activation."""
    op = node.op
    assert isinstance(op, ReduceMean | ReduceSum)
    x = real_of(operands[0])
    if x is None or not x.is_activation:
        return None
    count = math.prod(x.q.type.shape[a] for a in op.axes)
    if not count or count * 255 >= 2**31:
        return None
    total = b(ReduceSum(op.axes, op.keepdims), b(Cast(DType.i32), x.q))
    if x.zero.any():
        total = b(Sub(), total, b.scalar(count * int(x.zero), DType.i32))
    return dequantized(b, total, x.scale / count if isinstance(op, ReduceMean) else x.scale)


def average(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """A mean over windows, all of one size: a depthwise convolution with ones."""
    op = node.op
    assert isinstance(op, AvgPool)
    x = real_of(operands[0])
    padded = any(p for pair in op.padding for p in pair)
    if x is None or not x.is_activation or (padded and not op.count_padding):
        return None
    taps = math.prod(op.kernel)
    channels = x.q.type.shape[1 if op.layout == "channels_first" else -1]
    if _overflows(taps, x.q.type.dtype, DType.i8):
        return None
    ones = b.constant(Literal(torch.ones((channels, 1, *op.kernel), dtype=torch.int8)))
    core = IntegerConv(op.strides, op.padding, op.dilations, channels, op.layout)
    return dequantized(b, b(core, x.q, ones, *_zeros(b, x), name=node.name), x.scale / taps)


def _zeros(b: Builder, x: Real) -> list[Value]:
    return [zero_point(b, x.zero, x.q.type.dtype)] if x.zero.any() else []


def _overflows(terms: int, *dtypes: DType) -> bool:
    """Whether the shape rules refuse a sum of that many products."""
    return terms * math.prod(d.range[1] - d.range[0] for d in dtypes) >= 2**31
