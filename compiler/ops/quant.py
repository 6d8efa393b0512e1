"""Quantization: conversions between real numbers and integers, and integer products.

A quantized tensor stands for (q - zero_point) * scale. Scales and zero points are scalars (per
tensor), vectors along `axis` (per channel), or, with `block` > 0, tensors of x's rank in which one
entry serves `block` elements of `axis`. Integer results are the same to the bit on every target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ir import Builder, Op, Value
from hardy.compiler.ops.activation import Clamp
from hardy.compiler.ops.elementwise import (
    Add,
    Cast,
    Div,
    Max,
    Min,
    Mul,
    Round,
    ShiftLeft,
    ShiftRight,
    Sub,
    wide,
)
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.rules import along, require, require_axis, require_dtype, require_float
from hardy.compiler.ops.shape import BroadcastTo, Reshape, Slice
from hardy.compiler.types import DType, TensorType

STORAGE = (
    DType.i8,
    DType.u8,
    DType.i16,
    DType.i4,
    DType.u4,
    DType.i32,
    DType.f8e4m3,
    DType.f8e5m2,
)


def _require_parameter(what: str, parameter: TensorType, x: TensorType, axis: int, block: int) -> None:
    if block:
        expected = list(x.shape)
        require_axis(axis, x.rank)
        expected[axis] = math.ceil(x.shape[axis] / block)
        require(parameter.shape == tuple(expected), f"{what} must have shape {expected}, got {parameter}")
    elif parameter.rank:
        require_axis(axis, x.rank)
        require(
            parameter.shape == (x.shape[axis],),
            f"{what} must be a scalar or have shape [{x.shape[axis]}] (axis {axis} of {x}), got {parameter}",
        )


def spread(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point in a shape that broadcasts with x."""
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return along(parameter, axis, x.ndim)


def _spread_graph(b: Builder, parameter: Value, x: TensorType, axis: int, block: int) -> Value:
    if block:
        shape = list(parameter.type.shape)
        split = (*shape[: axis + 1], 1, *shape[axis + 1 :])
        full = (*shape[: axis + 1], block, *shape[axis + 1 :])
        whole = (*shape[:axis], shape[axis] * block, *shape[axis + 1 :])
        spread = b(Reshape(whole), b(BroadcastTo(full), b(Reshape(split), parameter)))
        if whole == x.shape:
            return spread
        return b(Slice((0,) * x.rank, x.shape, (1,) * x.rank), spread)
    if parameter.type.rank == 0:
        return parameter
    shape = [1] * x.rank
    shape[axis] = x.shape[axis]
    return b(Reshape(tuple(shape)), parameter)


