"""Normalizations."""

from __future__ import annotations

import math

from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.ir import Value
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops.norm import BatchNorm, GroupNorm, LayerNorm, ReduceMean, RmsNorm
from hardy.compiler.ops.pool import AvgPool
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.types import DType


def _batch_norm(ctx: Context) -> list[Item | None]:
    x, e = ctx[0], ctx.e
    if ctx.opset < 9 and not ctx.integer("spatial", 1):
        ctx.unsupported("BatchNormalization with spatial=0, statistics for each element")
    scale, bias, mean, variance = (e.cast(ctx[i], x.type.dtype) for i in range(1, 5))
    epsilon = ctx.real("epsilon", 1e-5)
    training = ctx.integer("training_mode", 0) if ctx.opset >= 14 else ctx.opset >= 7 and ctx.wants(1)
    if not training:
        if x.type.rank == 1:
            x = e.reshape(x, (x.type.shape[0], 1))
        y = ctx(BatchNorm(epsilon), x, scale, bias, mean, variance)
        return [e.reshape(y, ctx[0].type.shape)]
    axes = tuple(i for i in range(x.type.rank) if i != 1)
    current = ctx(ReduceMean(axes), x)
    centred = e.sub(x, e.reshape(current, [n if i == 1 else 1 for i, n in enumerate(x.type.shape)]))
    spread = ctx(ReduceMean(axes), e.mul(centred, centred))
    y = ctx(BatchNorm(epsilon), x, scale, bias, current, spread)
    momentum = ctx.real("momentum", 0.9)

    def running(old: Value, new: Value) -> Value:
        return e.add(e.mul(old, momentum), e.mul(new, 1 - momentum))

    return [
        y,
        *[
            e.cast(running(old, new), ctx[i].type.dtype)
            for i, old, new in ((3, mean, current), (4, variance, spread))
        ],
    ]


def _wide(ctx: Context, x: Value) -> Value:
    """The type in which statistics are computed: `stash_type`, f32 unless told otherwise."""
    stash = ctx.dtype("stash_type", DType.f32)
    return ctx.e.cast(x, stash) if stash.bits > x.type.dtype.bits else x


def _affine_operands(ctx: Context, x: Value, axis: int) -> list[Value] | None:
    """Scale and bias in the shape of the normalized axes, None where they do not broadcast to it."""
    shape = x.type.shape[axis:]
    result = []
    for i in (1, 2):
        if not ctx.has(i):
            continue
        v = ctx.e.cast(ctx[i], x.type.dtype)
        lead = v.type.shape[: max(v.type.rank - len(shape), 0)]
        if any(n != 1 for n in lead):
            return None
        result.append(ctx.e.broadcast(ctx.e.reshape(v, v.type.shape[len(lead) :]), shape))
    return result


def _layer_norm(ctx: Context) -> list[Item | None]:
    x, e = ctx[0], ctx.e
    axis = ctx.axis(ctx.integer("axis", -1), x.type.rank)
    epsilon = ctx.real("epsilon", 1e-5)
    wide = _wide(ctx, x)
    # The standard normalizes in the wide type, rounds, then applies scale and bias in x's.
    affine = _affine_operands(ctx, x, axis)
    if affine is not None and wide is x:
        y = ctx(LayerNorm(axis, epsilon), x, *affine)
    else:
        y = e.cast(ctx(LayerNorm(axis, epsilon), wide), x.type.dtype)
        y = e.mul(y, ctx[1])
        y = e.add(y, ctx[2]) if ctx.has(2) else y
    axes = tuple(range(axis, x.type.rank))
    mean, inverse = None, None
    if ctx.wants(1) or ctx.wants(2):
        mean = ctx(ReduceMean(axes, True), wide)
        centred = e.sub(wide, mean)
        variance = ctx(ReduceMean(axes, True), e.mul(centred, centred))
        inverse = e.div(1.0, ctx(ew.Sqrt(), e.add(variance, epsilon)))
    return [y, mean, inverse]


def _rms_norm(ctx: Context) -> Value:
    x, e = ctx[0], ctx.e
    axis = ctx.axis(ctx.integer("axis", -1), x.type.rank)
    epsilon = ctx.real("epsilon", 1e-5)
    wide = _wide(ctx, x)
    affine = _affine_operands(ctx, x, axis)
    if affine is not None and wide is x:
        return ctx(RmsNorm(axis, epsilon), x, *affine)
    y = e.cast(ctx(RmsNorm(axis, epsilon), wide), x.type.dtype)
    return e.mul(y, e.cast(ctx[1], y.type.dtype))


def _instance_norm(ctx: Context) -> Value:
    x = ctx[0]
    return ctx(GroupNorm(x.type.shape[1], ctx.real("epsilon", 1e-5)), x, ctx[1], ctx[2])


def _group_norm(ctx: Context) -> Value:
    """Scale and bias are by channel; before operator set 21 by group."""
    x, e = ctx[0], ctx.e
    groups, channels = ctx.integer("num_groups"), x.type.shape[1]
    op = GroupNorm(groups, ctx.real("epsilon", 1e-5))
    vectors = [ctx[1], ctx[2]]
    if ctx.opset < 21:
        vectors = [
            e.reshape(e.broadcast(e.reshape(v, (groups, 1)), (groups, channels // groups)), (channels,))
            for v in vectors
        ]
    wide = _wide(ctx, x)
    if wide is x:
        return ctx(op, x, *vectors)
    y = e.cast(ctx(op, wide), x.type.dtype)
    shape = (channels, *[1] * (x.type.rank - 2))
    return e.add(e.mul(y, e.reshape(vectors[0], shape)), e.reshape(vectors[1], shape))


def _lp_norm(ctx: Context) -> Value:
    """x over its norm along an axis; where the norm is 0 so is the result."""
    x, e = ctx[0], ctx.e
    axes = (ctx.axis(ctx.integer("axis", -1), x.type.rank),)
    p = ctx.integer("p", 2)
    if p == 1:
        norm = ctx(ReduceSum(axes, True), ctx(ew.Abs(), x))
    elif p == 2:
        norm = ctx(ew.Sqrt(), ctx(ReduceSum(axes, True), e.mul(x, x)))
    else:
        ctx.fail(f"p must be 1 or 2, got {p}")
    zero = e.equal(norm, 0)
    quotient = e.div(x, e.where(zero, e.scalar(1, x.type.dtype), norm))
    return e.where(zero, e.scalar(0, x.type.dtype), quotient)


def _lrn(ctx: Context) -> Value:
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels)^beta."""
    x, e = ctx[0], ctx.e
    size = ctx.integer("size")
    batch, channels, *spatial = x.type.shape
    columns = math.prod(spatial)
    square = e.reshape(e.mul(x, x), (batch, 1, channels, columns))
    padding = (((size - 1) // 2, size // 2), (0, 0))
    mean = ctx(AvgPool((size, 1), (1, 1), padding, (1, 1), count_padding=True), square)
    total = e.add(e.mul(e.reshape(mean, x.type.shape), ctx.real("alpha", 1e-4)), ctx.real("bias", 1.0))
    power = e.scalar(ctx.real("beta", 0.75), x.type.dtype)
    return e.div(x, ctx(ew.Pow(), total, power))


IMPORTERS: dict[str, Importer] = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "RMSNormalization": _rms_norm,
}
