"""Sampling images at positions computed at run time: GridSample, RoiAlign, deformable convolution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hardy.compiler.frontends.emit import Emitter
from hardy.compiler.frontends.onnx.context import Context, Importer
from hardy.compiler.frontends.onnx.conv import window, window_count
from hardy.compiler.ir import Value
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops.activation import Clamp
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.reduce import ReduceMax
from hardy.compiler.ops.shape import Gather, GatherNd
from hardy.compiler.types import DType


@dataclass(frozen=True)
class Tap:
    """One neighbour of each position on one axis: its weight and index (floats), and if it exists."""

    weight: Value | None
    index: Value
    inside: Value | None


@dataclass(frozen=True)
class Sampler:
    """How positions become neighbours. `borders` are where reflection turns round, for each axis."""

    e: Emitter
    sizes: tuple[int, ...]
    mode: str = "linear"
    padding: str = "zeros"
    align_corners: bool = False

    def __call__(self, x: Value, positions: Sequence[Value]) -> Value:
        """[batch, points, channels] of x [batch, channels, *sizes]; a [batch, points] for each axis."""
        e = self.e
        batch, channels = x.type.shape[:2]
        points = positions[0].type.shape[1]
        rows = e.transpose(e.reshape(x, (batch, channels, math.prod(self.sizes))), (0, 2, 1))
        axes = [self._taps(p, n) for p, n in zip(positions, self.sizes, strict=True)]
        total = None
        for taps in itertools.product(*axes):
            index = taps[0].index
            for tap, size in zip(taps[1:], self.sizes[1:], strict=True):
                index = e.add(e.mul(index, size), tap.index)
            picked = e(GatherNd(1), rows, e.reshape(index, (batch, points, 1)))
            for tap in taps:
                if tap.weight is not None:
                    picked = e.mul(picked, e.reshape(e.cast(tap.weight, x.type.dtype), (batch, points, 1)))
                if tap.inside is not None:
                    picked = e.where(e.reshape(tap.inside, (batch, points, 1)), picked, 0)
            total = picked if total is None else e.add(total, picked)
        assert total is not None
        return total

    def _taps(self, position: Value, size: int) -> list[Tap]:
        e = self.e
        if self.mode != "cubic" and self.padding == "border":
            position = e(Clamp(0.0, size - 1.0), position)
        if self.mode != "cubic" and self.padding == "reflection":
            position = self._reflect(position, size)
        if self.mode == "nearest":
            return [self._tap(None, e(ew.Round(), position), size)]
        low = e(ew.Floor(), position)
        part = e.sub(position, low)
        if self.mode == "linear":
            return [self._tap(e.sub(1, part), low, size), self._tap(part, e.add(low, 1), size)]
        return [self._tap(_keys(e, e.sub(part, i)), e.add(low, i), size) for i in (-1, 0, 1, 2)]

    def _tap(self, weight: Value | None, index: Value, size: int) -> Tap:
        e = self.e
        inside = None
        if self.padding == "zeros":
            inside = e(ew.And(), e.less_equal(0, index), e.less_equal(index, size - 1))
        elif self.padding == "reflection":
            index = self._reflect(index, size)
        # Clamped as floats: what lies far outside has no integer.
        return Tap(weight, e.cast(e(Clamp(0.0, size - 1.0), index), DType.i64), inside)

    def _reflect(self, position: Value, size: int) -> Value:
        """A triangle wave between the borders, which are elements' centres or their edges."""
        e = self.e
        low, high = (0.0, size - 1.0) if self.align_corners else (-0.5, size - 0.5)
        span = high - low
        if span <= 0:
            return e.mul(position, 0)
        distance = e(ew.Abs(), e.sub(position, low))
        wave = e(ew.Rem(), distance, e.scalar(2 * span, position.type.dtype))
        return e.add(e.min(wave, e.sub(2 * span, wave)), low)