@dataclass(frozen=True)
class Quantize(Op):
    """saturate(round(x / scale) + zero_point), halves to even; f8 storage saturates and has no zero point."""

    dtype: DType
    axis: int = 0
    block: int = 0

    def infer(self, x: TensorType, scale: TensorType, zero_point: TensorType | None = None) -> TensorType:
        require_float("x", x)
        require_float("scale", scale)
        require(self.dtype in STORAGE, f"cannot quantize to {self.dtype}")
        _require_parameter("scale", scale, x, self.axis, self.block)
        if zero_point is not None:
            require(zero_point.dtype is self.dtype, f"zero_point must be {self.dtype}, got {zero_point}")
            _require_parameter("zero_point", zero_point, x, self.axis, self.block)
        return x.with_dtype(self.dtype)

    def reference(self, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        scaled = x.float() / spread(scale.float(), x, self.axis, self.block)
        if self.dtype.is_float:
            return Cast(self.dtype, saturate=True).reference(scaled)
        q = scaled.round()
        if zero_point is not None:
            q = q + spread(zero_point.float(), x, self.axis, self.block)
        low, high = self.dtype.range
        return q.double().clamp(low, high).to(self.dtype.torch)

    def decompose(self, b: Builder, x: Value, scale: Value, zero_point: Value | None = None) -> Value:
        f32 = Cast(DType.f32)
        scaled = b(Div(), b(f32, x), _spread_graph(b, b(f32, scale), x.type, self.axis, self.block))
        if self.dtype.is_float:
            return b(Cast(self.dtype, saturate=True), scaled)
        q = b(Round(), scaled)
        if zero_point is not None:
            q = b(Add(), q, _spread_graph(b, b(f32, zero_point), x.type, self.axis, self.block))
        wider = DType.f64 if self.dtype is DType.i32 else DType.f32
        low, high = self.dtype.range
        return b(Cast(self.dtype), b(Clamp(low, high), b(Cast(wider), q)))


@dataclass(frozen=True)
class Dequantize(Op):
    """(x - zero_point) * scale, in the float type of the scale.

    With blocks, the zero point may be of the scale's type, and then need not be whole: weights that
    are stored so need not have zero on their grid.
    """

    axis: int = 0
    block: int = 0

    def infer(self, x: TensorType, scale: TensorType, zero_point: TensorType | None = None) -> TensorType:
        require(x.dtype in STORAGE, f"cannot dequantize {x}")
        require_float("scale", scale)
        _require_parameter("scale", scale, x, self.axis, self.block)
        if zero_point is not None:
            real = self.block > 0 and zero_point.dtype is scale.dtype
            require(real or zero_point.dtype is x.dtype, f"zero_point must be {x.dtype}, got {zero_point}")
            _require_parameter("zero_point", zero_point, x, self.axis, self.block)
        return x.with_dtype(scale.dtype)

    def reference(self, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        real = x.is_floating_point() or (zero_point is not None and zero_point.is_floating_point())
        q = wide(x).float() if real else x.to(torch.int32)
        if zero_point is not None:
            q = q - spread(wide(zero_point).to(q.dtype), x, self.axis, self.block)
        return (q.float() * spread(scale.float(), x, self.axis, self.block)).to(scale.dtype)

    def decompose(self, b: Builder, x: Value, scale: Value, zero_point: Value | None = None) -> Value:
        f32 = Cast(DType.f32)
        q = x
        if zero_point is not None:
            real = x.type.dtype.is_float or zero_point.type.dtype.is_float
            wider = Cast(DType.f32 if real else DType.i32)
            q = b(Sub(), b(wider, x), _spread_graph(b, b(wider, zero_point), x.type, self.axis, self.block))
        scaled = b(Mul(), b(f32, q), _spread_graph(b, b(f32, scale), x.type, self.axis, self.block))
        return b(Cast(scale.type.dtype), scaled)


@dataclass(frozen=True)
class Requantize(Op):
    """An i32 accumulator to narrow integers: saturate(round(f32(x) * scale) + zero_point).

    f32(x) rounds to nearest even, then one f32 multiplication, halves to even, and the zero point
    is added in integers: what ONNX's QLinear ops and cvtps2dq do.
    """

    dtype: DType
    axis: int = 0

    def infer(self, x: TensorType, scale: TensorType, zero_point: TensorType) -> TensorType:
        require(x.dtype is DType.i32, f"x must be i32, got {x}")
        require(scale.dtype is DType.f32, f"scale must be f32, got {scale}")
        require(self.dtype in (DType.i8, DType.u8, DType.i4, DType.u4), f"cannot requantize to {self.dtype}")
        require(zero_point.dtype is self.dtype, f"zero_point must be {self.dtype}, got {zero_point}")
        for what, parameter in (("scale", scale), ("zero_point", zero_point)):
            _require_parameter(what, parameter, x, self.axis, 0)
        return x.with_dtype(self.dtype)

    def reference(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        low, high = self.dtype.range
        q = (x.float() * along(scale, self.axis, x.ndim)).round().double()
        q = q + along(zero_point, self.axis, x.ndim).double()
        return q.clamp(low, high).to(self.dtype.torch)

    def decompose(self, b: Builder, x: Value, scale: Value, zero_point: Value) -> Value:
        scale = _spread_graph(b, scale, x.type, self.axis, 0)
        zero = _spread_graph(b, b(Cast(DType.i32), zero_point), x.type, self.axis, 0)
        q = b(Round(), b(Mul(), b(Cast(DType.f32), x), scale))
        # Beyond +-2^20 every sum saturates; the clamp keeps the conversion to i32 defined.
        q = b(Add(), b(Cast(DType.i32), b(Clamp(-(2.0**20), 2.0**20), q)), zero)
        return b(Cast(self.dtype), b(Clamp(*self.dtype.range), q))


@dataclass(frozen=True)
class RequantizeShift(Op):
    """An i32 accumulator to narrow integers by a shift: saturate((x + 2^(shift - 1)) >> shift).

    Halves are rounded up. `shift` is an i32 scalar, or a vector along `axis`, of 0..31; the sum wraps
    in i32. A shift of 0 adds nothing: it saturates alone.
    """

    dtype: DType
    axis: int = 0

    def infer(self, x: TensorType, shift: TensorType) -> TensorType:
        require(
            x.dtype is DType.i32 and shift.dtype is DType.i32, f"x and shift must be i32, got {x}, {shift}"
        )
        require(self.dtype in (DType.i8, DType.u8, DType.i4, DType.u4), f"cannot requantize to {self.dtype}")
        _require_parameter("shift", shift, x, self.axis, 0)
        return x.with_dtype(self.dtype)

    def reference(self, x: Tensor, shift: Tensor) -> Tensor:
        half = torch.where(shift > 0, 1 << (shift - 1).clamp(min=0), 0).to(torch.int32)
        half, shift = along(half, self.axis, x.ndim), along(shift, self.axis, x.ndim)
        low, high = self.dtype.range
        return ((x + half) >> shift).clamp(low, high).to(self.dtype.torch)

    def decompose(self, b: Builder, x: Value, shift: Value) -> Value:
        one = b.scalar(1, DType.i32)
        zero = b.scalar(0, DType.i32)
        # 0 << 0 where nothing is shifted, else 1 << (shift - 1).
        half = b(ShiftLeft(), b(Min(), shift, one), b(Max(), b(Sub(), shift, one), zero))
        total = b(Add(), x, _spread_graph(b, half, x.type, self.axis, 0))
        shifted = b(ShiftRight(), total, _spread_graph(b, shift, x.type, self.axis, 0))
        return b(Cast(self.dtype), b(Clamp(*self.dtype.range), shifted))


def _require_narrow(what: str, t: TensorType) -> None:
    narrow = (DType.i8, DType.u8, DType.i4, DType.u4)
    require_dtype(what, t, lambda d: d in narrow, "i8, u8, i4 or u4")


def _require_no_overflow(length: int, *types: TensorType) -> None:
    """The largest sum of products, zero points included, must fit i32."""
    spans = [t.dtype.range[1] - t.dtype.range[0] for t in types]
    require(
        length * math.prod(spans) < 2**31,
        f"a sum of {length} products of {types[0]} and {types[1]} may overflow",
    )


def _centred(b: Builder, x: Value, zero_point: Value | None, axis: int) -> Value:
    wider = b(Cast(DType.i32), x)
    if zero_point is None:
        return wider
    return b(Sub(), wider, _spread_graph(b, b(Cast(DType.i32), zero_point), x.type, axis, 0))


@dataclass(frozen=True)
class IntegerMatmul(Op):
    """(a - a_zero) (b - b_zero) over narrow integers, summed in i32; leading axes broadcast.

    a_zero is a scalar or one entry a row of a (its second last axis); b_zero a scalar or one entry
    a column of the result. With `transpose_b`, b is [..., n, k].
    """

    transpose_b: bool = False

    def infer(
        self, a: TensorType, b: TensorType, a_zero: TensorType | None = None, b_zero: TensorType | None = None
    ) -> TensorType:
        _require_narrow("a", a)
        _require_narrow("b", b)
        t = Matmul(transpose_b=self.transpose_b).infer(a.with_dtype(DType.i32), b.with_dtype(DType.i32))
        _require_no_overflow(a.shape[-1], a, b)
        if a_zero is not None:
            require(a_zero.dtype is a.dtype, f"a_zero must be {a.dtype}, got {a_zero}")
            _require_parameter("a_zero", a_zero, a, a.rank - 2, 0)
        if b_zero is not None:
            require(b_zero.dtype is b.dtype, f"b_zero must be {b.dtype}, got {b_zero}")
            _require_parameter("b_zero", b_zero, b, self._columns(b.rank), 0)
        return t

    def _columns(self, rank: int) -> int:
        return rank - 2 if self.transpose_b else rank - 1

    def reference(
        self, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
    ) -> Tensor:
        # f64 is exact here (sums stay below 2^31) and much faster than torch's integer product.
        a, b = a.double(), b.double()
        if a_zero is not None:
            a = a - along(a_zero.double(), a.ndim - 2, a.ndim)
        if b_zero is not None:
            b = b - along(b_zero.double(), self._columns(b.ndim), b.ndim)
        return (a @ (b.mT if self.transpose_b else b)).to(torch.int32)

    def decompose(
        self, b: Builder, a: Value, w: Value, a_zero: Value | None = None, b_zero: Value | None = None
    ) -> Value:
        left = _centred(b, a, a_zero, a.type.rank - 2)
        right = _centred(b, w, b_zero, self._columns(w.type.rank))
        return b(Matmul(transpose_b=self.transpose_b), left, right)

    def macs(self, a: TensorType, b: TensorType, *rest: TensorType) -> int:
        i32 = DType.i32
        return Matmul(transpose_b=self.transpose_b).macs(a.with_dtype(i32), b.with_dtype(i32))


@dataclass(frozen=True)
class IntegerConv(Op):
    """Convolution of x - x_zero with weight - weight_zero over narrow integers, summed in i32.

    Shapes and attributes as in `conv`. Padding stands for real zeros, so x_zero pads. x_zero is a
    scalar; weight_zero a scalar or one entry an output channel.
    """

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]
    groups: int = 1
    layout: str = "channels_first"

    def _conv(self) -> Conv:
        return Conv(self.strides, self.padding, self.dilations, self.groups, self.layout)

    def infer(
        self,
        x: TensorType,
        weight: TensorType,
        x_zero: TensorType | None = None,
        weight_zero: TensorType | None = None,
    ) -> TensorType:
        _require_narrow("x", x)
        _require_narrow("weight", weight)
        t = self._conv().infer(x.with_dtype(DType.i32), weight.with_dtype(DType.i32))
        _require_no_overflow(math.prod(weight.shape[1:]), x, weight)
        if x_zero is not None:
            require(x_zero == TensorType(x.dtype, ()), f"x_zero must be {x.dtype}[], got {x_zero}")
        if weight_zero is not None:
            require(
                weight_zero.dtype is weight.dtype, f"weight_zero must be {weight.dtype}, got {weight_zero}"
            )
            _require_parameter("weight_zero", weight_zero, weight, 0, 0)
        return t

    def reference(
        self, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, weight_zero: Tensor | None = None
    ) -> Tensor:
        x, weight = x.double(), weight.double()
        if x_zero is not None:
            x = x - x_zero.double()
        if weight_zero is not None:
            weight = weight - along(weight_zero.double(), 0, weight.ndim)
        return self._conv().reference(x, weight).to(torch.int32)

    def decompose(
        self,
        b: Builder,
        x: Value,
        weight: Value,
        x_zero: Value | None = None,
        weight_zero: Value | None = None,
    ) -> Value:
        centred = _centred(b, x, x_zero, 0)
        return b(self._conv(), centred, _centred(b, weight, weight_zero, 0))

    def macs(self, x: TensorType, weight: TensorType, *rest: TensorType) -> int:
        return self._conv().macs(x.with_dtype(DType.i32), weight.with_dtype(DType.i32))


@dataclass(frozen=True)
class DequantizeMatmul(Op):
    """The product of x [..., m, k] with a weight that is stored as integers, [k, n] or [n, k].

    The weight, its scale and its zero point are as in `dequantize` with this `axis` and `block`; the
    result is `matmul` with what that gives.
    """

    transpose_b: bool = False
    axis: int = 0
    block: int = 0

    @property
    def _weight(self) -> Dequantize:
        return Dequantize(self.axis, self.block)

    @property
    def _product(self) -> Matmul:
        return Matmul(transpose_b=self.transpose_b)

    def infer(
        self, x: TensorType, weight: TensorType, scale: TensorType, zero_point: TensorType | None = None
    ) -> TensorType:
        require(weight.rank == 2, f"the weight must have two axes, got {weight}")
        given = (weight, scale) if zero_point is None else (weight, scale, zero_point)
        return self._product.infer(x, self._weight.infer(*given))

    def reference(self, x: Tensor, weight: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        return self._product.reference(x, self._weight.reference(weight, scale, zero_point))

    def decompose(
        self, b: Builder, x: Value, weight: Value, scale: Value, zero_point: Value | None = None
    ) -> Value:
        given = (weight, scale) if zero_point is None else (weight, scale, zero_point)
        return b(self._product, x, b(self._weight, *given))

    def macs(self, x: TensorType, weight: TensorType, *rest: TensorType) -> int:
        return self._product.macs(x, weight.with_dtype(x.dtype))
