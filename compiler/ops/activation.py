"""Composite elementwise functions that models use by name."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hardy.compiler.ir import Builder, Op, Value
from hardy.compiler.ops.elementwise import (
    Add,
    Div,
    Equal,
    FloatUnary,
    Less,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    Or,
    Rem,
    Sub,
    Unary,
    Where,
    Xor,
)
from hardy.compiler.ops.reduce import ReduceMax, ReduceSum
from hardy.compiler.ops.rules import broadcast, require, require_float, require_number
from hardy.compiler.ops.transcendental import Erf, Exp, Expm1, Log, Log1p, Tanh
from hardy.compiler.types import DType, TensorType


@dataclass(frozen=True)
class Relu(Unary):
    """max(x, 0)."""

    def infer(self, x: TensorType) -> TensorType:
        require_number(self.name, x)
        return x

    def reference(self, x: Tensor) -> Tensor:
        return x.relu()

    def decompose(self, b: Builder, x: Value) -> Value:
        return b(Max(), x, b.scalar(0, x.type.dtype))


@dataclass(frozen=True)
class Clamp(Unary):
    """min(max(x, low), high). For integers the ends are whole or infinite, also outside of the type."""

    low: float
    high: float

    def infer(self, x: TensorType) -> TensorType:
        require_number(self.name, x)
        if x.dtype.is_integer:
            least, greatest = x.dtype.range
            require(
                all(math.isinf(end) or float(end).is_integer() for end in (self.low, self.high)),
                f"the ends {self.low} and {self.high} must be whole numbers or infinite for {x}",
            )
            require(
                self.low <= greatest and self.high >= least,
                f"the range {self.low}..{self.high} holds no {x.dtype}",
            )
        return x

    def ends(self, dtype: DType) -> tuple[float, float]:
        """`low` and `high`; for integers as numbers of the type that do the same."""
        if not dtype.is_integer:
            return self.low, self.high
        least, greatest = dtype.range
        return int(max(self.low, least)), int(min(self.high, greatest))

    def reference(self, x: Tensor) -> Tensor:
        return x.clamp(*self.ends(DType.of(x.dtype)))

    def decompose(self, b: Builder, x: Value) -> Value:
        dtype = x.type.dtype
        low, high = self.ends(dtype)
        return b(Min(), b(Max(), x, b.scalar(low, dtype)), b.scalar(high, dtype))


@dataclass(frozen=True)
class Sigmoid(FloatUnary):
    """1 / (1 + exp(-x))."""

    def reference(self, x: Tensor) -> Tensor:
        return x.sigmoid()

    def decompose(self, b: Builder, x: Value) -> Value:
        one = b.scalar(1, x.type.dtype)
        return b(Div(), one, b(Add(), one, b(Exp(), b(Neg(), x))))


@dataclass(frozen=True)
class HardSigmoid(FloatUnary):
    """min(max(alpha x + beta, 0), 1)."""

    alpha: float = 1 / 6
    beta: float = 0.5

    def reference(self, x: Tensor) -> Tensor:
        return (x * self.alpha + self.beta).clamp(0, 1)

    def decompose(self, b: Builder, x: Value) -> Value:
        dtype = x.type.dtype
        line = b(Add(), b(Mul(), x, b.scalar(self.alpha, dtype)), b.scalar(self.beta, dtype))
        return b(Clamp(0.0, 1.0), line)


@dataclass(frozen=True)
class HardSwish(FloatUnary):
    """x min(max(x + 3, 0), 6) / 6 (MobileNetV3)."""

    def reference(self, x: Tensor) -> Tensor:
        return x * (x + 3).clamp(0, 6) / 6

    def decompose(self, b: Builder, x: Value) -> Value:
        dtype = x.type.dtype
        gate = b(Clamp(0.0, 6.0), b(Add(), x, b.scalar(3, dtype)))
        return b(Div(), b(Mul(), x, gate), b.scalar(6, dtype))


@dataclass(frozen=True)
class Silu(FloatUnary):
    """x sigmoid(x), also called swish."""

    def reference(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def decompose(self, b: Builder, x: Value) -> Value:
        return b(Mul(), x, b(Sigmoid(), x))


@dataclass(frozen=True)
class Gelu(FloatUnary):
    """x Phi(x) with the Gaussian's distribution function, or its tanh approximation."""

    approximate: str = "none"

    def infer(self, x: TensorType) -> TensorType:
        require(
            self.approximate in ("none", "tanh"),
            f"approximate must be none or tanh, got {self.approximate!r}",
        )
        return super().infer(x)

    def reference(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)

    def decompose(self, b: Builder, x: Value) -> Value:
        dtype = x.type.dtype
        half_x = b(Mul(), x, b.scalar(0.5, dtype))
        if self.approximate == "none":
            inner = b(Erf(), b(Mul(), x, b.scalar(math.sqrt(0.5), dtype)))
        else:
            cube = b(Mul(), b(Mul(), x, x), x)
            sum_ = b(Add(), x, b(Mul(), cube, b.scalar(0.044715, dtype)))
            inner = b(Tanh(), b(Mul(), sum_, b.scalar(math.sqrt(2 / math.pi), dtype)))
        return b(Mul(), half_x, b(Add(), inner, b.scalar(1, dtype)))


