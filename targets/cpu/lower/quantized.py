"""Conversions between floats and narrow integers as expressions, in fewer steps than their decompositions.

They give the decompositions' results to the bit: scaled by one f32 operation, rounded with halves to even,
saturated, with the zero point added in integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from hardy.compiler.ir import Node, Op
from hardy.compiler.ops.quant import Dequantize, Quantize, Requantize
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Expr
from hardy.targets.cpu.kernels.math import like, maximum, minimum
from hardy.targets.cpu.lower import arith

NARROW = (DType.i8, DType.u8, DType.i4, DType.u4)


def takes(node: Node) -> bool:
    """Whether parameters are scalars or vectors along the last axis, and types those that are done here."""
    op, (x, *parameters) = node.op, node.operands
    if not isinstance(op, Quantize | Dequantize | Requantize):
        return False
    if not isinstance(op, Requantize) and op.block:
        return False
    if any(v.type.rank and op.axis != x.type.rank - 1 for v in parameters):
        return False
    if isinstance(op, Dequantize):
        return x.type.dtype in (*NARROW, DType.i16, DType.i32) and parameters[0].type.dtype is DType.f32
    floats = [v.type.dtype for v in (x, parameters[0]) if v.type.dtype.is_float]
    return op.dtype in NARROW and all(d is DType.f32 for d in floats)


def _quantize(op: Quantize, dtype: DType, args: Sequence[Expr]) -> Expr:
    x, scale, *zero = args
    return _to_grid(x if _is(scale, 1.0) else tirx.Div(x, scale), op.dtype, zero)


def _requantize(op: Requantize, dtype: DType, args: Sequence[Expr]) -> Expr:
    x, scale, zero = args
    scaled = arith.cast(x, "float32")
    return _to_grid(scaled if _is(scale, 1.0) else tirx.Mul(scaled, scale), op.dtype, [zero])


def _to_grid(x: Expr, dtype: DType, zero: Sequence[Expr]) -> Expr:
    """saturate(round(x) + zero): limited before it is rounded, so that no sum can overflow."""
    least, greatest = dtype.range
    low, high = like(x, float(least)), like(x, float(greatest))
    shift = None if not zero or _is(zero[0], 0) else arith.cast(zero[0], "int32")
    if shift is not None:
        number = _number(zero[0])
        if number is None:
            moved = arith.cast(shift, "float32")
            low, high = low - moved, high - moved
        else:
            low, high = like(x, float(least - number)), like(x, float(greatest - number))
    code = emit.current()
    assert code is not None
    # NaN, which both comparisons leave, becomes some integer.
    limited = code.hold(minimum(code.hold(maximum(code.hold(x), low)), high))
    whole = emit.intrinsic(emit.vector("int32", emit.lanes_of(x)), "llvm.lrint", limited)
    return arith.cast(whole if shift is None else tirx.Add(whole, shift), arith.COMPUTE[dtype])


def _dequantize(op: Dequantize, dtype: DType, args: Sequence[Expr]) -> Expr:
    x, scale, *zero = args
    whole = arith.cast(x, "int32")
    if zero and not _is(zero[0], 0):
        shift = arith.cast(zero[0], "int32")
        # The difference of two narrow integers cannot overflow.
        whole = arith.sub(whole, shift) if dtype is DType.i32 else tirx.Sub(whole, shift)
    value = arith.cast(whole, "float32")
    return value if _is(scale, 1.0) else arith.mul(value, scale)


def _number(x: Expr) -> float | None:
    x = x.value if isinstance(x, tirx.Broadcast) else x
    return x.value if isinstance(x, tirx.IntImm | tirx.FloatImm) else None


def _is(x: Expr, number: float) -> bool:
    return _number(x) == number


RULES: dict[type[Op], Callable[..., Expr]] = {
    Quantize: _quantize,
    Dequantize: _dequantize,
    Requantize: _requantize,
}
