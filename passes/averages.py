"""Means as products with constant weights, which devices without a division can compute."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardy.compiler.calibration import Grid
from hardy.compiler.ir import Builder, Node, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.pool import AvgPool
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.ops.shape import Reshape, Transpose
from hardy.compiler.types import DType


def averages(node: Node) -> bool:
    """Whether a node is a mean of which every element has the same weight everywhere."""
    op = node.op
    if isinstance(op, AvgPool):
        return op.count_padding or not any(p for pair in op.padding for p in pair)
    return isinstance(op, ReduceMean) and bool(op.axes) and node.operands[0].type.size > 0


def as_product(b: Builder, node: Node, x: Value, grid: Grid) -> Value | None:
    """A mean (`averages` says of what) as a product of x with a quantized constant weight.

    Windows and means over all spatial axes become depthwise convolutions, other means a matrix product. The
    weight of each of n elements is 2^-s times one of the two integers around 2^s / n, in such an order that
    any run of them has the right mean, and that all add up to 2^s: the mean of equal numbers is exact, and
    each element's share is off by less than one step in 2^s / n. The greatest s that fits the type is
    taken, or where n is a power of two log2 n, with weights of 1. None where their sum does not fit i32.
    """
    op, t = node.op, x.type
    if isinstance(op, AvgPool):
        channels = t.shape[1 if op.layout == "channels_first" else -1]
        core = Conv(op.strides, op.padding, op.dilations, channels, op.layout)
        return _depthwise(b, x, core, op.kernel, grid, node.name)
    assert isinstance(op, ReduceMean)
    count = math.prod(t.shape[a] for a in op.axes)
    if not _fits(count):
        return None
    spatial = tuple(range(2, t.rank))
    if t.rank in (3, 4) and op.axes == spatial:
        n = len(spatial)
        core = Conv((1,) * n, ((0, 0),) * n, (1,) * n, t.shape[1])
        mean = _depthwise(b, x, core, t.shape[2:], grid, node.name)
        return mean if mean is None or op.keepdims else b(Reshape(node.type.shape), mean)
    rest = tuple(a for a in range(t.rank) if a not in op.axes)
    rows = b(Reshape((t.size // count, count)), b(Transpose((*rest, *op.axes)), x))
    weight = _weight(b, (count,), (count, 1), grid)
    return b(Reshape(node.type.shape), b(Matmul(), rows, weight, name=node.name))


def _depthwise(
    b: Builder, x: Value, core: Conv, kernel: tuple[int, ...], grid: Grid, name: str
) -> Value | None:
    if not _fits(math.prod(kernel)):
        return None
    return b(core, x, _weight(b, kernel, (core.groups, 1, *kernel), grid), name=name)


def _fits(count: int) -> bool:
    """Whether the shape rules take a sum of that many products of 8 bits."""
    return 0 < count * 255 * 255 < 2**31


def _weight(b: Builder, window: tuple[int, ...], shape: tuple[int, ...], grid: Grid) -> Value:
    integers, shift = shares(math.prod(window), int(grid.limits[1]))
    stored = integers.reshape(window).expand(shape) if len(shape) > 2 else integers.reshape(shape)
    literal = Literal(stored.contiguous().to(grid.dtype.torch), grid.dtype)
    return b(Dequantize(), b.constant(literal), b.scalar(2.0**-shift, DType.f32))


def shares(count: int, greatest: int) -> tuple[Tensor, int]:
    """Integers of at most `greatest`, as alike as can be, and s: `count` of them that add up to 2^s."""
    shift = (count - 1).bit_length()
    if 1 << shift != count:
        shift = (greatest * count).bit_length() - 1
        if -(-(1 << shift) // count) > greatest:
            shift -= 1
    edges = (torch.arange(count + 1) << shift) // count
    return edges.diff(), shift
