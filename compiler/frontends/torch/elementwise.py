"""Elementwise arithmetic, comparison and logic."""

from __future__ import annotations

import math
from collections.abc import Callable

from hardy.compiler.frontends.torch.context import Context, Operand, aten, promoted
from hardy.compiler.ir import Op, Value
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops import transcendental as tr
from hardy.compiler.ops.activation import Clamp, Mod
from hardy.compiler.types import DType

_FLOAT_UNARY: dict[str, type[Op]] = {
    "acos": tr.Acos,
    "acosh": tr.Acosh,
    "asin": tr.Asin,
    "asinh": tr.Asinh,
    "atan": tr.Atan,
    "atanh": tr.Atanh,
    "cos": tr.Cos,
    "cosh": tr.Cosh,
    "erf": tr.Erf,
    "exp": tr.Exp,
    "expm1": tr.Expm1,
    "log": tr.Log,
    "log1p": tr.Log1p,
    "sin": tr.Sin,
    "sinh": tr.Sinh,
    "sqrt": ew.Sqrt,
    "tan": tr.Tan,
    "tanh": tr.Tanh,
}


def _float_unary(op: Op) -> None:
    def import_(c: Context, x: Value) -> Value:
        return c(op, c.value(x, c.dtype))

    names = [name for name, kind in _FLOAT_UNARY.items() if type(op) is kind]
    aten(*names)(import_)


for _kind in _FLOAT_UNARY.values():
    _float_unary(_kind())


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


@aten("signbit")
def _signbit(c: Context, x: Value) -> Value:
    """Whether the sign bit is set: 1 / -0 is below zero."""
    negative = c.e.less(x, 0)
    if not x.type.dtype.is_float:
        return negative
    return c.e.where(c.e.equal(x, 0), c.e.less(c.e.div(1, x), 0), negative)


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


@aten("exp2")
def _exp2(c: Context, x: Value) -> Value:
    x = c.value(x, c.dtype)
    return c(ew.Pow(), c.e.scalar(2, c.dtype), x)


def _log_of_base(name: str, base: float) -> None:
    @aten(name)
    def import_(c: Context, x: Value) -> Value:
        return c.e.mul(c(tr.Log(), c.value(x, c.dtype)), 1 / math.log(base))


_log_of_base("log2", 2)
_log_of_base("log10", 10)


@aten("erfc")
def _erfc(c: Context, x: Value) -> Value:
    return c.e.sub(1, c(tr.Erf(), c.value(x, c.dtype)))


@aten("isnan")
def isnan(c: Context, x: Value) -> Value:
    if not x.type.dtype.is_float:
        return c.e.full(x.type.shape, False, DType.boolean)
    return c(ew.IsNan(), x)


@aten("isinf")
def _isinf(c: Context, x: Value) -> Value:
    if not x.type.dtype.is_float:
        return c.e.full(x.type.shape, False, DType.boolean)
    return c.e.equal(c(ew.Abs(), x), math.inf)


@aten("isfinite")
def _isfinite(c: Context, x: Value) -> Value:
    if not x.type.dtype.is_float:
        return c.e.full(x.type.shape, True, DType.boolean)
    return c.e.less(c(ew.Abs(), x), math.inf)


@aten("isposinf")
def _isposinf(c: Context, x: Value) -> Value:
    return c.e.equal(c.value(x, DType.f64) if not x.type.dtype.is_float else x, math.inf)


@aten("isneginf")
def _isneginf(c: Context, x: Value) -> Value:
    return c.e.equal(c.value(x, DType.f64) if not x.type.dtype.is_float else x, -math.inf)


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


@aten("atan2")
def _atan2(c: Context, y: Value, x: Value) -> Value:
    return c(tr.Atan2(), *c.operands(y, x))


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


def _comparison(name: str, op: Op, swap: bool = False, negate: bool = False) -> None:
    @aten(f"{name}.Tensor", f"{name}.Scalar")
    def import_(c: Context, x: Operand, y: Operand) -> Value:
        dtype = promoted(x, y)
        a, b = c.value(x, dtype), c.value(y, dtype)
        if dtype is DType.boolean and not isinstance(op, ew.Equal):
            a, b = c.value(a, DType.u8), c.value(b, DType.u8)
        result = c(op, b, a) if swap else c(op, a, b)
        return c(ew.Not(), result) if negate else result


_comparison("eq", ew.Equal())
_comparison("ne", ew.Equal(), negate=True)
_comparison("lt", ew.Less())
_comparison("le", ew.LessEqual())
_comparison("gt", ew.Less(), swap=True)
_comparison("ge", ew.LessEqual(), swap=True)