def _keys(e: Emitter, t: Value) -> Value:
    """Keys' cubic kernel with a = -0.75 ("Cubic convolution interpolation", 1981), for |t| <= 2."""
    a = -0.75
    t = e(ew.Abs(), t)
    near = e.add(e.mul(e.mul(e.sub(e.mul(t, a + 2), a + 3), t), t), 1)
    far = e.sub(e.mul(e.mul(e.add(e.mul(e.sub(t, 5), t), 8), t), a), 4 * a)
    return e.where(e.less_equal(t, 1), near, far)


def _grid_sample(ctx: Context) -> Value:
    x, grid, e = ctx[0], ctx[1], ctx.e
    rank = x.type.rank - 2
    batch, channels, *sizes = x.type.shape
    if (
        rank < 1
        or grid.type.rank != x.type.rank
        or grid.type.shape[0] != batch
        or grid.type.shape[-1] != rank
    ):
        ctx.fail(f"grid {grid.type} does not fit {x.type}")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(
        ctx.text("mode", "linear"), ctx.text("mode", "linear")
    )
    padding = ctx.text("padding_mode", "zeros")
    if mode not in ("linear", "nearest", "cubic") or padding not in ("zeros", "border", "reflection"):
        ctx.fail(f"unknown mode {mode!r} or padding mode {padding!r}")
    align = bool(ctx.integer("align_corners", 0))
    points = grid.type.shape[1:-1]
    grid = e.reshape(grid, (batch, math.prod(points), rank))
    if grid.type.dtype.bits < 32:
        grid = e.cast(grid, DType.f32)
    positions = []
    for axis, size in enumerate(sizes):
        g = e.add(e.pick(grid, 2, rank - 1 - axis), 1)  # the grid holds x before y
        positions.append(e.mul(g, (size - 1) / 2) if align else e.div(e.sub(e.mul(g, size), 1), 2))
    sampled = Sampler(e, tuple(sizes), mode, padding, align)(x, positions)
    return e.reshape(e.transpose(sampled, (0, 2, 1)), (batch, channels, *points))


