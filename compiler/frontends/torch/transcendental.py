"""Exponentials, logarithms, trigonometry and their kin."""

from __future__ import annotations

import math
from collections.abc import Callable

from hardy.compiler.frontends.torch.context import Context, Operand, aten
from hardy.compiler.ir import Op, Value
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops import transcendental as tr

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


@aten("atan2")
def _atan2(c: Context, y: Value, x: Value) -> Value:
    return c(tr.Atan2(), *c.operands(y, x))


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
