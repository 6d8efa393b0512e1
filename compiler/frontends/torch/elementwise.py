"""Elementwise arithmetic, rounding and limits."""

from __future__ import annotations

import math

from hardy.compiler.frontends.torch.context import Context, Operand, aten
from hardy.compiler.frontends.torch.logic import signbit
from hardy.compiler.ir import Op, Value
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops.activation import Clamp, Mod
from hardy.compiler.types import DType


@aten("neg")
def _neg(c: Context, x: Value) -> Value:
    return c(ew.Neg(), x)


@aten("abs")
def _abs(c: Context, x: Value) -> Value:
    return x if x.type.dtype is DType.boolean else c(ew.Abs(), x)


@aten("sign", "sgn")
def _sign(c: Context, x: Value) -> Value:
    if x.type.dtype is DType.boolean:
        return x
    if not x.type.dtype.is_float:
        return c(ew.Sign(), x)
    # torch gives 0 for NaN.
    return c.e.where(c(ew.IsNan(), x), 0.0, c(ew.Sign(), x))


@aten("floor")
def _floor(c: Context, x: Value) -> Value:
    return c(ew.Floor(), x) if x.type.dtype.is_float else x


@aten("ceil")
def _ceil(c: Context, x: Value) -> Value:
    return c(ew.Ceil(), x) if x.type.dtype.is_float else x


@aten("round", "round.decimals")
def _round(c: Context, x: Value, *, decimals: int = 0) -> Value:
    if not x.type.dtype.is_float:
        return x
    if decimals == 0:
        return c(ew.Round(), x)
    power = 10.0 ** abs(decimals)
    if decimals > 0:
        return c.e.div(c(ew.Round(), c.e.mul(x, power)), power)
    return c.e.mul(c(ew.Round(), c.e.div(x, power)), power)


def trunc(c: Context, x: Value) -> Value:
    """Rounded towards zero."""
    if not x.type.dtype.is_float:
        return x
    return c.e.where(c.e.less(x, 0), c(ew.Ceil(), x), c(ew.Floor(), x))


aten("trunc")(trunc)


@aten("frac")
def _frac(c: Context, x: Value) -> Value:
    return c.e.sub(x, trunc(c, x))


@aten("rsqrt")
def _rsqrt(c: Context, x: Value) -> Value:
    return c.e.div(1, c(ew.Sqrt(), c.value(x, c.dtype)))


@aten("reciprocal")
def _reciprocal(c: Context, x: Value) -> Value:
    return c.e.div(1, c.value(x, c.dtype))


@aten("square")
def _square(c: Context, x: Value) -> Value:
    return c.e.mul(x, x)


@aten("add.Tensor", "add.Scalar")
def add(c: Context, x: Operand, y: Operand, alpha: float = 1) -> Value:
    a, b = c.operands(x, y)
    if c.dtype is DType.boolean:
        return c(ew.Or(), a, b)
    return c.e.add(a, b if alpha == 1 else c.e.mul(b, alpha))


@aten("sub.Tensor", "sub.Scalar")
def _sub(c: Context, x: Operand, y: Operand, alpha: float = 1) -> Value:
    a, b = c.operands(x, y)
    return c.e.sub(a, b if alpha == 1 else c.e.mul(b, alpha))


@aten("rsub.Tensor", "rsub.Scalar")
def _rsub(c: Context, x: Operand, y: Operand, alpha: float = 1) -> Value:
    return _sub(c, y, x, alpha)


@aten("mul.Tensor", "mul.Scalar")
def _mul(c: Context, x: Operand, y: Operand) -> Value:
    a, b = c.operands(x, y)
    return c(ew.And() if c.dtype is DType.boolean else ew.Mul(), a, b)


@aten("div.Tensor", "div.Scalar", "true_divide.Tensor")
def _div(c: Context, x: Operand, y: Operand) -> Value:
    return c.e.div(*c.operands(x, y))


@aten("div.Tensor_mode", "div.Scalar_mode")
def _div_mode(c: Context, x: Operand, y: Operand, *, rounding_mode: str | None) -> Value:
    if rounding_mode is None:
        return _div(c, x, y)
    if rounding_mode == "floor":
        return floor_divide(c, x, y)
    a, b = c.operands(x, y)
    return trunc(c, c.e.div(a, b))


def floor_divide(c: Context, x: Operand, y: Operand) -> Value:
    """The quotient that fits Python's remainder, so that rounding never lifts it to the next number."""
    a, b = c.operands(x, y)
    exact = c.e.div(c.e.sub(a, c(Mod(), a, b)), b)
    if not c.dtype.is_float:
        return exact
    return c.e.where(c.e.equal(b, 0), c.e.div(a, b), c(ew.Round(), exact))


