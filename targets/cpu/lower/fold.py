"""Folds: sum, product, greatest and least element, in an accumulator type that keeps their rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from hardy.compiler.ops import reduce as r
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Code, Expr
from hardy.targets.cpu.lower import arith


@dataclass(frozen=True)
class Fold:
    """How elements of one compute type are combined. `rounds` says that long chains lose precision."""

    dtype: str
    start: float | int
    combine: Callable[[Expr, Expr], Expr]
    rounds: bool = False

    def identity(self, lanes: int) -> Expr:
        return emit.const(self.start, self.dtype, lanes)

    def enter(self, value: Expr) -> Expr:
        """An element in the accumulator's type."""
        return arith.cast(value, self.dtype)

    def across(self, code: Code, value: Expr) -> Expr:
        """The fold of a vector's lanes, by halves; lanes must be a power of two."""
        lanes = emit.lanes_of(value)
        while lanes > 1:
            value = code.hold(value)
            half = lanes // 2
            low = tirx.Shuffle([value], list(range(half)))
            high = tirx.Shuffle([value], list(range(half, lanes)))
            value, lanes = self.combine(code.hold(low), code.hold(high)), half
        return code.hold(value)


def fold_for(op: type[r.Reduction], dtype: DType) -> Fold:
    """The fold of a reduction over elements of a type."""
    greatest = issubclass(op, r.ReduceMax)
    if dtype is DType.boolean:
        either = greatest or issubclass(op, r.ReduceSum)
        return Fold("uint8", 0 if either else 1, tirx.Max if either else tirx.Min)
    compute = arith.COMPUTE[dtype]
    if issubclass(op, r.ReduceExtremum):
        if dtype.is_float:
            limit = float("-inf") if greatest else float("inf")
            return Fold(compute, limit, arith.fmax if greatest else arith.fmin)
        low, high = dtype.range
        return Fold(compute, low if greatest else high, tirx.Max if greatest else tirx.Min)
    if issubclass(op, r.ReduceSum):
        if dtype.is_float:
            return Fold(compute, 0.0, tirx.Add, rounds=True)
        # Fewer than 2^31 elements of at most 32 bits cannot overflow 64.
        return Fold("int64", 0, arith.add if dtype is DType.i64 else tirx.Add)
    if dtype.is_float:
        return Fold(compute, 1.0, tirx.Mul)
    return Fold("int64" if dtype is DType.i64 else "int32", 1, arith.mul)


def leave(value: Expr, dtype: DType) -> Expr:
    """An accumulator in the compute type of the result."""
    if dtype is DType.boolean:
        return tirx.NE(value, emit.const(0, emit.type_of(value), emit.lanes_of(value)))
    if dtype in (DType.i4, DType.u4):
        return arith.convert(arith.cast(value, "int32"), DType.i32, dtype)
    return arith.cast(value, arith.COMPUTE[dtype])