@dataclass(frozen=True)
class Softplus(FloatUnary):
    """log(1 + exp(x)), computed without overflow."""

    def reference(self, x: Tensor) -> Tensor:
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    def decompose(self, b: Builder, x: Value) -> Value:
        zero = b.scalar(0, x.type.dtype)
        minus_abs = b(Min(), x, b(Neg(), x))
        return b(Add(), b(Max(), x, zero), b(Log1p(), b(Exp(), minus_abs)))


@dataclass(frozen=True)
class Mish(FloatUnary):
    """x tanh(softplus(x))."""

    def reference(self, x: Tensor) -> Tensor:
        return F.mish(x)

    def decompose(self, b: Builder, x: Value) -> Value:
        return b(Mul(), x, b(Tanh(), b(Softplus(), x)))


@dataclass(frozen=True)
class LeakyRelu(FloatUnary):
    """x where positive, else slope x."""

    slope: float = 0.01

    def reference(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope)

    def decompose(self, b: Builder, x: Value) -> Value:
        dtype = x.type.dtype
        return b(Where(), b(Less(), x, b.scalar(0, dtype)), b(Mul(), x, b.scalar(self.slope, dtype)), x)


@dataclass(frozen=True)
class Elu(FloatUnary):
    """x where positive, else alpha (exp(x) - 1)."""

    alpha: float = 1.0

    def reference(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.alpha * torch.expm1(x.clamp(max=0)))

    def decompose(self, b: Builder, x: Value) -> Value:
        zero = b.scalar(0, x.type.dtype)
        below = b(Mul(), b.scalar(self.alpha, x.type.dtype), b(Expm1(), b(Min(), x, zero)))
        return b(Where(), b(Less(), zero, x), x, below)


@dataclass(frozen=True)
class Mod(Op):
    """Remainder of the flooring division: it has the sign of y (Python's %)."""

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        return broadcast(x, y)

    def reference(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.remainder(x, y)

    def decompose(self, b: Builder, x: Value, y: Value) -> Value:
        zero = b.scalar(0, x.type.dtype)
        r = b(Rem(), x, y)
        other_sign = b(Xor(), b(Less(), r, zero), b(Less(), y, zero))
        keep = b(Or(), b(Equal(), r, zero), b(Not(), other_sign))
        return b(Where(), keep, r, b(Add(), r, y))


@dataclass(frozen=True)
class AlongAxis(Op):
    """A float function of all elements along one axis, of x's own shape."""

    axis: int

    def infer(self, x: TensorType) -> TensorType:
        require_float(self.name, x)
        require(0 <= self.axis < max(x.rank, 1), f"axis {self.axis} is outside {x}")
        return x


@dataclass(frozen=True)
class Softmax(AlongAxis):
    """exp(x) / sum(exp(x)) along `axis`, computed without overflow."""

    def reference(self, x: Tensor) -> Tensor:
        return x.softmax(self.axis)

    def decompose(self, b: Builder, x: Value) -> Value:
        e = b(Exp(), b(Sub(), x, b(ReduceMax((self.axis,), True), x)))
        return b(Div(), e, b(ReduceSum((self.axis,), True), e))


@dataclass(frozen=True)
class LogSoftmax(AlongAxis):
    """log(softmax(x)) along `axis`, computed without overflow."""

    def reference(self, x: Tensor) -> Tensor:
        return x.log_softmax(self.axis)

    def decompose(self, b: Builder, x: Value) -> Value:
        shifted = b(Sub(), x, b(ReduceMax((self.axis,), True), x))
        return b(Sub(), shifted, b(Log(), b(ReduceSum((self.axis,), True), b(Exp(), shifted))))
