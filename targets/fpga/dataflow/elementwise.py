"""Ops that become steps at the end of a layer, and those that only move elements."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from hardy.compiler.ir import Node
from hardy.compiler.ops.activation import Clamp, Relu
from hardy.compiler.ops.binary import PackBits
from hardy.compiler.ops.elementwise import Cast, Max, Mul, Neg, ShiftLeft, Sub
from hardy.compiler.ops.pool import MaxPool as MaxPoolOp
from hardy.compiler.ops.quant import RequantizeShift
from hardy.compiler.ops.rules import along
from hardy.compiler.ops.shape import Reshape, Transpose
from hardy.compiler.types import DType
from hardy.targets.fpga.dataflow.draft import Traced, refuse
from hardy.targets.fpga.dataflow.layers import MaxPool, Window
from hardy.targets.fpga.dataflow.ranges import Integers
from hardy.targets.fpga.dataflow.steps import Affine, Limit, RoundShift, Threshold
from hardy.targets.target import YES, Support, no

if TYPE_CHECKING:
    from hardy.targets.fpga.dataflow.trace import Tracer

TYPES = (DType.i8, DType.u8, DType.i4, DType.u4, DType.i16, DType.i32)


def check_integers(node: Node) -> Support:
    """Whether a node computes integers from integers, some of which are not constant."""
    for t in (*(v.type for v in node.operands), *node.types):
        if t.dtype not in TYPES:
            return no(f"{t.dtype}: the accelerator computes with {', '.join(d.value for d in TYPES)}")
    return no("its operands are constant: fold them") if _streams(node) == 0 else YES


def _streams(node: Node) -> int:
    return sum(v.literal is None for v in node.operands)


def check_with_constant(node: Node) -> Support:
    """The same, where at most one operand is a stream."""
    return check_integers(node) and (
        YES if _streams(node) == 1 else no("its second operand must be constant")
    )


def check_shift_left(node: Node) -> Support:
    if node.operands[1].literal is None:
        return no("the number of bits must be constant")
    return check_integers(node)


def check_parameter(node: Node) -> Support:
    """A shift or threshold that is constant."""
    if any(v.literal is None for v in node.operands[1:]) or node.operands[0].literal is not None:
        return no("all but its first operand must be constant")
    return check_integers(node)


def check_shift(node: Node) -> Support:
    """Shifts that are constant and within what the op means."""
    literal = node.operands[1].literal
    if literal is not None and not bool(((literal.tensor >= 0) & (literal.tensor <= 31)).all()):
        return no("shifts must lie in 0..31")
    return check_parameter(node)


def cast(tracer: Tracer, node: Node) -> Traced:
    op = node.op
    assert isinstance(op, Cast)
    x = tracer.values[node.operands[0]]
    tracer.require_no_wrap(node, [(x.draft.low, x.draft.high)], op.dtype.range)
    return tracer.again(node, x, x.shape, x.moved)


def add(tracer: Tracer, node: Node) -> Traced:
    """A constant, or a second stream; the op is add or sub."""
    sign = -1 if isinstance(node.op, Sub) else 1
    a, b = node.operands
    if a.literal is not None or b.literal is not None:
        first = a.literal is None
        x, data = tracer.values[a if first else b], tracer.constant(b if first else a)
        assert data is not None
        _same_shape(node, x)
        offset = tracer.vector(node, x, data) * (sign if first else 1)
        return tracer.add_step(node, x, Affine(np.full(1, 1 if first else sign, np.int64), offset))
    if a == b:
        x = tracer.values[a]
        return tracer.add_step(node, x, Affine(np.full(1, 1 + sign, np.int64), np.zeros(1, np.int64)))
    x, y = tracer.values[a], tracer.values[b]
    _same_shape(node, x)
    _same_shape(node, y)
    if sign == 1 and (_joins(y), y.draft.joined is None) > (_joins(x), x.draft.joined is None):
        x, y = y, x
    if y.order is None:
        y.settle(tracer.ordered(x))
    x.settle(tracer.ordered(y))
    if not np.array_equal(tracer.ordered(x), tracer.ordered(y)):
        raise refuse(node, "its operands come in different orders, which streams cannot change")
    addend = None if y.draft.shared else y.draft.as_addend()
    if addend is None:
        addend = tracer.tensor(y), Affine(np.ones(1, np.int64), np.zeros(1, np.int64))
    other, scaled = addend
    x = tracer.extendable(node, x)
    if x.draft.joined is not None:
        x.draft.shared = True
        x = tracer.extendable(node, x)
    x.draft.join(other, Affine(sign * scaled.scale, sign * scaled.offset))
    join = x.draft.steps[-1]
    tracer.require_no_wrap(
        node, [*join.passing(other.low, other.high), (x.draft.low, x.draft.high)], node.type.dtype.range
    )
    return tracer.result(node, x.draft, x.moved)


def _joins(x: Traced) -> bool:
    """Whether a second stream can be added in the layer that computes x."""
    return not x.draft.shared and x.draft.input is not None and x.draft.as_addend() is None


def _same_shape(node: Node, x: Traced) -> None:
    if x.shape != node.type.shape:
        raise refuse(node, f"it spreads {list(x.shape)} to {list(node.type.shape)}, which streams cannot do")


def scale(tracer: Tracer, node: Node) -> Traced:
    """A constant factor; the op is mul, shift_left or neg."""
    if isinstance(node.op, Neg):
        x, factor = tracer.values[node.operands[0]], np.full(1, -1, np.int64)
    else:
        a, b = node.operands
        if isinstance(node.op, Mul) and a.literal is not None:
            a, b = b, a
        x, data = tracer.values[a], tracer.constant(b)
        assert data is not None
        _same_shape(node, x)
        factor = tracer.vector(node, x, data)
        factor = np.left_shift(np.int64(1), factor) if isinstance(node.op, ShiftLeft) else factor
    return tracer.add_step(node, x, Affine(factor, np.zeros(1, np.int64)))


def limit(tracer: Tracer, node: Node) -> Traced:
    """The greater or the lesser of x and a constant."""
    a, b = node.operands
    a, b = (a, b) if a.literal is None else (b, a)
    x, data = tracer.values[a], tracer.constant(b)
    assert data is not None
    _same_shape(node, x)
    bound = tracer.vector(node, x, data)
    least, most = node.type.dtype.range
    if isinstance(node.op, Max):
        step = Limit(bound, np.full(1, most, np.int64))
    else:
        step = Limit(np.full(1, least, np.int64), bound)
    return tracer.add_step(node, x, step)


def clamp(tracer: Tracer, node: Node) -> Traced:
    """Limits that are attributes; the op is relu or clamp."""
    op = node.op
    assert isinstance(op, Relu | Clamp)
    least, most = node.type.dtype.range
    low = 0 if isinstance(op, Relu) else math.ceil(max(op.low, least))
    high = most if isinstance(op, Relu) else math.floor(min(op.high, most))
    step = Limit(np.full(1, low, np.int64), np.full(1, high, np.int64))
    return tracer.add_step(node, tracer.values[node.operands[0]], step)


def requantize_shift(tracer: Tracer, node: Node) -> Traced:
    op = node.op
    assert isinstance(op, RequantizeShift)
    x = tracer.values[node.operands[0]]
    literal = node.operands[1].literal
    assert literal is not None
    spread = along(literal.tensor.to(torch.int64), op.axis, len(x.shape)).numpy()
    shift = tracer.vector(node, x, spread)
    least, most = (np.full(1, v, np.int64) for v in op.dtype.range)
    return tracer.add_step(node, x, RoundShift(shift), Limit(least, most))


def pack_bits(tracer: Tracer, node: Node) -> Traced:
    assert isinstance(node.op, PackBits)
    x = tracer.values[node.operands[0]]
    least: Integers = np.zeros(1, np.int64)
    if len(node.operands) > 1:
        data = tracer.constant(node.operands[1])
        assert data is not None
        least = tracer.vector(node, x, data)
    packed = tracer.add_step(node, x, Threshold(least))
    return Traced(packed.draft, x.shape, packed.moved, bits=True)


def check_pool(node: Node) -> Support:
    if node.operands[0].type.rank > 4:
        return no("three spatial axes: images have one or two")
    return check_integers(node)


def max_pool(tracer: Tracer, node: Node) -> Traced:
    op = node.op
    assert isinstance(op, MaxPoolOp)
    x = tracer.values[node.operands[0]]
    if x.bits:
        raise refuse(node, "the greatest of packed bytes means nothing: pool before packing")
    size, channels = tracer.image(node, x, op.layout)
    if len(op.kernel) == 1:
        window = Window(
            size, (1, op.kernel[0]), (1, op.strides[0]), ((0, 0), op.padding[0]), (1, op.dilations[0])
        )
    else:
        window = Window(size, *(tuple(v) for v in (op.kernel, op.strides, op.padding, op.dilations)))  # type: ignore[arg-type]  # two of each
    if any(max(pair) >= span for pair, span in zip(window.padding, window.span, strict=True)):
        raise refuse(node, "some windows lie in the padding altogether: their maximum is no number")
    places = np.arange(node.type.size, dtype=np.int64).reshape(node.type.shape)
    places = np.moveaxis(places, 1, -1) if op.layout == "channels_first" else places
    order = places.reshape(-1, channels)
    tensor = tracer.tensor(x)
    low, high = tensor.low, tensor.high
    if low.size != channels:
        low, high = np.full(channels, low.min()), np.full(channels, high.max())
    draft = tracer.new(node, (order.shape[0], channels), order, (low, high))
    draft.input, draft.head, draft.window = tensor, MaxPool(), window
    return tracer.result(node, draft)


def reshape(tracer: Tracer, node: Node) -> Traced:
    op = node.op
    assert isinstance(op, Reshape)
    x = tracer.values[node.operands[0]]
    shape = op.shape
    if x.bits:
        if x.shape[-1] % 8 and op.shape[-1] != node.operands[0].type.shape[-1]:
            raise refuse(node, f"packed rows of {x.shape[-1]} bits cannot be joined: they end within a byte")
        last = x.shape[-1] * op.shape[-1] // node.operands[0].type.shape[-1]
        shape = (*op.shape[:-1], last)
    return tracer.again(node, x, shape, x.moved)


def transpose(tracer: Tracer, node: Node) -> Traced:
    op = node.op
    assert isinstance(op, Transpose)
    x = tracer.values[node.operands[0]]
    if x.bits and op.permutation[-1] != len(x.shape) - 1:
        raise refuse(node, "packed bits cannot leave the last axis")
    places = np.arange(int(np.prod(x.shape)), dtype=np.int64) if x.moved is None else x.moved
    moved = places.reshape(x.shape).transpose(op.permutation)
    return tracer.again(node, x, moved.shape, moved.reshape(-1).copy())
