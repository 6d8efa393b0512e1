"""How large the elements of an integer tensor can be, told from the ops that compute them."""

from __future__ import annotations

import math

from hardy.compiler.ir import Value
from hardy.compiler.ops.activation import Relu
from hardy.compiler.ops.elementwise import Add, Cast, Max, Min, Mul, ShiftLeft, ShiftRight, Sub
from hardy.compiler.ops.pool import MaxPool
from hardy.compiler.ops.quant import IntegerConv, IntegerMatmul
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.shape import BroadcastTo, Concat, Gather, Reshape, Reverse, Slice, Transpose
from hardy.compiler.types import DType

_MOVES = (Reshape, Transpose, Slice, Reverse, BroadcastTo, Gather, MaxPool, Relu)


def magnitude(value: Value) -> int:
    """A bound on the magnitude of every element of an integer tensor.

    Bounds hold for the exact numbers: one above what the type holds says that the ops may wrap. Sums of
    products count the constant weights that are there; ops that are not looked through give all that
    their type holds.
    """
    literal = value.literal
    if literal is not None:
        tensor = literal.tensor.long()
        return int(tensor.abs().max()) if tensor.numel() else 0
    op, operands = value.op, value.node.operands
    whole = _of_type(value.type.dtype)
    if isinstance(op, IntegerConv | IntegerMatmul):
        return _sum_of_products(value)
    if isinstance(op, Add | Sub):
        return magnitude(operands[0]) + magnitude(operands[1])
    if isinstance(op, Mul):
        return magnitude(operands[0]) * magnitude(operands[1])
    if isinstance(op, ShiftLeft) and operands[1].literal is not None:
        return magnitude(operands[0]) << magnitude(operands[1])
    if isinstance(op, ShiftRight):
        return magnitude(operands[0])
    if isinstance(op, Max | Min):
        return max(magnitude(operands[0]), magnitude(operands[1]))
    if isinstance(op, Cast) and operands[0].type.dtype.is_integer:
        return min(magnitude(operands[0]), whole)
    if isinstance(op, ReduceSum):
        terms = math.prod(operands[0].type.shape[a] for a in op.axes)
        return terms * magnitude(operands[0])
    if isinstance(op, _MOVES):
        return magnitude(operands[0])
    if isinstance(op, Concat):
        return max(magnitude(v) for v in operands)
    return whole


def _of_type(dtype: DType) -> int:
    low, high = dtype.range
    return int(max(-low, high))


def _sum_of_products(value: Value) -> int:
    """Of x - x_zero with weight - weight_zero, by the largest row of the weight where it is constant."""
    x, w, *zeros = value.node.operands
    factor = _span(x, bool(zeros))
    if w.literal is None or len(zeros) > 1:
        terms = x.type.shape[-1] if isinstance(value.op, IntegerMatmul) else math.prod(w.type.shape[1:])
        return terms * factor * _span(w, len(zeros) > 1)
    sizes = w.literal.tensor.long().abs()
    if isinstance(value.op, IntegerMatmul):
        rows = sizes.sum(-1 if value.op.transpose_b else -2)
    else:
        rows = sizes.flatten(1).sum(1)
    return int(rows.max()) * factor if rows.numel() else 0


def _span(value: Value, centred: bool) -> int:
    """The largest magnitude of an operand, less any zero point of its type where it has one."""
    low, high = value.type.dtype.range
    return int(high - low) if centred else _of_type(value.type.dtype)