def _bitwise(names: tuple[str, ...], op: Op) -> None:
    @aten(*[f"{n}.{kind}" for n in names for kind in ("Tensor", "Scalar")])
    def import_(c: Context, x: Operand, y: Operand) -> Value:
        return c(op, *c.operands(x, y))


_bitwise(("bitwise_and", "__and__"), ew.And())
_bitwise(("bitwise_or", "__or__"), ew.Or())
_bitwise(("bitwise_xor", "__xor__"), ew.Xor())


@aten(
    "bitwise_left_shift.Tensor", "bitwise_left_shift.Tensor_Scalar", "__lshift__.Tensor", "__lshift__.Scalar"
)
def _left_shift(c: Context, x: Operand, y: Operand) -> Value:
    return c(ew.ShiftLeft(), *c.operands(x, y))


@aten(
    "bitwise_right_shift.Tensor",
    "bitwise_right_shift.Tensor_Scalar",
    "__rshift__.Tensor",
    "__rshift__.Scalar",
)
def _right_shift(c: Context, x: Operand, y: Operand) -> Value:
    return c(ew.ShiftRight(), *c.operands(x, y))


def _logical(name: str, op: Op) -> None:
    @aten(name)
    def import_(c: Context, x: Value, y: Value) -> Value:
        return c(op, c.value(x, DType.boolean), c.value(y, DType.boolean))


_logical("logical_and", ew.And())
_logical("logical_or", ew.Or())
_logical("logical_xor", ew.Xor())


@aten("logical_not")
def _logical_not(c: Context, x: Value) -> Value:
    return c(ew.Not(), c.value(x, DType.boolean))


@aten("bitwise_not")
def _bitwise_not(c: Context, x: Value) -> Value:
    return c(ew.Not(), x)


@aten("where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar")
def _where(c: Context, condition: Value, x: Operand, y: Operand) -> Value:
    a, b = c.operands(x, y)
    return c(ew.Where(), c.value(condition, DType.boolean), a, b)


@aten("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(c: Context, x: Value, mask: Value, value: Operand) -> Value:
    return c(ew.Where(), mask, c.value(value, c.dtype), c.value(x, c.dtype))


@aten("xlogy.Tensor", "xlogy.Scalar_Self", "xlogy.Scalar_Other")
def _xlogy(c: Context, x: Operand, y: Operand) -> Value:
    """x log y; 0 where x is 0, whatever y; NaN where y is."""
    return _x_log(c, x, y, lambda b: c(tr.Log(), b))


def _x_log(c: Context, x: Operand, y: Operand, log: Callable[[Value], Value]) -> Value:
    a, b = c.operands(x, y)
    product = c.e.mul(a, log(b))
    zero = c.e.where(c.e.equal(a, 0), 0.0, product)
    return c.e.where(c(ew.IsNan(), b), math.nan, zero)


@aten("special_xlog1py", "special_xlog1py.other_scalar", "special_xlog1py.self_scalar")
def _xlog1py(c: Context, x: Operand, y: Operand) -> Value:
    return _x_log(c, x, y, lambda b: c(tr.Log1p(), b))


@aten("copysign.Tensor", "copysign.Scalar")
def _copysign(c: Context, x: Value, y: Operand) -> Value:
    a, b = c.operands(x, y)
    size = c(ew.Abs(), a)
    return c.e.where(_signbit(c, b), c(ew.Neg(), size), size)


@aten("hypot")
def _hypot(c: Context, x: Value, y: Value) -> Value:
    """The root of the sum of squares, scaled by the larger so that no square overflows."""
    a, b = (c(ew.Abs(), v) for v in c.operands(x, y))
    high, low = c.e.max(a, b), c.e.min(a, b)
    flat = c(ew.Or(), c.e.equal(high, 0), c.e.equal(high, math.inf))
    ratio = c.e.div(low, c.e.where(flat, 1.0, high))
    root = c.e.mul(high, c(ew.Sqrt(), c.e.add(c.e.mul(ratio, ratio), 1)))
    return c.e.where(flat, high, root)


@aten("angle")
def _angle(c: Context, x: Value) -> Value:
    """pi for negative numbers, else 0; NaN stays."""
    x = c.value(x, c.dtype)
    return c.e.where(c(ew.IsNan(), x), x, c.e.where(c.e.less(x, 0), c.e.scalar(math.pi, c.dtype), 0.0))
