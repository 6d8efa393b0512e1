"""Elementwise arithmetic, comparison, logic, selection and casts.

Operands broadcast as in NumPy and share one element type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ir import Op
from hardy.compiler.ops.rules import (
    broadcast,
    require,
    require_dtype,
    require_float,
    require_integer,
    require_number,
    sized,
)
from hardy.compiler.types import DType, TensorType, broadcast_shapes


def wide(x: Tensor) -> Tensor:
    """f8 tensors, on which torch has no arithmetic, as f32."""
    return x.float() if x.dtype in (torch.float8_e4m3fn, torch.float8_e5m2) else x


@dataclass(frozen=True)
class Unary(Op):
    """y[i] = f(x[i])."""

    def infer(self, x: TensorType) -> TensorType:
        return x


@dataclass(frozen=True)
class FloatUnary(Unary):
    """A function of real numbers."""

    def infer(self, x: TensorType) -> TensorType:
        require_float(self.name, x)
        return x


@dataclass(frozen=True)
class SignedUnary(Unary):
    """A function of numbers with a sign, which bools do not have."""

    def infer(self, x: TensorType) -> TensorType:
        require_number(self.name, x)
        return x


@dataclass(frozen=True)
class Neg(SignedUnary):
    """-x; integers wrap."""

    def reference(self, x: Tensor) -> Tensor:
        return -x


@dataclass(frozen=True)
class Abs(SignedUnary):
    """|x|; the least integer maps to itself."""

    def reference(self, x: Tensor) -> Tensor:
        return x.abs()


@dataclass(frozen=True)
class Sign(SignedUnary):
    """-1, 0 or 1; NaN stays NaN."""

    def reference(self, x: Tensor) -> Tensor:
        return torch.where(x.isnan(), x, x.sign()) if x.is_floating_point() else x.sign()


@dataclass(frozen=True)
class Floor(FloatUnary):
    """Greatest whole number not above x."""

    def reference(self, x: Tensor) -> Tensor:
        return x.floor()


@dataclass(frozen=True)
class Ceil(FloatUnary):
    """Least whole number not below x."""

    def reference(self, x: Tensor) -> Tensor:
        return x.ceil()


@dataclass(frozen=True)
class Round(FloatUnary):
    """Nearest whole number, halves to even."""

    def reference(self, x: Tensor) -> Tensor:
        return x.round()


@dataclass(frozen=True)
class Sqrt(FloatUnary):
    """Square root; NaN below zero."""

    def reference(self, x: Tensor) -> Tensor:
        return x.sqrt()


@dataclass(frozen=True)
class IsNan(Op):
    """Whether x is not a number."""

    def infer(self, x: TensorType) -> TensorType:
        require_float(self.name, x)
        return x.with_dtype(DType.boolean)

    def reference(self, x: Tensor) -> Tensor:
        return wide(x).isnan()


@dataclass(frozen=True)
class Not(Unary):
    """Bitwise complement; logical negation of booleans."""

    def infer(self, x: TensorType) -> TensorType:
        require_dtype(self.name, x, lambda d: not d.is_float, "an integer or bool tensor")
        return x

    def reference(self, x: Tensor) -> Tensor:
        return ~x


@dataclass(frozen=True)
class Binary(Op):
    """z[i] = f(x[i], y[i]) over the broadcast of x and y."""

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        return broadcast(x, y)


@dataclass(frozen=True)
class Add(Binary):
    """x + y; integers wrap."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@dataclass(frozen=True)
class Sub(Binary):
    """x - y; integers wrap. Bools have no difference: use `xor`."""

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        require_number(self.name, x, y)
        return broadcast(x, y)

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return x - y


@dataclass(frozen=True)
class Mul(Binary):
    """x * y; integers wrap."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y


@dataclass(frozen=True)
class Div(Binary):
    """x / y; integers truncate towards zero."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@dataclass(frozen=True)
