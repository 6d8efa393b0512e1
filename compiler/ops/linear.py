"""Core ops that multiply and accumulate: matrix product and convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hardy.compiler.ir import Op
from hardy.compiler.ops.rules import require, require_dtype, same_dtype, sized
from hardy.compiler.types import DType, TensorType, broadcast_shapes

LAYOUTS = ("channels_first", "channels_last")


def is_arithmetic(dtype: DType) -> bool:
    """Types that matmul and conv multiply as they are; narrow integers go through their own ops."""
    return dtype in (DType.f64, DType.f32, DType.f16, DType.bf16, DType.i32, DType.i64)


@dataclass(frozen=True)
class Matmul(Op):
    """Matrix product over the last two axes; leading axes broadcast. Integers wrap.

    a: [..., m, k] ([..., k, m] with `transpose_a`); b: [..., k, n] ([..., n, k] with `transpose_b`).
    """

    transpose_a: bool = False
    transpose_b: bool = False

    def _sizes(self, a: TensorType, b: TensorType) -> tuple[int, int, int]:
        m, ka = a.shape[-2:][:: -1 if self.transpose_a else 1]
        kb, n = b.shape[-2:][:: -1 if self.transpose_b else 1]
        require(ka == kb, f"inner sizes differ: {a} gives {ka}, {b} gives {kb}")
        return m, ka, n

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        require(a.rank >= 2 and b.rank >= 2, f"operands need at least two axes, got {a} and {b}")
        dtype = same_dtype(a, b)
        require_dtype("an operand", a, is_arithmetic, "f64, f32, f16, bf16, i32 or i64")
        m, _, n = self._sizes(a, b)
        return sized(dtype, broadcast_shapes(a.shape[:-2], b.shape[:-2]) + (m, n))

    def reference(self, a: Tensor, b: Tensor) -> Tensor:
        a = a.mT if self.transpose_a else a
        b = b.mT if self.transpose_b else b
        return a @ b

    def macs(self, a: TensorType, b: TensorType) -> int:
        return self.infer(a, b).size * self._sizes(a, b)[1]


@dataclass(frozen=True)
class Conv(Op):
    """Cross-correlation with one, two or three spatial axes. Integers wrap.

    x: [batch, channels, *spatial], or with layout channels_last [batch, *spatial, channels];
    weight: [out, channels / groups, *kernel] in either layout; bias: [out].
    `padding` holds (before, after) for each spatial axis, in elements; zeros are padded.
    """

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]
    groups: int = 1
    layout: str = "channels_first"

    def infer(self, x: TensorType, weight: TensorType, bias: TensorType | None = None) -> TensorType:
        require_dtype("an operand", x, is_arithmetic, "f64, f32, f16, bf16, i32 or i64")
        same_dtype(x, weight)
        require(self.layout in LAYOUTS, f"layout {self.layout!r} is not one of {LAYOUTS}")
        require(
            x.rank >= 3 and weight.rank == x.rank, f"{x} and weight {weight} must have equal rank, at least 3"
        )
        channels, spatial = split_layout(x.shape, self.layout)
        out = weight.shape[0]
        require(
            self.groups >= 1 and out % self.groups == 0, f"{self.groups} groups do not divide {out} outputs"
        )
        require(
            channels == weight.shape[1] * self.groups,
            f"x has {channels} channels, weight {weight} with {self.groups} groups "
            f"takes {weight.shape[1] * self.groups}",
        )
        if bias is not None:
            require(bias == TensorType(x.dtype, (out,)), f"bias must be {x.dtype}[{out}], got {bias}")
        window = window_shape(spatial, weight.shape[2:], self.strides, self.padding, self.dilations)
        return sized(x.dtype, join_layout(x.shape[0], out, window, self.layout))

    def reference(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not x.is_floating_point():
            return self._integer(x, weight, bias)
        x = channels_first(x, self.layout)
        low_high = [p for pair in reversed(self.padding) for p in pair]
        x = F.pad(x, low_high) if any(low_high) else x
        conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[x.ndim - 2]
        y = conv(x, weight, bias, self.strides, 0, self.dilations, self.groups)
        return back_to(y, self.layout)

    def _integer(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Exact: f64 holds sums of products of 16-bit halves, and the halves recombine with wrapping."""
        total = torch.zeros((), dtype=torch.int64)
        for i, low in enumerate(_digits(x)):
            for j, high in enumerate(_digits(weight)):
                if 16 * (i + j) < 64:
                    part = self.reference(low, high)
                    total = total + (part.to(torch.int64) << (16 * (i + j)))
        if bias is not None:
            axis = 1 if self.layout == "channels_first" else total.ndim - 1
            total = total + bias.to(torch.int64).reshape([-1 if k == axis else 1 for k in range(total.ndim)])
        return total.to(x.dtype)

    def macs(self, x: TensorType, weight: TensorType, bias: TensorType | None = None) -> int:
        return self.infer(x, weight).size * math.prod(weight.shape[1:])


def _digits(x: Tensor) -> list[Tensor]:
    """Base 2^16 digits of integers, lowest first, as f64; the top digit carries the sign."""
    count = x.element_size() // 2
    digits = [(x.to(torch.int64) >> (16 * i)) & 0xFFFF for i in range(count - 1)]
    return [d.double() for d in (*digits, x.to(torch.int64) >> (16 * (count - 1)))]


def split_layout(shape: tuple[int, ...], layout: str) -> tuple[int, tuple[int, ...]]:
    """Channels and spatial sizes of an activation."""
    return (shape[1], shape[2:]) if layout == "channels_first" else (shape[-1], shape[1:-1])


def join_layout(batch: int, channels: int, spatial: tuple[int, ...], layout: str) -> tuple[int, ...]:
    return (batch, channels, *spatial) if layout == "channels_first" else (batch, *spatial, channels)


def channels_first(x: Tensor, layout: str) -> Tensor:
    return x if layout == "channels_first" else x.movedim(-1, 1)


def back_to(y: Tensor, layout: str) -> Tensor:
    """Undo `channels_first`."""
    return y if layout == "channels_first" else y.movedim(1, -1)


def window_shape(
    spatial: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
) -> tuple[int, ...]:
    """Number of window positions on each spatial axis."""
    lengths = {len(spatial), len(kernel), len(strides), len(padding), len(dilations)}
    require(len(lengths) == 1, f"kernel, strides, padding and dilations must have {len(spatial)} entries")
    require(min(*strides, *dilations, *kernel, 1) >= 1, "kernel, strides and dilations must be positive")
    require(all(min(p) >= 0 for p in padding), "padding must not be negative")
    result = []
    for n, k, s, (low, high), d in zip(spatial, kernel, strides, padding, dilations, strict=True):
        extent = d * (k - 1) + 1
        require(
            n + low + high >= extent,
            f"a window of {extent} is larger than its padded axis of {n + low + high}",
        )
        result.append((n + low + high - extent) // s + 1)
    return tuple(result)
