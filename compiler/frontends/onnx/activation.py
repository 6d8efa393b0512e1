"""Activation functions and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from hardy.compiler.frontends.emit import Emitter
from hardy.compiler.frontends.onnx.context import Context, Importer
from hardy.compiler.ir import Op, Value
from hardy.compiler.ops import activation as act
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops import transcendental as tr
from hardy.compiler.ops.reduce import ArgMax
from hardy.compiler.types import DType


def _unary(op: Op) -> Importer:
    return lambda ctx: ctx(op, ctx[0])


def _leaky_relu(ctx: Context) -> Value:
    return ctx(act.LeakyRelu(ctx.real("alpha", 0.01)), ctx[0])


def _elu(ctx: Context) -> Value:
    return ctx(act.Elu(ctx.real("alpha", 1.0)), ctx[0])


def _celu(ctx: Context) -> Value:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1))."""
    x, e = ctx[0], ctx.e
    alpha = ctx.real("alpha", 1.0)
    below = e.mul(ctx(tr.Expm1(), e.div(x, alpha)), alpha)
    return e.add(e.max(x, 0), e.min(below, 0))


def _selu(ctx: Context) -> Value:
    alpha = ctx.real("alpha", 1.67326319217681884765625)
    return ctx.e.mul(ctx(act.Elu(alpha), ctx[0]), ctx.real("gamma", 1.05070102214813232421875))


def _thresholded_relu(ctx: Context) -> Value:
    x = ctx[0]
    return ctx.e.where(ctx.e.less(ctx.e.scalar(ctx.real("alpha", 1.0), x.type.dtype), x), x, 0)


def _hard_sigmoid(ctx: Context) -> Value:
    return ctx(act.HardSigmoid(ctx.real("alpha", 0.2), ctx.real("beta", 0.5)), ctx[0])


def _softsign(ctx: Context) -> Value:
    x, e = ctx[0], ctx.e
    return e.div(x, e.add(ctx(ew.Abs(), x), 1))


def _gelu(ctx: Context) -> Value:
    return ctx(act.Gelu(ctx.text("approximate", "none")), ctx[0])


def _swish(ctx: Context) -> Value:
    x, alpha = ctx[0], ctx.real("alpha", 1.0)
    if alpha == 1:
        return ctx(act.Silu(), x)
    return ctx.e.mul(x, ctx(act.Sigmoid(), ctx.e.mul(x, alpha)))


def _shrink(ctx: Context) -> Value:
    """x + bias below -lambd, x - bias above lambd, else 0."""
    x, e = ctx[0], ctx.e
    limit, bias = ctx.real("lambd", 0.5), ctx.real("bias", 0.0)
    if not x.type.dtype.is_float:
        ctx.unsupported("Shrink of integers", hint="cast to a float type first")
    above = e.where(e.less(limit, x), e.sub(x, bias), 0)
    return e.where(e.less(x, -limit), e.add(x, bias), above)


def _over_axis(ctx: Context, apply: Callable[[Value, int], Value]) -> Value:
    """Along one axis; before operator set 13 over all axes from `axis` on, as one."""
    x = ctx[0]
    rank = x.type.rank
    axis = ctx.axis(ctx.integer("axis", 1 if ctx.opset < 13 else -1), max(rank, 1))
    if ctx.opset >= 13 or axis == rank - 1:
        return apply(x, axis)
    rows = math.prod(x.type.shape[:axis])
    flat = ctx.e.reshape(x, (rows, x.type.size // max(rows, 1)))
    return ctx.e.reshape(apply(flat, 1), x.type.shape)


def softmax(ctx: Context) -> Value:
    return _over_axis(ctx, lambda x, axis: ctx(act.Softmax(axis), x))


def _log_softmax(ctx: Context) -> Value:
    return _over_axis(ctx, lambda x, axis: ctx(act.LogSoftmax(axis), x))


def _hardmax(ctx: Context) -> Value:
    """1 at the first greatest element along an axis, else 0."""
    return _over_axis(
        ctx, lambda x, axis: one_hot(ctx.e, ctx(ArgMax(axis), x), axis, x.type.shape[axis], x.type.dtype)
    )


def one_hot(e: Emitter, indices: Value, axis: int, depth: int, dtype: DType) -> Value:
    """1 where a new axis of `depth` has the index, else 0."""
    shape = indices.type.shape
    positions = e.constant(torch.arange(depth, dtype=indices.type.dtype.torch))
    positions = e.reshape(positions, (depth, *[1] * (len(shape) - axis)))
    hot = e.equal(e.reshape(indices, (*shape[:axis], 1, *shape[axis:])), positions)
    return e.cast(hot, dtype)


IMPORTERS: dict[str, Importer] = {
    "Celu": _celu,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(act.HardSwish()),
    "Hardmax": _hardmax,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _log_softmax,
    "Mish": _unary(act.Mish()),
    "Relu": _unary(act.Relu()),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": _unary(act.Sigmoid()),
    "Softmax": softmax,
    "Softplus": _unary(act.Softplus()),
    "Softsign": _softsign,
    "Swish": _swish,
    "ThresholdedRelu": _thresholded_relu,
}