class Rem(Binary):
    """Remainder of the truncating division: it has the sign of x (C's fmod and %)."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.fmod(x, y)


@dataclass(frozen=True)
class Pow(Binary):
    """x to the y; integers wrap, and a negative integer exponent gives what 1 / x^|y| truncates to."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        if x.is_floating_point():
            return torch.pow(x, y)
        positive = torch.pow(x, y.clamp(min=0))
        inverse = torch.where(x.abs() == 1, torch.pow(x, y.abs()), torch.zeros_like(x))
        return torch.where(y < 0, inverse, positive)


@dataclass(frozen=True)
class Max(Binary):
    """The greater of x and y; NaN if either is."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.maximum(x, y)


@dataclass(frozen=True)
class Min(Binary):
    """The lesser of x and y; NaN if either is."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.minimum(x, y)


@dataclass(frozen=True)
class Comparison(Op):
    """A bool for each pair of elements; false for any comparison with NaN but `not equal`."""

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        return broadcast(x, y).with_dtype(DType.boolean)


@dataclass(frozen=True)
class Equal(Comparison):
    """x == y."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return wide(x) == wide(y)


@dataclass(frozen=True)
class Less(Comparison):
    """x < y."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return wide(x) < wide(y)


@dataclass(frozen=True)
class LessEqual(Comparison):
    """x <= y."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return wide(x) <= wide(y)


@dataclass(frozen=True)
class Bitwise(Op):
    """A function of bits: of integers, or of booleans as one bit."""

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        require_dtype(self.name, x, lambda d: not d.is_float, "an integer or bool tensor")
        return broadcast(x, y)


@dataclass(frozen=True)
class And(Bitwise):
    """x & y."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return x & y


@dataclass(frozen=True)
class Or(Bitwise):
    """x | y."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return x | y


@dataclass(frozen=True)
class Xor(Bitwise):
    """x ^ y."""

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return x ^ y


@dataclass(frozen=True)
class ShiftLeft(Op):
    """x * 2^y without the bits that fall off; 0 <= y < bits."""

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        require_integer(self.name, x)
        return broadcast(x, y)

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.bitwise_left_shift(x, y)


@dataclass(frozen=True)
class ShiftRight(Op):
    """floor(x / 2^y): arithmetic for signed integers, logical for unsigned; 0 <= y < bits."""

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        require_integer(self.name, x)
        return broadcast(x, y)

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.bitwise_right_shift(x, y)


@dataclass(frozen=True)
class Where(Op):
    """x where the bool condition holds, else y; all three broadcast."""

    def infer(self, condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
        require(condition.dtype is DType.boolean, f"the condition must be bool, got {condition}")
        t = broadcast(x, y)
        return sized(t.dtype, broadcast_shapes(condition.shape, t.shape))

    def reference(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(condition, x, y)


@dataclass(frozen=True)
class Cast(Op):
    """x in another element type.

    Float to integer truncates towards zero, and what lies outside the range is undefined; integer
    to integer keeps the low bits; anything to bool is `x != 0`. Float to float rounds to nearest
    even; to f8, values beyond the range become infinite (NaN where the type has no infinity), or
    with `saturate` the greatest finite value.
    """

    dtype: DType
    saturate: bool = False

    def infer(self, x: TensorType) -> TensorType:
        return x.with_dtype(self.dtype)

    def reference(self, x: Tensor) -> Tensor:
        if self.dtype is DType.i4:
            low = x.to(torch.int64) & 15
            return torch.where(low > 7, low - 16, low).to(torch.int8)
        if self.dtype is DType.u4:
            return (x.to(torch.int64) & 15).to(torch.uint8)
        if self.saturate and self.dtype in (DType.f8e4m3, DType.f8e5m2):
            limits = torch.finfo(self.dtype.torch)
            x = wide(x).clamp(limits.min, limits.max)
        if x.dtype == self.dtype.torch:
            return x
        if self.dtype is DType.f8e4m3 and x.is_floating_point():
            # torch saturates; what rounds beyond 448, whose upper neighbour is 480, is NaN.
            x = torch.where(wide(x).abs() > 464, math.nan, wide(x))
        return wide(x).to(self.dtype.torch)
