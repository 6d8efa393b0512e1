"""Elementwise ops on computed values: one table from op class to its expression.

An entry maps the op, the element type of its first operand and the operands' expressions (of any number of
lanes) to the result's expression. `LIBRARY` ops call the C library and so take one element at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from hardy.compiler.ir import Node, Op
from hardy.compiler.ops import activation, elementwise
from hardy.compiler.ops import transcendental as tr
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels import emit, math
from hardy.targets.cpu.kernels.emit import Expr
from hardy.targets.cpu.kernels.math import let, like, select
from hardy.targets.cpu.lower import arith, quantized

Rule = Callable[[Any, DType, Sequence[Expr]], Expr]


def _math(name: str) -> Callable[[Expr], Expr]:
    """An LLVM intrinsic of one float operand."""
    return lambda x: emit.intrinsic(str(x.ty.dtype), f"llvm.{name}", x)


def call_library(name: str, *args: Expr) -> Expr:
    """A function of the C library's math.h, given its f64 name."""
    dtype = emit.type_of(args[0])
    return tirx.call_pure_extern(dtype, name + ("f" if dtype == "float32" else ""), *args)


def _unary(f: Callable[[Expr], Expr]) -> Rule:
    return lambda op, dtype, args: f(args[0])


def _binary(f: Callable[[Expr, Expr], Expr]) -> Rule:
    return lambda op, dtype, args: f(args[0], args[1])


def _vector_or_library(vector: Callable[[Expr], Expr], name: str) -> Rule:
    """Our own vector code for f32, the C library for f64."""

    def rule(op: Any, dtype: DType, args: Sequence[Expr]) -> Expr:
        return call_library(name, args[0]) if dtype is DType.f64 else vector(args[0])

    return rule


def _is_bool(x: Expr) -> bool:
    return emit.type_of(x) == "bool"


def _not(x: Expr) -> Expr:
    return tirx.Not(x) if _is_bool(x) else x ^ like(x, -1 if emit.type_of(x).startswith("int") else 255)


def _four_bits(dtype: DType, x: Expr) -> Expr:
    """4-bit integers live in a byte: the result of arithmetic is cut back to its range."""
    return arith.convert(x, DType.i32, dtype) if dtype in (DType.i4, DType.u4) else x


def _arithmetic(f: Callable[[Expr, Expr], Expr], on_bool: Callable[[Expr, Expr], Expr]) -> Rule:
    def rule(op: Any, dtype: DType, args: Sequence[Expr]) -> Expr:
        x, y = args
        return on_bool(x, y) if dtype is DType.boolean else _four_bits(dtype, f(x, y))

    return rule


def _xor(x: Expr, y: Expr) -> Expr:
    if _is_bool(x):
        return tirx.NE(_byte(x), _byte(y))
    return x ^ y


def _byte(x: Expr) -> Expr:
    return arith.cast(x, "uint8") if _is_bool(x) else x


def _compare(node: Callable[[Expr, Expr], Expr]) -> Rule:
    return lambda op, dtype, args: node(_byte(args[0]), _byte(args[1]))


def _sign(x: Expr) -> Expr:
    if emit.type_of(x).startswith("uint"):
        return select(tirx.NE(x, like(x, 0)), like(x, 1), like(x, 0))
    return let(
        x,
        lambda v: select(tirx.GT(v, like(v, 0)), like(v, 1), select(tirx.LT(v, like(v, 0)), like(v, -1), v)),
    )


def _abs(x: Expr) -> Expr:
    if emit.type_of(x).startswith("float"):
        return _math("fabs")(x)
    if emit.type_of(x).startswith("uint"):
        return x
    return let(x, lambda v: select(tirx.LT(v, like(v, 0)), arith.negate(v), v))


def maximum(x: Expr, y: Expr) -> Expr:
    """The `max` op."""
    if _is_bool(x):
        return tirx.Or(x, y)
    return arith.fmax(x, y) if emit.type_of(x).startswith("float") else tirx.Max(x, y)


def minimum(x: Expr, y: Expr) -> Expr:
    """The `min` op."""
    if _is_bool(x):
        return tirx.And(x, y)
    return arith.fmin(x, y) if emit.type_of(x).startswith("float") else tirx.Min(x, y)


def _rem(op: Any, dtype: DType, args: Sequence[Expr]) -> Expr:
    if dtype.is_float:
        return call_library("fmod", *args)
    return _four_bits(dtype, arith.remainder(*args))


def _pow(op: Any, dtype: DType, args: Sequence[Expr]) -> Expr:
    x, y = args
    if not dtype.is_float:
        return _four_bits(dtype, arith.integer_power(x, y))
    exponent = constant_exponent(y)
    if exponent is None:
        return call_library("pow", x, y)
    return _CONSTANT_POWERS[exponent](x)


_CONSTANT_POWERS: dict[float, Callable[[Expr], Expr]] = {
    1.0: lambda x: x,
    2.0: lambda x: let(x, lambda v: tirx.Mul(v, v)),
    3.0: lambda x: let(x, lambda v: tirx.Mul(tirx.Mul(v, v), v)),
    -1.0: lambda x: tirx.Div(like(x, 1.0), x),
}


def constant_exponent(y: Expr) -> float | None:
    """The exponent, where it is a constant that needs no call."""
    y = y.value if isinstance(y, tirx.Broadcast) else y
    if isinstance(y, tirx.FloatImm) and float(y.value) in _CONSTANT_POWERS:
        return float(y.value)
    return None