aten("floor_divide", "floor_divide.Scalar")(floor_divide)


@aten("remainder.Tensor", "remainder.Scalar", "remainder.Scalar_Tensor")
def _remainder(c: Context, x: Operand, y: Operand) -> Value:
    return c(Mod(), *c.operands(x, y))


@aten("fmod.Tensor", "fmod.Scalar")
def _fmod(c: Context, x: Operand, y: Operand) -> Value:
    return c(ew.Rem(), *c.operands(x, y))


@aten("pow.Tensor_Tensor", "pow.Tensor_Scalar", "pow.Scalar")
def _pow(c: Context, x: Operand, y: Operand) -> Value:
    if isinstance(x, Value) and not isinstance(y, Value) and c.dtype.is_float:
        base = c.value(x, c.dtype)
        special = {
            0.5: lambda: c(ew.Sqrt(), base),
            -0.5: lambda: c.e.div(1, c(ew.Sqrt(), base)),
            1: lambda: base,
            2: lambda: c.e.mul(base, base),
            3: lambda: c.e.mul(c.e.mul(base, base), base),
            -1: lambda: c.e.div(1, base),
            -2: lambda: c.e.div(1, c.e.mul(base, base)),
        }
        if y in special:
            return special[y]()
    return c(ew.Pow(), *c.operands(x, y))


@aten("maximum", "max.other")
def _maximum(c: Context, x: Value, y: Value) -> Value:
    a, b = c.operands(x, y)
    return c(ew.Or(), a, b) if c.dtype is DType.boolean else c.e.max(a, b)


@aten("minimum", "min.other")
def _minimum(c: Context, x: Value, y: Value) -> Value:
    a, b = c.operands(x, y)
    return c(ew.And(), a, b) if c.dtype is DType.boolean else c.e.min(a, b)


def _ignoring_nan(c: Context, x: Value, y: Value, best: Op) -> Value:
    a, b = c.operands(x, y)
    if not c.dtype.is_float:
        return c(best, a, b)
    return c.e.where(c(ew.IsNan(), a), b, c.e.where(c(ew.IsNan(), b), a, c(best, a, b)))


@aten("fmax")
def _fmax(c: Context, x: Value, y: Value) -> Value:
    return _ignoring_nan(c, x, y, ew.Or() if c.dtype is DType.boolean else ew.Max())


@aten("fmin")
def _fmin(c: Context, x: Value, y: Value) -> Value:
    return _ignoring_nan(c, x, y, ew.And() if c.dtype is DType.boolean else ew.Min())


@aten("clamp", "clamp.Tensor", "clip", "clip.Tensor")
def _clamp(c: Context, x: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    y = c.value(x, c.dtype)
    if c.dtype.is_float and isinstance(min, int | float) and isinstance(max, int | float):
        return c(Clamp(float(min), float(max)), y)
    if min is not None:
        y = c.e.max(y, c.value(min, c.dtype))
    if max is not None:
        y = c.e.min(y, c.value(max, c.dtype))
    return y


@aten("clamp_min", "clamp_min.Tensor")
def _clamp_min(c: Context, x: Value, min: Operand) -> Value:
    return _clamp(c, x, min)


@aten("clamp_max", "clamp_max.Tensor")
def _clamp_max(c: Context, x: Value, max: Operand) -> Value:
    return _clamp(c, x, None, max)


@aten("copysign.Tensor", "copysign.Scalar")
def _copysign(c: Context, x: Value, y: Operand) -> Value:
    a, b = c.operands(x, y)
    size = c(ew.Abs(), a)
    return c.e.where(signbit(c, b), c(ew.Neg(), size), size)


@aten("hypot")
def _hypot(c: Context, x: Value, y: Value) -> Value:
    """The root of the sum of squares, scaled by the larger so that no square overflows; infinite where
    either is, even beside NaN (IEEE 754-2019, 9.2.1)."""
    a, b = (c(ew.Abs(), v) for v in c.operands(x, y))
    high, low = c.e.max(a, b), c.e.min(a, b)
    ratio = c.e.div(low, c.e.where(c.e.equal(high, 0), 1.0, high))
    root = c.e.mul(high, c(ew.Sqrt(), c.e.add(c.e.mul(ratio, ratio), 1)))
    infinite = c(ew.Or(), c.e.equal(a, math.inf), c.e.equal(b, math.inf))
    return c.e.where(infinite, math.inf, root)


@aten("angle")
def _angle(c: Context, x: Value) -> Value:
    """pi for negative numbers, else 0; NaN stays."""
    x = c.value(x, c.dtype)
    return c.e.where(c(ew.IsNan(), x), x, c.e.where(c.e.less(x, 0), c.e.scalar(math.pi, c.dtype), 0.0))
