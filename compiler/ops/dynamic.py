"""Quantization of what is known at run time only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ir import Builder, Op, Value
from hardy.compiler.ops.activation import Clamp
from hardy.compiler.ops.elementwise import Cast, Div, Equal, Max, Min, Neg, Round, Sub, Where
from hardy.compiler.ops.quant import Quantize
from hardy.compiler.ops.reduce import ReduceMax, ReduceMin
from hardy.compiler.ops.rules import require, require_dtype
from hardy.compiler.ops.shape import BroadcastTo
from hardy.compiler.types import DType, TensorType


@dataclass(frozen=True)
class DynamicQuantize(Op):
    """x as integers by its own range, with the scale and zero point: (q, scale, zero_point).

    The range is from min(x, 0) to max(x, 0), so that 0 is exact; a range of nothing but 0 has scale 1.
    Where `symmetric`, the zero point is 0 and the scale the greatest magnitude divided by the greatest
    integer. With `rows`, x is a matrix and every row has its own. Rounding and saturation as in
    `quantize`; per tensor this is ONNX's DynamicQuantizeLinear.
    """

    dtype: DType
    rows: bool = False
    symmetric: bool = False

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType, TensorType]:
        require_dtype("x", x, lambda d: d is DType.f32, "f32")
        require(self.dtype in (DType.i8, DType.u8), f"cannot quantize to {self.dtype} at run time")
        require(not self.rows or x.rank == 2, f"rows of a matrix are quantized, got {x}")
        require(x.size > 0, f"an empty tensor has no range: {x}")
        require(not self.symmetric or self.dtype is DType.i8, f"{self.dtype} cannot be symmetric")
        shape = (x.shape[0],) if self.rows else ()
        return x.with_dtype(self.dtype), TensorType(DType.f32, shape), TensorType(self.dtype, shape)

    def reference(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        axes = (1,) if self.rows else tuple(range(x.ndim))
        nothing = torch.zeros((), dtype=x.dtype)
        low = torch.minimum(x.amin(axes), nothing)
        high = torch.maximum(x.amax(axes), nothing)
        least, greatest = self.dtype.range
        span = torch.maximum(-low, high) if self.symmetric else high - low
        scale = span / float(greatest if self.symmetric else greatest - least)
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = torch.zeros_like(scale)
        if not self.symmetric:
            zero = (least - low / scale).round().clamp(least, greatest)
        zero = zero.to(self.dtype.torch)
        return Quantize(self.dtype).reference(x, scale, zero), scale, zero

    def decompose(self, b: Builder, x: Value) -> tuple[Value, Value, Value]:
        axes = (1,) if self.rows else tuple(range(x.type.rank))
        nothing = b.scalar(0, DType.f32)
        low, high = b(Min(), b(ReduceMin(axes), x), nothing), b(Max(), b(ReduceMax(axes), x), nothing)
        least, greatest = self.dtype.range
        span = b(Max(), b(Neg(), low), high) if self.symmetric else b(Sub(), high, low)
        steps = greatest if self.symmetric else greatest - least
        scale = b(Div(), span, b.scalar(steps, DType.f32))
        scale = b(Where(), b(Equal(), scale, nothing), b.scalar(1, DType.f32), scale)
        if self.symmetric:
            none = b.scalar(0, self.dtype)
            zero = b(BroadcastTo(scale.type.shape), none) if self.rows else none
        else:
            place = b(Round(), b(Sub(), b.scalar(least, DType.f32), b(Div(), low, scale)))
            zero = b(Cast(self.dtype), b(Clamp(least, greatest), place))
        return b(Quantize(self.dtype), x, scale, zero), scale, zero
