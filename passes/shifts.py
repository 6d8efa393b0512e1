"""Sums in units that are powers of two: how they are added, multiplied and rounded by shifts alone.

For devices that requantize by a shift. Every function gives i32 integers whose bounds prove that nothing
wraps, or raises `NoShiftError` with the reason why the op must stay float.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hardy.compiler.ir import Builder, Node, Value, make_node
from hardy.compiler.literal import Literal
from hardy.compiler.ops.activation import Clamp, Relu
from hardy.compiler.ops.elementwise import Add, Cast, Max, Min, Mul, ShiftLeft, ShiftRight, Sub
from hardy.compiler.ops.pool import AvgPool
from hardy.compiler.ops.quant import RequantizeShift
from hardy.compiler.ops.rules import along
from hardy.compiler.types import DType
from hardy.passes import integer_layers
from hardy.passes.integer_bounds import magnitude
from hardy.passes.integers import Grid, Real, dequantized, number, real_of

# Sums stay below this, so that the half that rounding adds still fits i32 for every shift.
ROOM = 2**30
# Shifts to the left by more saturate 8 bits whatever is shifted, unless it is zero.
LONGEST_LEFT = 8
# Factors that are no powers of two are rounded to at least this many bits, and at most to those.
LEAST_BITS, MOST_BITS = 10, 15
DEPTH = 8  # of the float ops between a sum and an addition that are looked through


class NoShiftError(Exception):
    """An op stays float; the message says why."""


def exponents(scale: Tensor) -> Tensor | None:
    """The exponents (i64) of scales that are all powers of two, else None."""
    mantissa, exponent = torch.frexp(scale)
    return exponent.long() - 1 if bool((mantissa == 0.5).all()) else None


def requantized(b: Builder, real: Real, grid: Grid) -> Value | None:
    """The integers of a grid for those of a sum, or of another grid; None for what is no such integers.

    saturate((x + 2^(n-1)) >> n) for a unit that is 2^n times finer than the grid's. Where the grid is the
    finer one, x is shifted left first, after it is limited to what does not saturate.
    """
    if not (real.is_sum or real.is_activation):
        return None
    to = exponents(torch.tensor(grid.scale, dtype=torch.float64))
    if to is None or grid.zero:
        raise NoShiftError(f"a shift cannot give the grid of scale {grid.scale:g} and zero point {grid.zero}")
    total = _in_powers(b, real)
    unit = _unit(total)
    right = (to - unit).clamp(min=0)
    left = (unit - to).clamp(0, LONGEST_LEFT)
    q, most = total.q, magnitude(total.q)
    if left.any():
        q, most = _shifted_left(b, total, left, grid.dtype)
    if (right > 31).any():
        if most > ROOM:
            raise NoShiftError(f"sums of up to {most} cannot be shifted by {int(right.max())}")
        right = right.clamp(max=31)
    if most + (1 << max(int(right.max()) - 1, 0)) >= 2**31:
        raise NoShiftError(f"sums of up to {most} have no room for the half that rounding adds")
    shift = right.flatten()[0] if right.ndim and bool((right == right[0]).all()) else right
    return b(
        RequantizeShift(grid.dtype, total.axis if shift.ndim else 0), q, b.constant(shift.to(torch.int32))
    )


def _shifted_left(b: Builder, total: Real, left: Tensor, dtype: DType) -> tuple[Value, int]:
    """A sum shifted left and its bound, limited first where it might wrap; channels not shifted stay."""
    q, most = total.q, magnitude(total.q)
    if most << int(left.max()) < ROOM:
        most <<= int(left.max())
    else:
        low, high = dtype.range
        least = torch.where(left > 0, low, -(2**31))
        greatest = torch.where(left > 0, high, 2**31 - 1)
        q = b(
            Min(),
            b(Max(), q, _along(b, least, total.axis, total.q.type.rank)),
            _along(b, greatest, total.axis, total.q.type.rank),
        )
        most = max(most if bool((left == 0).any()) else 0, 256 << LONGEST_LEFT)
    return b(ShiftLeft(), q, _along(b, left, total.axis, total.q.type.rank)), most


def add(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """Sums and activations added or subtracted in the finest unit that has room, and constants."""
    op = node.op
    assert isinstance(op, Add | Sub)
    if isinstance(op, Add):
        biased = integer_layers.bias(b, node, operands)
        if biased is not None:
            return biased
    constants = [number(v) for v in operands]
    if any(c is not None for c in constants):
        return _add_constant(b, node, operands, constants)
    reals = [sum_of(b, v) for v in operands]
    if reals[0] is None or reals[1] is None:
        return None
    rank = node.type.rank
    parts = [r for r in reals if r is not None]
    axis = _common_axis(parts, rank)
    bounds = [magnitude(p.q) for p in parts]
    units = [_unit(p) for p in parts]
    unit = torch.minimum(*units)
    needed = sum(m * torch.exp2((u - unit).double()) for m, u in zip(bounds, units, strict=True))
    # What rounding may add to each part is below the slack.
    assert isinstance(needed, Tensor)
    unit = unit + (needed / (ROOM - 4)).log2().ceil().clamp(min=0).long()
    terms = [_in_unit(b, p.q, u - unit, axis, rank) for p, u in zip(parts, units, strict=True)]
    return dequantized(b, b(op, *terms, name=node.name), torch.exp2(unit.double()), axis=axis)


def _in_unit(b: Builder, q: Value, left: Tensor, axis: int, rank: int) -> Value:
    """Integers shifted left, or right where that is negative, halves rounded up; the shifts lie along an
    axis of what the integers broadcast to, of the given rank."""
    if (left > 0).any():
        q = b(ShiftLeft(), q, _along(b, left.clamp(min=0), axis, rank))
    if (left < 0).any():
        right = (-left).clamp(0, 31)
        half = torch.where(right > 0, 1 << (right - 1).clamp(min=0), 0)
        rounded = b(Add(), q, _along(b, half, axis, rank))
        q = b(ShiftRight(), rounded, _along(b, right, axis, rank))
    return q


def _add_constant(
    b: Builder, node: Node, operands: Sequence[Value], constants: Sequence[Tensor | None]
) -> Value | None:
    """A constant of any shape that broadcasts, rounded to units of the sum."""
    place = 1 if constants[0] is None else 0
    constant, real = constants[place], sum_of(b, operands[1 - place])
    if constant is None or real is None or node.type.shape != operands[1 - place].type.shape:
        return None
    # An activation's unit is too coarse for what is added to it.
    finer = max(0, 14 - magnitude(real.q).bit_length())
    unit = _unit(real) - finer
    rounded = (constant / along(torch.exp2(unit.double()), real.axis, node.type.rank)).round()
    bound = (magnitude(real.q) << finer) + (float(rounded.abs().max()) if rounded.numel() else 0)
    if not bound < ROOM:
        raise NoShiftError(f"a constant of {bound:g} units of the sum does not fit i32")
    q = _in_unit(b, real.q, torch.tensor(finer), real.axis, node.type.rank)
    term = b.constant(rounded.to(torch.int32))
    total = b(node.op, *((q, term) if place else (term, q)), name=node.name)
    return dequantized(b, total, torch.exp2(unit.double()), axis=real.axis)


def multiply(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """A product with a constant, or of two quantized tensors."""
    constants = [number(v) for v in operands]
    if any(c is not None for c in constants):
        place = 1 if constants[0] is None else 0
        factor = constants[place]
        assert factor is not None
        return _scaled(b, node, operands[1 - place], factor)
    reals = [sum_of(b, v) for v in operands]
    if reals[0] is None or reals[1] is None:
        return None
    left, right = (r for r in reals if r is not None)
    axis = _common_axis([left, right], node.type.rank)
    most = magnitude(left.q) * magnitude(right.q)
    if most >= ROOM:
        raise NoShiftError(f"products of up to {most} do not fit i32")
    unit = _unit(left) + _unit(right)
    return dequantized(b, b(Mul(), left.q, right.q, name=node.name), torch.exp2(unit.double()), axis=axis)


def divide(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """A quotient by a constant."""
    divisor = number(operands[1])
    if divisor is None or not bool((divisor != 0).all()):
        return None
    return _scaled(b, node, operands[0], 1 / divisor)


def _scaled(b: Builder, node: Node, x: Value, factor: Tensor) -> Value | None:
    real = sum_of(b, x)
    if real is None or not factor.isfinite().all() or node.type.shape != x.type.shape:
        return None
    unit = torch.exp2(_unit(real).double())
    if factor.numel() == 1 and float(factor) > 0:
        scaled = _in_powers(b, Real(real.q, unit * factor.flatten()[0], real.zero, real.axis))
    else:
        # Along the axis of channels each has a unit of its own.
        wide = factor.reshape((1,) * (x.type.rank - factor.ndim) + tuple(factor.shape))
        axes = [i for i, n in enumerate(wide.shape) if n != 1]
        if len(axes) == 1 and (unit.ndim == 0 or axes[0] == real.axis):
            vector, axis = wide.flatten(), axes[0]
            q, exponent = _times(b, real.q, vector, axis)
            return dequantized(b, q, unit * torch.exp2(exponent.double()), axis=axis)
        q, exponent = _times(b, real.q, wide, 0)
        scaled = Real(q, unit * torch.exp2(exponent.double()), real.zero, real.axis)
    return dequantized(b, scaled.q, scaled.scale, axis=scaled.axis)


def average(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """A mean over windows; where padding does not count, each place has a factor of its own."""
    op = node.op
    assert isinstance(op, AvgPool)
    found = integer_layers.average(b, node, operands)
    if found is not None:
        return found
    counted = dataclasses.replace(op, count_padding=True)
    mean = integer_layers.average(b, make_node(counted, node.operands, node.name, node.source), operands)
    real = None if mean is None else real_of(mean)
    if real is None:
        return None
    shape = operands[0].type.shape
    ones = torch.ones((1, *shape[1:-1], 1) if op.layout == "channels_last" else (1, 1, *shape[2:]))
    q, exponent = _times(b, real.q, real.scale / counted.reference(ones).double(), 0)
    return dequantized(b, q, torch.exp2(exponent.double()))


def sum_of(b: Builder, x: Value, depth: int = DEPTH) -> Real | None:
    """x as i32 in powers of two: a sum or an activation, rectified or clamped; None for other values."""
    real = real_of(x)
    if real is not None:
        return _in_powers(b, real) if real.is_sum or real.is_activation else None
    op = x.op
    if not depth or not isinstance(op, Relu | Clamp):
        return None
    total = sum_of(b, x.node.operands[0], depth - 1)
    if total is None:
        return None
    low, high = (0.0, math.inf) if isinstance(op, Relu) else (op.low, op.high)
    unit, most, q = torch.exp2(_unit(total).double()), magnitude(total.q), total.q
    for limit, limiting in ((low, Max()), (high, Min())):
        steps = (limit / unit).round().clamp(-ROOM, ROOM)
        beyond = steps <= -most if isinstance(limiting, Max) else steps >= most
        if not beyond.all():
            q = b(limiting, q, _along(b, steps, total.axis, total.q.type.rank))
    return Real(q, total.scale, total.zero, total.axis)


def _in_powers(b: Builder, real: Real) -> Real:
    """The same numbers as i32 whose unit is a power of two: an activation is widened, and any other unit
    becomes a factor of the integers."""
    q = real.q
    if q.type.dtype is not DType.i32:
        q = b(Cast(DType.i32), q)
        if real.zero.any():
            q = b(Sub(), q, b.scalar(int(real.zero), DType.i32))
    scale, zero = real.scale, torch.tensor(0)
    if exponents(scale) is None:
        if not bool((scale > 0).all()):
            raise NoShiftError("the unit of a sum is zero")
        q, unit = _times(b, q, scale, real.axis)
        scale = torch.exp2(unit.double())
    return Real(q, scale, zero, real.axis)


def _times(b: Builder, q: Value, factor: Tensor, axis: int) -> tuple[Value, Tensor]:
    """Integers times a factor: (q * m, e) with factor = m 2^e, m of as many bits as there is room for.

    A vector has an exponent each along `axis`; a tensor of q's rank has one.
    """
    most = magnitude(q)
    bits = min(MOST_BITS, 30 - most.bit_length())
    if bits < LEAST_BITS:
        raise NoShiftError(f"sums of up to {most} have no room for a factor that is no power of two")
    size = factor.abs() if factor.ndim < 2 else factor.abs().max()
    _, exponent = torch.frexp(torch.where(size > 0, size, 1.0))
    whole = (factor * torch.exp2((bits - exponent).double())).round().long()
    exponent = exponent.long() - bits
    # Factors of two that all have in common are part of the unit.
    common = 0
    while whole.any() and not bool((whole & ((2 << common) - 1)).any()):
        common += 1
    whole, exponent = whole >> common, exponent + common
    if bool((whole == 1).all()):
        return q, exponent
    shape = [1] * q.type.rank
    if whole.ndim == 1:
        shape[axis] = -1
    spread = whole if whole.ndim > 1 else whole.reshape(shape if whole.ndim else [])
    return b(Mul(), q, b.constant(spread.to(torch.int32))), exponent


def _unit(real: Real) -> Tensor:
    found = exponents(real.scale)
    assert found is not None, "sums are in powers of two"
    return found


def _common_axis(parts: Sequence[Real], rank: int) -> int:
    """The axis, of a result of this rank, along which the units of its parts lie."""
    axes = {p.axis + rank - p.q.type.rank for p in parts if p.scale.ndim}
    if len(axes) > 1:
        raise NoShiftError(f"units along the axes {sorted(axes)} do not combine")
    return axes.pop() if axes else 0


def _along(b: Builder, vector: Tensor, axis: int, rank: int) -> Value:
    """An i32 constant along an axis; one number where they are all alike."""
    if vector.ndim and bool((vector == vector[0]).all()):
        vector = vector[0]
    return b.constant(Literal(along(vector, axis, rank).to(torch.int32), DType.i32))