def _shift_left(op: Any, dtype: DType, args: Sequence[Expr]) -> Expr:
    return _four_bits(dtype, args[0] << args[1])


def _clamp(op: activation.Clamp, dtype: DType, args: Sequence[Expr]) -> Expr:
    (x,) = args
    low, high = op.ends(dtype)
    if dtype.is_float:
        return arith.fmin(arith.fmax(x, like(x, low)), like(x, high))
    return tirx.Min(tirx.Max(x, like(x, low)), like(x, high))


def _relu(x: Expr) -> Expr:
    zero = like(x, 0)
    return arith.fmax(x, zero) if emit.type_of(x).startswith("float") else tirx.Max(x, zero)


def _gelu(op: activation.Gelu, dtype: DType, args: Sequence[Expr]) -> Expr:
    return math.gelu(args[0]) if op.approximate == "none" else math.gelu_tanh(args[0])


def _cast(op: elementwise.Cast, dtype: DType, args: Sequence[Expr]) -> Expr:
    return arith.convert(args[0], dtype, op.dtype, saturate=op.saturate)


e = elementwise
SCALAR: dict[type[Op], Rule] = {
    e.Neg: lambda op, dtype, args: _four_bits(dtype, arith.negate(args[0])),
    e.Abs: lambda op, dtype, args: _four_bits(dtype, _abs(args[0])),
    e.Sign: _unary(_sign),
    e.Floor: _unary(_math("floor")),
    e.Ceil: _unary(_math("ceil")),
    e.Round: _unary(_math("rint")),
    e.Sqrt: _unary(_math("sqrt")),
    tr.Exp: _vector_or_library(math.exp, "exp"),
    tr.Log: _vector_or_library(math.log, "log"),
    tr.Tanh: _vector_or_library(math.tanh, "tanh"),
    tr.Erf: _vector_or_library(math.erf, "erf"),
    e.IsNan: _unary(lambda x: let(x, arith.is_nan)),
    e.Not: lambda op, dtype, args: _four_bits(dtype, _not(args[0])),
    e.Add: _arithmetic(arith.add, tirx.Or),
    e.Sub: _arithmetic(arith.sub, _xor),
    e.Mul: _arithmetic(arith.mul, tirx.And),
    e.Div: _arithmetic(arith.divide, tirx.And),
    e.Rem: _rem,
    e.Pow: _pow,
    e.Max: _binary(maximum),
    e.Min: _binary(minimum),
    e.Equal: _compare(tirx.EQ),
    e.Less: _compare(tirx.LT),
    e.LessEqual: _compare(tirx.LE),
    e.And: _binary(lambda x, y: tirx.And(x, y) if _is_bool(x) else x & y),
    e.Or: _binary(lambda x, y: tirx.Or(x, y) if _is_bool(x) else x | y),
    e.Xor: _binary(_xor),
    e.ShiftLeft: _shift_left,
    e.ShiftRight: _binary(lambda x, y: x >> y),
    e.Where: lambda op, dtype, args: select(*args),
    e.Cast: _cast,
    activation.Relu: _unary(_relu),
    activation.Clamp: _clamp,
}
# Composites that f32 vector code does better than their decomposition.
COMPOSITE: dict[type[Op], Rule] = {
    activation.Sigmoid: _unary(math.sigmoid),
    activation.Silu: _unary(math.silu),
    activation.Gelu: _gelu,
}
LIBRARY: dict[type[Op], str] = {
    tr.Sin: "sin",
    tr.Cos: "cos",
    tr.Tan: "tan",
    tr.Asin: "asin",
    tr.Acos: "acos",
    tr.Atan: "atan",
    tr.Sinh: "sinh",
    tr.Cosh: "cosh",
    tr.Asinh: "asinh",
    tr.Acosh: "acosh",
    tr.Atanh: "atanh",
    tr.Log1p: "log1p",
    tr.Expm1: "expm1",
    tr.Atan2: "atan2",
}
_F64_CALLS = (tr.Exp, tr.Log, tr.Tanh, tr.Erf)


def rule_for(node: Node) -> Rule | None:
    """How the node's result is computed from its operands' elements; None where it is not elementwise."""
    kind = type(node.op)
    if kind in LIBRARY:
        return lambda op, dtype, args: call_library(LIBRARY[kind], *args)
    if kind in COMPOSITE and node.operands[0].type.dtype is not DType.f64:
        return COMPOSITE[kind]
    if kind in quantized.RULES:
        return quantized.RULES[kind] if quantized.takes(node) else None
    return SCALAR.get(kind)


def needs_library(node: Node) -> bool:
    """Whether the node's code calls the C library, which has no vector form."""
    kind, dtype = type(node.op), node.operands[0].type.dtype if node.operands else DType.f32
    if kind in LIBRARY or (kind in _F64_CALLS and dtype is DType.f64):
        return True
    if kind is e.Rem:
        return dtype.is_float
    if kind is e.Pow and dtype.is_float:
        literal = node.operands[1].literal
        return literal is None or literal.type.size != 1 or float(literal.item()) not in _CONSTANT_POWERS
    return False


# Costly enough per element that vector code pays even where the loads are gathered.
HEAVY = frozenset({tr.Exp, tr.Log, tr.Tanh, tr.Erf, activation.Sigmoid, activation.Silu, activation.Gelu})
