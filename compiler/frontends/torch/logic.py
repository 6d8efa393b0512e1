"""Elementwise comparison, classification, logic, bits and selection."""

from __future__ import annotations

import math

from hardy.compiler.frontends.torch.context import Context, Operand, aten, promoted
from hardy.compiler.ir import Op, Value
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.types import DType


@aten("signbit")
def signbit(c: Context, x: Value) -> Value:
    """Whether the sign bit is set: 1 / -0 is below zero."""
    negative = c.e.less(x, 0)
    if not x.type.dtype.is_float:
        return negative
    return c.e.where(c.e.equal(x, 0), c.e.less(c.e.div(1, x), 0), negative)


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
