"""Picking and placing elements by index."""

from __future__ import annotations

import numpy as np
import torch

from hardy.compiler.frontends.onnx.activation import one_hot
from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.ir import Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.activation import Mod
from hardy.compiler.ops.shape import Gather, GatherElements, GatherNd, ScatterElements, ScatterNd
from hardy.compiler.types import DType


def _gather(ctx: Context) -> Value:
    return ctx(Gather(ctx.axis(ctx.integer("axis", 0), ctx[0].type.rank)), ctx[0], ctx[1])


def _gather_elements(ctx: Context) -> Value:
    return ctx(GatherElements(ctx.axis(ctx.integer("axis", 0), ctx[0].type.rank)), ctx[0], ctx[1])


def _gather_nd(ctx: Context) -> Value:
    return ctx(GatherNd(ctx.integer("batch_dims", 0)), ctx[0], ctx[1])


def _scatter_elements(ctx: Context) -> Value:
    axis = ctx.axis(ctx.integer("axis", 0), ctx[0].type.rank)
    return ctx(ScatterElements(axis, ctx.text("reduction", "none")), ctx[0], ctx[1], ctx[2])


def _scatter_nd(ctx: Context) -> Value:
    return ctx(ScatterNd(ctx.text("reduction", "none")), ctx[0], ctx[1], ctx[2])


def _tensor_scatter(ctx: Context) -> Value:
    """Writes `update` into a cache along `axis`, from a position of each batch entry on."""
    cache, update, e = ctx[0], ctx[1], ctx.e
    axis = ctx.axis(ctx.integer("axis", -2), cache.type.rank)
    shape, size = update.type.shape, cache.type.shape[axis]
    mode = ctx.text("mode", "linear")
    if mode not in ("linear", "circular"):
        ctx.fail(f"unknown mode {mode!r}")
    steps = e.constant(torch.arange(shape[axis]))
    view = [1] * cache.type.rank
    view[axis] = shape[axis]
    position = e.reshape(steps, view)
    if ctx.has(2):
        first = e.cast(ctx[2], DType.i64)
        position = e.add(position, e.reshape(first, (shape[0], *[1] * (len(shape) - 1))))
    if mode == "circular":
        position = ctx(Mod(), position, e.scalar(size, DType.i64))
    return ctx(ScatterElements(axis), cache, e.broadcast(position, shape), update)


def _one_hot(ctx: Context) -> Value:
    """Indices from -depth to depth - 1 set the on value; others leave the off value everywhere."""
    indices, values, e = ctx[0], ctx[2], ctx.e
    depth = ctx.constant_int(1, "the depth")
    if depth < 1:
        ctx.fail(f"the depth must be positive, got {depth}")
    rank = indices.type.rank
    axis = ctx.axis(ctx.integer("axis", -1), rank + 1)
    whole = e.cast(indices, DType.i64)
    wrapped = e.where(e.less(whole, 0), e.add(whole, depth), whole)
    hot = one_hot(e, wrapped, axis, depth, DType.boolean)
    return e.where(hot, e.pick(values, 0, 1), e.pick(values, 0, 0))


def _reverse_sequence(ctx: Context) -> Value:
    """Turns the first `lengths[b]` steps of each batch entry round."""
    x, lengths, e = ctx[0], ctx[1], ctx.e
    batch, time = ctx.integer("batch_axis", 1), ctx.integer("time_axis", 0)
    if {batch, time} != {0, 1} or x.type.rank < 2:
        ctx.fail(f"batch_axis and time_axis must be 0 and 1, got {batch} and {time}")
    swapped = (1, 0, *range(2, x.type.rank))
    rows = x if batch == 0 else e.transpose(x, swapped)
    n, steps = rows.type.shape[:2]
    at = e.constant(torch.arange(steps).reshape(1, steps))
    length = e.reshape(e.cast(lengths, DType.i64), (n, 1))
    source = e.where(e.less(at, length), e.sub(e.sub(length, 1), at), e.broadcast(at, (n, steps)))
    turned = ctx(GatherNd(1), rows, e.reshape(source, (n, steps, 1)))
    return turned if batch == 0 else e.transpose(turned, swapped)


def _compress(ctx: Context) -> Value:
    x, e = ctx[0], ctx.e
    kept = ctx.known(1)
    if kept is None:
        ctx.data_dependent()
    if "axis" in ctx.attributes:
        axis = ctx.axis(ctx.integer("axis"), x.type.rank)
    else:
        x, axis = e.reshape(x, (x.type.size,)), 0
    positions = kept.tensor.reshape(-1).nonzero().reshape(-1)
    return ctx(Gather(axis), x, e.constant(positions[positions < x.type.shape[axis]]))


def _non_zero(ctx: Context) -> Value:
    literal = ctx.known(0)
    if literal is None:
        ctx.data_dependent()
    return ctx.e.constant(literal.tensor.nonzero().T.contiguous())


def _unique(ctx: Context) -> list[Item | None]:
    literal = ctx.known(0)
    if literal is None:
        ctx.data_dependent()
    x = literal.tensor.numpy()
    axis = ctx.axis(ctx.integer("axis"), x.ndim) if "axis" in ctx.attributes else None
    y, first, inverse, counts = np.unique(x, True, True, True, axis=axis)
    inverse = inverse.reshape(-1)
    if not ctx.integer("sorted", 1):
        order = np.argsort(first)
        y = np.take(y, order, axis=0 if axis is None else axis)
        position = np.argsort(order)
        first, inverse, counts = first[order], position[inverse], counts[order]
    constants = [Literal(torch.from_numpy(np.ascontiguousarray(y)), literal.type.dtype)]
    constants += [Literal(torch.from_numpy(np.ascontiguousarray(a))) for a in (first, inverse, counts)]
    return [ctx.e.constant(c) for c in constants]


def _non_max_suppression(ctx: Context) -> Value:
    ctx.data_dependent()


IMPORTERS: dict[str, Importer] = {
    "Compress": _compress,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonMaxSuppression": _non_max_suppression,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "ReverseSequence": _reverse_sequence,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TensorScatter": _tensor_scatter,
    "Unique": _unique,
}
