"""Computes with integers what lies between quantizations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hardy.compiler.ir import Builder, Constant, Graph, Input, Node, Op, Value, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.literal import Literal
from hardy.compiler.notes import note
from hardy.compiler.ops.activation import Clamp, HardSigmoid, HardSwish, Relu
from hardy.compiler.ops.elementwise import Add, Div, Max, Min, Mul, Sub
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.quant import Quantize, Requantize
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.shape import BroadcastTo, Concat, Gather, Pad, Reshape, Reverse, Slice, Transpose
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.passes import integer_layers, shifts
from hardy.passes.decompose import Decompose
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.integers import Grid, Real, dequantized, f32, grid_of, number, real_of, zero_point
from hardy.targets.target import QuantizationScheme

DEPTH = 8  # of the float ops between quantizations that are looked through
Rule = Callable[[Builder, Node, tuple[Value, ...]], Value | None]
Regrid = Callable[[Builder, Real, Grid], Value | None]


@dataclass(frozen=True)
class LowerQuantization(Pass):
    """Turn float ops between dequantize and quantize into integer ops with fused requantization.

    Convolutions and products sum in i32, biases included, and are requantized by one multiplication;
    rectifiers and clamps become limits of the integers; what moves elements, and max pooling, moves
    integers; means become integer sums. Sums and products of two quantized tensors stay float ops, in
    units of the result, without a tensor of floats in memory where a target fuses them.

    In a `scheme` (the target's, which the driver fills in) whose scales are powers of two, or with
    `power_of_two`, sums are requantized by shifts, and sums and products of quantized tensors are integer
    ops too (`shifts.py`). What cannot be done by shifts stays float, and the report says why.

    The result is the same to the bit on every target. Against the float graph a quantized value may be
    off by one step where the exact number lies near the middle between two, because
    - sums of products are exact here, and rounded there,
    - a bias is rounded to a whole number of (input scale * weight scale),
    - the quotient of scales is rounded to f32, and multiplied by, where the float graph divides.
    """

    exact: ClassVar[bool] = False

    scheme: QuantizationScheme | None = None
    power_of_two: bool | None = None

    def run(self, graph: Graph) -> Graph:
        book = ledger()
        power = self.power_of_two
        if power is None:
            power = self.scheme is not None and self.scheme.power_of_two_scales
        rules = _SHIFT_RULES if power else _RULES
        kept: list[dict[str, str]] = []

        def lower(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            rule = rules.get(type(node.op))
            if rule is None:
                return None
            scratch = Builder()
            with scratch.at(node.source):
                try:
                    value = rule(scratch, node, operands)
                except shifts.NoShiftError as why:
                    kept.append({"op": node.op.name, "where": node.name or node.source, "why": str(why)})
                    return None
            if value is None or not book.take(f"integer {node.op.name}"):
                return None
            for made in scratch._nodes:
                b.append(made)
            return (value,)

        prepared = Decompose(lambda node: not _comes_apart(node)).run(graph) if power else graph
        changed = transform(prepared, lower)
        if kept:
            note("kept_float", kept)
        return graph if changed is graph else EliminateDeadCode().run(changed)


def _comes_apart(node: Node) -> bool:
    """Whether a composite of an activation is made of sums, products and limits."""
    return isinstance(node.op, HardSigmoid | HardSwish) and real_of(node.operands[0]) is not None


# From dequantize downwards: ops that commute with it.


def _move(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """What chooses elements chooses integers instead."""
    real = real_of(operands[0])
    if real is None or real.q.type.dtype is DType.i32:
        return None
    op, axis = node.op, real.axis
    if not real.per_tensor:
        if not isinstance(op, Transpose):
            return None
        axis = op.permutation.index(axis)
    if isinstance(op, Pad):
        steps = op.value / float(real.scale)
        filled = round(steps) + int(real.zero)
        low, high = real.q.type.dtype.range
        if steps != round(steps) or not low <= filled <= high:
            return None
        op = Pad(op.low, op.high, float(filled), op.interior)
    if isinstance(op, MaxPool) and not _sees_every_window(op):
        return None
    literal = real.q.literal
    if literal is not None and isinstance(op, Transpose | Reshape):
        moved = b.constant(Literal(op.reference(literal.tensor), literal.type.dtype), name=real.q.node.name)
    elif literal is not None and not isinstance(op, Gather):
        return None
    else:
        moved = b(op, real.q, *operands[1:], name=node.name)
    return dequantized(b, moved, real.scale, real.zero, axis)


def _sees_every_window(op: MaxPool) -> bool:
    """Whether no window lies in the padding altogether: its maximum would be no integer."""
    spans = [(k - 1) * d + 1 for k, d in zip(op.kernel, op.dilations, strict=True)]
    return all(max(pair) < span for pair, span in zip(op.padding, spans, strict=True))


def _relu(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """The greater of an activation's integers and its zero point."""
    real = real_of(operands[0])
    if real is None or not real.is_activation:
        return None
    limited = _limited(b, real.q, int(real.zero), real.q.type.dtype.range[1])
    return dequantized(b, limited, real.scale, real.zero)


def _concat(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """Parts of one scale and zero point."""
    parts = [real_of(v) for v in operands]
    first = parts[0]
    if first is None or not first.is_activation or not all(p is not None and _alike(p, first) for p in parts):
        return None
    joined = b(node.op, *[p.q for p in parts if p is not None], name=node.name)
    return dequantized(b, joined, first.scale, first.zero)


def _alike(p: Real, q: Real) -> bool:
    return (
        p.is_activation and p.q.type.dtype is q.q.type.dtype and bool(p.scale == q.scale and p.zero == q.zero)
    )


def _scaled(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    """A positive factor becomes part of the scale of an integer product."""
    pairs = (operands, operands[::-1]) if isinstance(node.op, Mul) else (operands,)
    for x, y in pairs:
        real, factor = real_of(x), number(y)
        if real is None or factor is None or factor.numel() != 1 or node.type != x.type or not real.is_sum:
            continue
        value = float(factor)
        value = value if isinstance(node.op, Mul) else 1 / value if value else 0.0
        if math.isfinite(value) and value > 0:
            return dequantized(b, real.q, real.scale * value, axis=real.axis)
    return None


# From quantize upwards.


def _quantize(b: Builder, node: Node, operands: tuple[Value, ...], regrid: Regrid) -> Value | None:
    grid = grid_of(Value(node, 0)) if operands[1:] == node.operands[1:] else None
    x = operands[0]
    if grid is None or x.type.dtype is not DType.f32:
        return None
    return _onto(b, x, grid, regrid, DEPTH)


def _onto(b: Builder, x: Value, grid: Grid, regrid: Regrid, depth: int) -> Value | None:
    """The integers of x on a grid; None where nothing is better than to quantize x."""
    real = real_of(x)
    if real is not None:
        return real.q if _lies_on(real, grid) else regrid(b, real, grid)
    op = x.op
    if depth and isinstance(op, Relu | Clamp):
        low, high = (0.0, math.inf) if isinstance(op, Relu) else (op.low, op.high)
        (inner,) = x.node.operands
        q = _onto(b, inner, grid, regrid, depth - 1)
        q = grid.quantize(b, inner) if q is None else q
        return _limited(b, q, grid.place(low), grid.place(high))
    if depth and isinstance(op, Reshape | Transpose | Slice | Reverse | BroadcastTo | MaxPool | Concat):
        if isinstance(op, MaxPool) and not _sees_every_window(op):
            return None
        parts = [_onto(b, v, grid, regrid, depth - 1) for v in x.node.operands]
        if all(q is None for q in parts):
            return None
        made = [grid.quantize(b, v) if q is None else q for v, q in zip(x.node.operands, parts, strict=True)]
        return b(op, *made, name=x.node.name)
    if grid.scale == 1 or isinstance(op, Input | Constant):
        return None
    scaled = _absorb(b, x, 1 / grid.scale, depth)
    if scaled is None:
        scaled = b(Mul(), x, f32(b, 1 / grid.scale))
    return grid.unit.quantize(b, scaled)


def _lies_on(real: Real, grid: Grid) -> bool:
    """Whether an activation is on this very grid already."""
    if not real.is_activation or real.q.type.dtype is not grid.dtype:
        return False
    return float(real.scale) == grid.scale and int(real.zero) == grid.zero


def _regrid(b: Builder, real: Real, grid: Grid) -> Value | None:
    """Integers on another grid, or of a sum, by a multiplication."""
    if real.is_sum:
        scale = real.scale / grid.scale
        zero = zero_point(b, grid.zero, grid.dtype)
        if scale.ndim == 0:
            return b(Requantize(grid.dtype), real.q, f32(b, scale), zero)
        return b(Requantize(grid.dtype, real.axis), real.q, f32(b, scale), zero)
    if not real.is_activation or grid.scale == 1:
        return None
    return grid.unit.quantize(b, dequantized(b, real.q, real.scale / grid.scale, real.zero))


def _limited(b: Builder, q: Value, low: int, high: int) -> Value:
    """Integers limited to low..high; limits that the type has anyway are left out."""
    dtype = q.type.dtype
    if low > dtype.range[0]:
        q = b(Max(), q, zero_point(b, low, dtype))
    return b(Min(), q, zero_point(b, high, dtype)) if high < dtype.range[1] else q


def _absorb(b: Builder, x: Value, factor: float, depth: int) -> Value | None:
    """x times a positive factor, at no cost: within the scales of what x is made of."""
    real = real_of(x)
    if real is not None:
        return dequantized(b, real.q, real.scale * factor, real.zero, real.axis)
    if x.literal is not None:
        return f32(b, x.literal.tensor.double() * factor) if x.type.dtype is DType.f32 else None
    if not depth:
        return None
    op, operands = x.op, x.node.operands
    if isinstance(op, Add | Sub):
        parts = [_absorb(b, v, factor, depth - 1) for v in operands]
        return None if None in parts else b(op, *[v for v in parts if v is not None])
    if isinstance(op, Mul | Div):
        for i, v in enumerate(operands if isinstance(op, Mul) else operands[:1]):
            part = _absorb(b, v, factor, depth - 1)
            if part is not None:
                return b(op, *operands[:i], part, *operands[i + 1 :])
        return None
    if isinstance(op, Relu | Reshape | Transpose | BroadcastTo):
        part = _absorb(b, operands[0], factor, depth - 1)
        return None if part is None else b(op, part)
    return None


def _add(b: Builder, node: Node, operands: tuple[Value, ...]) -> Value | None:
    return integer_layers.bias(b, node, operands)


_RULES: dict[type[Op], Rule] = {
    **dict.fromkeys((Reshape, Transpose, Slice, Reverse, BroadcastTo, Gather, Pad, MaxPool), _move),
    Relu: _relu,
    Concat: _concat,
    Mul: _scaled,
    Div: _scaled,
    Add: _add,
    Conv: integer_layers.conv,
    Matmul: integer_layers.matmul,
    ReduceMean: integer_layers.mean,
    ReduceSum: integer_layers.mean,
    AvgPool: integer_layers.average,
    Quantize: functools.partial(_quantize, regrid=_regrid),
}

# Where a device has shifts in place of multiplications.
_SHIFT_RULES: dict[type[Op], Rule] = {
    **_RULES,
    Add: shifts.add,
    Sub: shifts.add,
    Mul: shifts.multiply,
    Div: shifts.divide,
    AvgPool: shifts.average,
    Quantize: functools.partial(_quantize, regrid=shifts.requantized),
}
