"""Binary networks: tensors of +1 and -1, their packed bits, and products of these.

A packed tensor holds eight elements of its last axis in a byte, the first in the lowest bit; a set
bit stands for +1, a clear one for -1. The bits of the last byte that stand for nothing are clear.
Where two packed vectors differ in d of their bits, the product of n elements is n - 2 d: a
convolution is an exclusive or and a population count (Rastegari et al., 2016, arXiv:1603.05279).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ir import Builder, Op, Value
from hardy.compiler.ops.elementwise import (
    Abs,
    And,
    Cast,
    FloatUnary,
    Less,
    LessEqual,
    Mul,
    ShiftLeft,
    ShiftRight,
    Sign,
    Sub,
    Where,
)
from hardy.compiler.ops.linear import Conv, Matmul, window_shape
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.rules import broadcast, require, require_dtype, require_float, sized
from hardy.compiler.ops.shape import Pad, Reshape, Transpose
from hardy.compiler.types import DType, TensorType, broadcast_shapes

# Sums up to here are whole numbers in f32, in which products are decomposed.
MOST = 2**24


@dataclass(frozen=True)
class Binarize(FloatUnary):
    """1 where x >= 0, else -1 (for NaN too): a sign that is never zero."""

    def reference(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    def decompose(self, b: Builder, x: Value) -> Value:
        zero, one, minus = (b.scalar(v, x.type.dtype) for v in (0, 1, -1))
        return b(Where(), b(LessEqual(), zero, x), one, minus)


@dataclass(frozen=True)
class Ternarize(Op):
    """The sign of x where |x| > threshold, else 0 (for NaN too); threshold broadcasts to the shape of x."""

    def infer(self, x: TensorType, threshold: TensorType) -> TensorType:
        require_float("x", x, threshold)
        t = broadcast(x, threshold)
        require(t == x, f"threshold {threshold} does not broadcast to {x}")
        return t

    def reference(self, x: Tensor, threshold: Tensor) -> Tensor:
        return torch.where(x.abs() > threshold, x.sign(), 0.0).to(x.dtype)

    def decompose(self, b: Builder, x: Value, threshold: Value) -> Value:
        above = b(Less(), threshold, b(Abs(), x))
        return b(Where(), above, b(Sign(), x), b.scalar(0, x.type.dtype))


def packed(length: int) -> int:
    """Bytes of so many packed elements."""
    return -(-length // 8)


def pack(positive: Tensor) -> Tensor:
    """The packed bits [..., ceil(n / 8)] in u8 of booleans [..., n]."""
    bits = positive.to(torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -bits.shape[-1] % 8))
    places = torch.arange(8, dtype=torch.uint8)
    split = bits.reshape(*bits.shape[:-1], bits.shape[-1] // 8, 8)
    return (split << places).sum(-1, dtype=torch.uint8)


def signs(bits: Tensor) -> Tensor:
    """f32 +1 and -1 [..., 8 bytes] of packed bits [..., bytes], those that stand for nothing included."""
    each = (bits[..., None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return each.flatten(-2).float() * 2 - 1


def _signs_graph(b: Builder, bits: Value) -> Value:
    *outer, count = bits.type.shape
    places = b.constant(torch.arange(8, dtype=torch.uint8))
    shifted = b(ShiftRight(), b(Reshape((*outer, count, 1)), bits), places)
    each = b(Reshape((*outer, 8 * count)), b(And(), shifted, b.scalar(1, DType.u8)))
    twice = b(Mul(), b(Cast(DType.f32), each), b.scalar(2, DType.f32))
    return b(Sub(), twice, b.scalar(1, DType.f32))


@dataclass(frozen=True)
class PackBits(Op):
    """The packed bits [..., ceil(n / 8)] of x [..., n]: set where x >= threshold, clear for NaN.

    threshold has one element, or one for each of the last axis of x; zero where it is left out.
    """

    def infer(self, x: TensorType, threshold: TensorType | None = None) -> TensorType:
        require(x.rank >= 1, f"x must have an axis, got {x}")
        require_dtype("x", x, lambda d: d.is_float or d is DType.i32, "a float or i32 tensor")
        if threshold is not None:
            require(
                threshold.dtype is x.dtype and threshold.shape in ((), x.shape[-1:]),
                f"threshold must be {x.dtype}[] or {x.dtype}[{x.shape[-1]}], got {threshold}",
            )
        return sized(DType.u8, (*x.shape[:-1], packed(x.shape[-1])))

    def reference(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
        return pack(x >= (0 if threshold is None else threshold))

    def decompose(self, b: Builder, x: Value, threshold: Value | None = None) -> Value:
        *outer, n = x.type.shape
        least = b.scalar(0, x.type.dtype) if threshold is None else threshold
        bits = b(Cast(DType.u8), b(LessEqual(), least, x))
        low = (0,) * x.type.rank
        bits = b(Pad(low, (*low[1:], -n % 8)), bits)
        split = b(Reshape((*outer, packed(n), 8)), bits)
        shifted = b(ShiftLeft(), split, b.constant(torch.arange(8, dtype=torch.uint8)))
        return b(ReduceSum((x.type.rank,), False), shifted)


def _require_packed(what: str, t: TensorType, length: int, attribute: str) -> None:
    require(length >= 1, f"{attribute} must be at least 1, got {length}")
    require(t.dtype is DType.u8, f"{what} must be u8, got {t}")
    require(
        t.shape[-1] == packed(length),
        f"{length} packed elements take {packed(length)} bytes, not the last axis of {what} {t}",
    )


def _require_exact(length: int) -> None:
    require(length < MOST, f"a sum of {length} products is above {MOST - 1}")


@dataclass(frozen=True)
class BinaryMatmul(Op):
    """Products of rows of +1 and -1, packed: length - 2 popcount(a[..., m, :] ^ b[..., n, :]), in i32.

    a: [..., m, bytes]; b: [..., n, bytes], as Matmul takes it with `transpose_b`; leading axes
    broadcast. A row has `length` elements in bytes = ceil(length / 8).
    """

    length: int

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        require(a.rank >= 2 and b.rank >= 2, f"operands need at least two axes, got {a} and {b}")
        _require_packed("a", a, self.length, "length")
        _require_packed("b", b, self.length, "length")
        _require_exact(8 * a.shape[-1])
        outer = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return sized(DType.i32, (*outer, a.shape[-2], b.shape[-2]))

    def reference(self, a: Tensor, b: Tensor) -> Tensor:
        surplus = 8 * a.shape[-1] - self.length
        return (signs(a) @ signs(b).mT).to(torch.int32) - surplus

    def decompose(self, b: Builder, x: Value, w: Value) -> Value:
        product = b(Matmul(transpose_b=True), _signs_graph(b, x), _signs_graph(b, w))
        surplus = 8 * x.type.shape[-1] - self.length
        y = b(Cast(DType.i32), product)
        return b(Sub(), y, b.scalar(surplus, DType.i32)) if surplus else y

    def macs(self, a: TensorType, b: TensorType) -> int:
        return self.infer(a, b).size * self.length


@dataclass(frozen=True)
class BinaryConv(Op):
    """Cross-correlation of packed tensors of +1 and -1, in i32: what Conv gives for them, padded with zeros.

    x: [batch, *spatial, bytes]; weight: [out, *kernel, bytes]; result [batch, *spatial, out]. Each tap
    inside the image adds channels - 2 popcount(x ^ weight), each tap outside nothing. A pixel has
    `channels` elements in bytes = ceil(channels / 8). One, two or three spatial axes.
    """

    channels: int
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]

    def infer(self, x: TensorType, weight: TensorType) -> TensorType:
        require(
            3 <= x.rank <= 5 and weight.rank == x.rank,
            f"{x} and weight {weight} must have equal rank, 3 to 5",
        )
        _require_packed("x", x, self.channels, "channels")
        _require_packed("weight", weight, self.channels, "channels")
        _require_exact(8 * math.prod(weight.shape[1:]))
        window = window_shape(x.shape[1:-1], weight.shape[1:-1], self.strides, self.padding, self.dilations)
        return sized(DType.i32, (x.shape[0], *window, weight.shape[0]))

    def _conv(self) -> Conv:
        return Conv(self.strides, self.padding, self.dilations, layout="channels_last")

    def _surplus(self, spatial: tuple[int, ...], kernel: tuple[int, ...], bytes: int) -> Tensor:
        """What bits that stand for nothing add to each output pixel: [1, *spatial, 1]."""
        taps = self._conv().reference(torch.ones(1, *spatial, 1), torch.ones(1, 1, *kernel))
        return (taps * (8 * bytes - self.channels)).to(torch.int32)

    def reference(self, x: Tensor, weight: Tensor) -> Tensor:
        y = self._conv().reference(signs(x), signs(weight).movedim(-1, 1)).to(torch.int32)
        return y - self._surplus(x.shape[1:-1], weight.shape[1:-1], x.shape[-1])

    def decompose(self, b: Builder, x: Value, weight: Value) -> Value:
        rank = x.type.rank
        w = b(Transpose((0, rank - 1, *range(1, rank - 1))), _signs_graph(b, weight))
        y = b(Cast(DType.i32), b(self._conv(), _signs_graph(b, x), w))
        if self.channels % 8 == 0:
            return y
        surplus = self._surplus(x.type.shape[1:-1], weight.type.shape[1:-1], x.type.shape[-1])
        return b(Sub(), y, b.constant(surplus))

    def macs(self, x: TensorType, weight: TensorType) -> int:
        return self.infer(x, weight).size * math.prod(weight.shape[1:-1]) * self.channels
