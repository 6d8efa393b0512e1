"""One fused layer for VTA as numbers and arrays, and what it computes, to the bit.

Everything the accelerator runs is one form: a convolution (dense layers, pools and additions are special
cases), plus a bias, plus other tensors shifted left, then a max pool, then a rounding shift and a clamp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hardy.compiler.errors import TargetError

Array = np.ndarray[Any, Any]
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Shape = tuple[int, int, int, int]

MAX_SHIFT = 31
BYTES = 4  # of an i32
NO_PADS: Pads = ((0, 0), (0, 0))


@dataclass(frozen=True)
class MaxPool:
    """A max pool over the accumulators: window, stride and padding (before and after) of rows and columns."""

    kernel: Pair
    stride: Pair
    padding: Pads = NO_PADS


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution with what is fused behind it.

        total = convolution(x, weights) + bias + sum(residual << k)        i32, wrapping
        y     = clamp((maxpool(total) + 2^(shift-1)) >> shift, low, high)  i8

    `shape` is the input's (batch, channels, rows, columns); `weights` i8[outputs, channels / groups, rows,
    columns]; `bias` i32[outputs] or None; `residuals` the left shift of each further i8 input, one number or
    i32[outputs], where the input has the shape of the convolution's result; `shift` 0..31, one number or
    i32[outputs]; a shift of 0 adds nothing. A `wide` layer gives its totals, i32, without shift, limits or
    pool. Paddings are (before, after) of rows and of columns, and add zeros (the max pool's add nothing).
    Raises TargetError for a layer that is none.
    """

    name: str
    shape: Shape
    weights: Array
    bias: Array | None = None
    stride: Pair = (1, 1)
    padding: Pads = NO_PADS
    dilation: Pair = (1, 1)
    groups: int = 1
    residuals: tuple[int | Array, ...] = ()
    pool: MaxPool | None = None
    shift: int | Array = 0
    low: int = -128
    high: int = 127
    wide: bool = False

    def __post_init__(self) -> None:
        outputs, per_group = self.weights.shape[:2] if self.weights.ndim == 4 else (0, 0)
        shifts = np.asarray(self.shift)
        for holds, what in (
            (
                self.weights.dtype == np.int8 and outputs > 0,
                "weights are i8[outputs, channels, rows, columns]",
            ),
            (per_group * self.groups == self.shape[1], "the weights' channels times groups are the input's"),
            (outputs % self.groups == 0, "groups divide the outputs"),
            (
                self.bias is None or (self.bias.dtype == np.int32 and self.bias.shape == (outputs,)),
                "the bias is i32[outputs]",
            ),
            (shifts.shape in ((), (outputs,)), "the shift is one number or one an output"),
            (bool(np.all((shifts >= 0) & (shifts <= MAX_SHIFT))), f"shifts are 0..{MAX_SHIFT}"),
            (
                all(k.shape in ((), (outputs,)) for k in map(np.asarray, self.residuals)),
                "residual shifts are one number or one an output",
            ),
            (
                all(bool(np.all((k >= 0) & (k <= MAX_SHIFT))) for k in map(np.asarray, self.residuals)),
                f"residual shifts are 0..{MAX_SHIFT}",
            ),
            (-128 <= self.low <= self.high <= 127, "limits are -128 <= low <= high <= 127"),
            (
                not self.wide
                or (self.pool is None and not np.any(shifts) and (self.low, self.high) == (-128, 127)),
                "a wide layer has no pool, shift or limits",
            ),
            (min(self.stride + self.dilation) > 0, "strides and dilations are positive"),
            (min(self.padding[0] + self.padding[1]) >= 0, "paddings are not negative"),
        ):
            if not holds:
                raise TargetError(f"{what}; got {self.shape}, {self.weights.shape}", where=self.name)
        if min(self.conv_shape) < 1 or min(self.out_shape) < 1:
            raise TargetError(f"the result has no elements: {self}", where=self.name)

    def __str__(self) -> str:
        parts = [
            f"{'x'.join(map(str, self.shape))} -> {'x'.join(map(str, self.out_shape))}",
            f"kernel {self.kernel[0]}x{self.kernel[1]}",
            f"stride {self.stride[0]}x{self.stride[1]}",
        ]
        if self.groups > 1:
            parts.append(f"groups {self.groups}")
        if self.residuals:
            parts.append(f"residuals << {', '.join(str(np.max(k)) for k in self.residuals)}")
        if self.pool:
            parts.append(f"max pool {self.pool.kernel[0]}x{self.pool.kernel[1]}")
        return ", ".join(parts)

    @property
    def outputs(self) -> int:
        return int(self.weights.shape[0])

    @property
    def kernel(self) -> Pair:
        return int(self.weights.shape[2]), int(self.weights.shape[3])

    @cached_property
    def conv_shape(self) -> Shape:
        """The shape of the convolution's result, before a pool."""
        rows, columns = (
            _windows(size, k, s, p, d)
            for size, k, s, p, d in zip(
                self.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return self.shape[0], self.outputs, rows, columns

    @cached_property
    def out_shape(self) -> Shape:
        """The shape of the layer's result."""
        if self.pool is None:
            return self.conv_shape
        n, c, *sizes = self.conv_shape
        rows, columns = (
            _windows(size, k, s, p)
            for size, k, s, p in zip(
                sizes, self.pool.kernel, self.pool.stride, self.pool.padding, strict=True
            )
        )
        return n, c, rows, columns

    @property
    def stored_shape(self) -> Shape:
        """The shape of what is stored, in i8: the result, or the four bytes of its i32, the lowest first, as
        pictures one below the other."""
        n, c, rows, columns = self.out_shape
        return n, c, BYTES * rows if self.wide else rows, columns

    @property
    def macs(self) -> int:
        """Multiply-accumulates, as networks are counted: padding included."""
        return int(np.prod(self.conv_shape)) * int(np.prod(self.weights.shape[1:]))

    @property
    def shifts(self) -> Array:
        """The right shift of each output: i32[outputs]."""
        return np.broadcast_to(np.asarray(self.shift, np.int32), (self.outputs,))


def _windows(size: int, kernel: int, stride: int, padding: Pair, dilation: int = 1) -> int:
    return (size + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1


def dense(name: str, rows: int, weights: Array, **rest: Any) -> Layer:
    """A product of i8[rows, inputs] with i8[outputs, inputs] transposed, as a 1x1 convolution.

    The rows of a matrix are the rows of a picture one column wide, so that weights are shared among them.
    """
    return Layer(name, (1, weights.shape[1], rows, 1), weights[:, :, None, None], **rest)


def _diagonal(channels: int, kernel: Pair, value: int) -> Array:
    return np.full((channels, 1, *kernel), value, np.int8)


def max_pool(name: str, shape: Shape, pool: MaxPool, **rest: Any) -> Layer:
    """A max pool of i8 alone."""
    weights = _diagonal(shape[1], (1, 1), 1)
    return Layer(name, shape, weights, groups=shape[1], pool=pool, **rest)


def average_pool(
    name: str,
    shape: Shape,
    kernel: Pair,
    stride: Pair,
    multiplier: int,
    shift: int,
    padding: Pads = NO_PADS,
    **rest: Any,
) -> Layer:
    """An average pool whose division is `multiplier` (at most 127) over a power of two; zeros count."""
    weights = _diagonal(shape[1], kernel, multiplier)
    return Layer(name, shape, weights, groups=shape[1], stride=stride, padding=padding, shift=shift, **rest)


def add(name: str, shape: Shape, left: int, right: int, **rest: Any) -> Layer:
    """The sum of two i8 tensors, each shifted left by its number (`left` is at most 6)."""
    if not 0 <= left <= 6:
        raise TargetError(
            f"the first operand's left shift is 0..6, got {left}", where=name, hint="swap the operands"
        )
    weights = _diagonal(shape[1], (1, 1), 1 << left)
    return Layer(name, shape, weights, groups=shape[1], residuals=(right,), **rest)


def reference(layer: Layer, inputs: Sequence[Array]) -> Array:
    """What the layer gives: i8 of `out_shape`, or i32 where it is wide, from its i8 input and its residuals,
    in order."""
    x, *residuals = inputs
    if x.shape != layer.shape or len(residuals) != len(layer.residuals):
        raise TargetError(
            f"the layer takes an input {layer.shape} and {len(layer.residuals)} residuals, got "
            f"{[i.shape for i in inputs]}",
            where=layer.name,
        )
    total = _convolution(layer, x)
    if layer.bias is not None:
        total += layer.bias[:, None, None]
    for k, residual in zip(layer.residuals, residuals, strict=True):
        total += residual.astype(np.int64) << np.asarray(k, np.int64).reshape(-1, 1, 1)
    total = total.astype(np.int32)
    if layer.wide:
        return np.asarray(total)
    if layer.pool is not None:
        total = _max_pool(total, layer.pool, layer.out_shape)
    shifts = layer.shifts[:, None, None].astype(np.int64)
    half = np.where(shifts > 0, 1 << np.maximum(shifts - 1, 0), 0)
    rounded = (total.astype(np.int64) + half).astype(np.int32)
    return np.asarray(np.clip(rounded >> shifts, layer.low, layer.high), np.int8)


def _convolution(layer: Layer, x: Array) -> Array:
    """The sums of products as i64. Products go through f64, which holds every such sum exactly."""
    n, _, rows, columns = layer.conv_shape
    g, (sy, sx), (dy, dx) = layer.groups, layer.stride, layer.dilation
    padded = np.pad(x, ((0, 0), (0, 0), *layer.padding)).astype(np.float64)
    padded = padded.reshape(n, g, -1, *padded.shape[2:])
    weights = layer.weights.reshape(g, layer.outputs // g, -1, *layer.kernel).astype(np.float64)
    total = np.zeros((n, g, layer.outputs // g, rows, columns))
    for ky in range(layer.kernel[0]):
        for kx in range(layer.kernel[1]):
            top, left = ky * dy, kx * dx
            window = padded[:, :, :, top : top + sy * rows : sy, left : left + sx * columns : sx]
            window = window[:, :, :, :rows, :columns]
            total += np.einsum("goc,ngcyx->ngoyx", weights[..., ky, kx], window, optimize=True)
    return total.reshape(layer.conv_shape).astype(np.int64)


def _max_pool(x: Array, pool: MaxPool, shape: Shape) -> Array:
    lowest = np.iinfo(np.int32).min
    padded = np.pad(x, ((0, 0), (0, 0), *pool.padding), constant_values=lowest)
    result = np.full(shape, lowest, np.int32)
    rows, columns = shape[2:]
    for ky in range(pool.kernel[0]):
        for kx in range(pool.kernel[1]):
            window = padded[:, :, ky :: pool.stride[0], kx :: pool.stride[1]]
            np.maximum(result, window[:, :, :rows, :columns], out=result)
    return result


def from_bytes(stored: Array) -> Array:
    """The i32[n, c, rows, columns] of a wide layer from what it stored: i8[n, c, 4 rows, columns]."""
    n, c, rows, columns = stored.shape
    planes = stored.reshape(n, c, BYTES, rows // BYTES, columns).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(planes).view("<i4")[..., 0].copy()