def _deform_conv(ctx: Context) -> Value:
    """Each kernel element reads x at its place plus an offset; the rest is a matrix product."""
    x, weight, offset, e = ctx[0], ctx[1], ctx[2], ctx.e
    batch, channels, *sizes = x.type.shape
    rank = len(sizes)
    outputs, per_group, *kernel = weight.type.shape
    w = window(ctx, sizes, kernel)
    groups, offset_groups = ctx.integer("group", 1), ctx.integer("offset_group", 1)
    result = window_count(w, sizes)
    taps, points = math.prod(kernel), math.prod(result)
    expected = (batch, offset_groups * taps * rank, *result)
    if offset.type.shape != expected or channels % offset_groups or per_group * groups != channels:
        ctx.fail(
            f"offset {offset.type} (expected {list(expected)}) and weight {weight.type} do not fit {x.type}"
        )
    split = e.reshape(offset, (batch * offset_groups, taps, rank, points))
    positions = []
    for axis in range(rank):
        place = torch.arange(kernel[axis]) * w.dilations[axis] - w.padding[axis][0]
        start = torch.arange(result[axis]) * w.strides[axis]
        views = [1] * (2 * rank)
        views[axis] = kernel[axis]
        at = place.reshape(views)
        views = [1] * (2 * rank)
        views[rank + axis] = result[axis]
        at = (at + start.reshape(views)).expand(*kernel, *result).reshape(1, taps, points)
        moved = e.add(e.pick(split, 2, axis), e.constant(at.to(offset.type.dtype.torch)))
        positions.append(e.reshape(moved, (batch * offset_groups, taps * points)))
    rows = e.reshape(x, (batch * offset_groups, channels // offset_groups, *sizes))
    sampled = Sampler(e, tuple(sizes))(rows, positions)
    if ctx.has(4):
        sampled = e.mul(sampled, e.reshape(ctx[4], (batch * offset_groups, taps * points, 1)))
    columns = e.reshape(e.transpose(sampled, (0, 2, 1)), (batch, groups, per_group * taps, points))
    matrix = e.reshape(weight, (groups, outputs // groups, per_group * taps))
    y = e.reshape(ctx(Matmul(), matrix, columns), (batch, outputs, *result))
    return e.add(y, e.reshape(ctx[3], (outputs, *[1] * rank))) if ctx.has(3) else y


def _roi_align(ctx: Context) -> Value:
    x, rois, e = ctx[0], ctx[1], ctx.e
    if x.type.rank != 4 or rois.type.rank != 2 or rois.type.shape[1] != 4:
        ctx.fail(f"RoiAlign of {x.type} with regions {rois.type}")
    batch, channels, height, width = x.type.shape
    count = rois.type.shape[0]
    samples = ctx.integer("sampling_ratio", 0)
    if samples < 1:
        ctx.unsupported(
            "RoiAlign with sampling_ratio 0: how many samples it takes depends on the regions",
            hint="export it with a positive sampling_ratio",
        )
    mode = ctx.text("mode", "avg")
    half = ctx.text(
        "coordinate_transformation_mode", "half_pixel" if ctx.opset >= 16 else "output_half_pixel"
    )
    pixel = half == "half_pixel"
    edges = e.sub(e.mul(rois, ctx.real("spatial_scale", 1.0)), 0.5 if pixel else 0.0)
    bins = (ctx.integer("output_height", 1), ctx.integer("output_width", 1))
    axes = []
    for axis, (size, parts) in enumerate(zip((height, width), bins, strict=True)):
        start, end = (e.slice(edges, 1, i, i + 1) for i in (1 - axis, 3 - axis))
        span = e.sub(end, start)
        span = span if pixel else e.max(span, 1)
        fractions = (torch.arange(parts * samples) + 0.5) / (parts * samples)
        at = e.add(start, e.mul(span, e.constant(fractions.to(rois.type.dtype.torch)[None])))
        axes.append(_edge_taps(e, at, size))
    first = e.reshape(e.mul(e.cast(ctx[2], DType.i64), height * width), (count, 1, 1))
    pixels = e.reshape(e.transpose(x, (0, 2, 3, 1)), (batch * height * width, channels))
    values = []
    for row, column in itertools.product(*axes):
        down = e.reshape(e.mul(row.index, width), (count, bins[0] * samples, 1))
        across = e.reshape(column.index, (count, 1, bins[1] * samples))
        picked = ctx(Gather(0), pixels, e.add(e.add(first, down), across))
        for tap, shape in ((row, (count, -1, 1, 1)), (column, (count, 1, -1, 1))):
            assert tap.weight is not None
            sized = [tap.weight.type.shape[1] if n == -1 else n for n in shape]
            picked = e.mul(picked, e.reshape(e.cast(tap.weight, x.type.dtype), sized))
        values.append(picked)
    total = values[0]
    for value in values[1:]:
        total = e.max(total, value) if mode == "max" else e.add(total, value)
    grouped = e.reshape(total, (count, bins[0], samples, bins[1], samples, channels))
    pooled = ctx(ReduceMax((2, 4)) if mode == "max" else ReduceMean((2, 4)), grouped)
    return e.transpose(pooled, (0, 3, 1, 2))


def _edge_taps(e: Emitter, position: Value, size: int) -> list[Tap]:
    """Both neighbours; positions up to one element outside take the edge, those further out nothing."""
    inside = e(ew.And(), e.less_equal(-1, position), e.less_equal(position, size))
    clamped = e(Clamp(0.0, size - 1.0), position)
    low = e.min(e(ew.Floor(), clamped), size - 1)
    part = e.sub(clamped, low)
    high = e.min(e.add(low, 1), size - 1)
    return [
        Tap(e.where(inside, weight, 0), e.cast(index, DType.i64), None)
        for weight, index in ((e.sub(1, part), low), (part, high))
    ]


IMPORTERS: dict[str, Importer] = {
    "DeformConv": _deform_conv,
    "GridSample": _grid_sample,
    "RoiAlign": _roi_align,
}
