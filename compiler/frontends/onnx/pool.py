"""Pooling over sliding windows and whole images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.frontends.onnx.conv import Pairs, Window, cropped, window, window_count
from hardy.compiler.frontends.onnx.shape import pad_constant
from hardy.compiler.ir import Value
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.reduce import ArgMax, ReduceMax, ReduceSum, limit
from hardy.compiler.ops.shape import GatherElements, ScatterElements, Slice
from hardy.compiler.types import TensorType


@dataclass(frozen=True)
class Pooling:
    """A window and by how much `ceil_mode` lets it reach past the padding, for each axis."""

    window: Window
    beyond: tuple[int, ...]

    @property
    def padding(self) -> Pairs:
        return tuple(
            (low, high + more) for (low, high), more in zip(self.window.padding, self.beyond, strict=True)
        )

    @property
    def extended(self) -> Window:
        return replace(self.window, padding=self.padding)


def _pooling(ctx: Context, x: Value) -> Pooling:
    if x.type.rank < 3:
        ctx.fail(f"{ctx.node.op_type} needs [batch, channels, spatial...], got {x.type}")
    spatial = x.type.shape[2:]
    w = window(ctx, spatial, ctx.integers("kernel_shape"))
    beyond = [0] * len(spatial)
    if ctx.integer("ceil_mode", 0):
        for i, (n, k, s, (low, high), d) in enumerate(
            zip(spatial, w.kernel, w.strides, w.padding, w.dilations, strict=True)
        ):
            span = n + low + high - d * (k - 1) - 1
            steps = -(-span // s)
            if steps * s >= n + low:  # a window must start inside the data or the padding before it
                steps -= 1
            beyond[i] = max(steps * s - span, 0)
    return Pooling(w, tuple(beyond))


def _arguments(w: Window, padding: Pairs) -> tuple[tuple[int, ...], tuple[int, ...], Pairs, tuple[int, ...]]:
    return w.kernel, w.strides, padding, w.dilations


def average_pool(ctx: Context) -> Value:
    x = ctx[0]
    p = _pooling(ctx, x)
    counted = bool(ctx.integer("count_include_pad", 0))
    if not counted or not any(p.beyond):
        y, padding = cropped(ctx, x, p.padding)
        return ctx(AvgPool(*_arguments(p.window, padding), count_padding=counted), y)
    # The padding counts, what lies beyond it does not.
    total = _window_sum(ctx, x, p)
    counts = torch.ones(())
    for i, n in enumerate(x.type.shape[2:]):
        low, high = p.window.padding[i]
        starts = torch.arange(total.type.shape[2 + i]) * p.window.strides[i]
        taps = starts[:, None] + torch.arange(p.window.kernel[i]) * p.window.dilations[i]
        inside = (taps < low + n + high).sum(1)
        view = [1] * (x.type.rank - 2)
        view[i] = -1
        counts = counts * inside.reshape(view)
    return ctx.e.div(total, ctx.e.constant(counts.to(x.type.dtype.torch)))


def _window_sum(ctx: Context, x: Value, p: Pooling) -> Value:
    mean = ctx(AvgPool(*_arguments(p.window, p.padding), count_padding=True), x)
    return ctx.e.mul(mean, math.prod(p.window.kernel))


def _max_pool(ctx: Context) -> list[Item | None]:
    x = ctx[0]
    p = _pooling(ctx, x)
    y, padding = cropped(ctx, x, p.padding)
    result = ctx(MaxPool(*_arguments(p.window, padding)), y)
    positions = None
    if ctx.wants(1):
        positions = _positions_of_greatest(ctx, x, p, bool(ctx.integer("storage_order", 0)))
    return [result, positions]


def _positions_of_greatest(ctx: Context, x: Value, p: Pooling, column_major: bool) -> Value:
    """Where in x, flattened, the greatest element of each window lies.

    One strided slice for each place in the window, then the place with the greatest element, then a
    table from place and window to position.
    """
    e, w, spatial = ctx.e, p.extended, x.type.shape[2:]
    low, high = ([0, 0, *[pair[i] for pair in p.padding]] for i in (0, 1))
    padded = pad_constant(ctx, x, low, high, float(limit(x.type.dtype.torch, lowest=True)))
    counts = window_count(w, spatial)
    strides = _strides(spatial, column_major)
    candidates, table = [], []
    for place in itertools.product(*map(range, w.kernel)):
        starts = [o * d for o, d in zip(place, w.dilations, strict=True)]
        stops = [a + (c - 1) * s + 1 for a, c, s in zip(starts, counts, w.strides, strict=True)]
        op = Slice((0, 0, *starts), (*x.type.shape[:2], *stops), (1, 1, *w.strides))
        candidates.append(ctx(op, padded))
        position = torch.zeros((), dtype=torch.int64)
        for i, (start, count) in enumerate(zip(starts, counts, strict=True)):
            view = [1] * len(spatial)
            view[i] = count
            at = start - p.padding[i][0] + torch.arange(count) * w.strides[i]
            position = position + (at * strides[i]).reshape(view)
        table.append(position)
    place_index = ctx(ArgMax(0), e.stack(candidates, 0))
    shape = place_index.type.shape
    lookup = e.broadcast(e.constant(torch.stack(table)[:, None, None]), (len(table), *shape))
    within = ctx(GatherElements(0), lookup, e.reshape(place_index, (1, *shape)))
    images = torch.arange(math.prod(shape[:2])) * math.prod(spatial)
    offset = e.constant(images.reshape(*shape[:2], *[1] * len(spatial)))
    return e.add(e.reshape(within, shape), offset)


def _strides(spatial: Sequence[int], column_major: bool) -> list[int]:
    if column_major:
        return [math.prod(spatial[:i]) for i in range(len(spatial))]
    return [math.prod(spatial[i + 1 :]) for i in range(len(spatial))]


def _power(ctx: Context, x: Value, p: int) -> Value:
    size = ctx(ew.Abs(), x)
    return size if p == 1 else ctx(ew.Pow(), size, ctx.e.scalar(p, x.type.dtype))


def _root(ctx: Context, x: Value, p: int) -> Value:
    if p == 1:
        return x
    return ctx(ew.Sqrt(), x) if p == 2 else ctx(ew.Pow(), x, ctx.e.scalar(1 / p, x.type.dtype))


def _lp_pool(ctx: Context) -> Value:
    p = ctx.integer("p", 2)
    return _root(ctx, _window_sum(ctx, _power(ctx, ctx[0], p), _pooling(ctx, ctx[0])), p)


def _spatial_axes(ctx: Context) -> tuple[int, ...]:
    return tuple(range(2, ctx[0].type.rank))


def _global_average_pool(ctx: Context) -> Value:
    return ctx(ReduceMean(_spatial_axes(ctx), True), ctx[0])


def _global_max_pool(ctx: Context) -> Value:
    return ctx(ReduceMax(_spatial_axes(ctx), True), ctx[0])


def _global_lp_pool(ctx: Context) -> Value:
    p = ctx.integer("p", 2)
    return _root(ctx, ctx(ReduceSum(_spatial_axes(ctx), True), _power(ctx, ctx[0], p)), p)


def _max_unpool(ctx: Context) -> Value:
    """Puts the elements back where MaxPool found them; other elements are 0."""
    x, indices, e = ctx[0], ctx[1], ctx.e
    rank = x.type.rank - 2
    kernel = ctx.integers("kernel_shape")
    strides, pads = ctx.integers("strides", (1,) * rank), ctx.integers("pads", (0,) * (2 * rank))
    if {len(kernel), len(strides), len(pads) // 2} != {rank}:
        ctx.fail(f"kernel {kernel}, strides {strides} and pads {pads} do not fit {x.type}")
    spatial = [
        (n - 1) * s + k - pads[i] - pads[i + rank]
        for i, (n, k, s) in enumerate(zip(x.type.shape[2:], kernel, strides, strict=True))
    ]
    shape = (*x.type.shape[:2], *spatial)
    empty = e.zeros(TensorType(x.type.dtype, (math.prod(shape),)))
    flat = ctx(ScatterElements(0), empty, e.reshape(indices, (x.type.size,)), e.reshape(x, (x.type.size,)))
    y = e.reshape(flat, shape)
    if not ctx.has(2):
        return y
    wanted = ctx.constant_ints(2, "the result's shape")
    if len(wanted) != len(shape):
        ctx.fail(f"output_shape {list(wanted)} does not fit {y.type}")
    return pad_constant(ctx, y, [0] * len(shape), [a - b for a, b in zip(wanted, shape, strict=True)])


IMPORTERS: dict[str, Importer] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalLpPool": _global_lp_pool,
    "GlobalMaxPool": _global_max_pool,
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
    "MaxUnpool": _max_unpool,
}
