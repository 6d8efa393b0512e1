"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from hardy.compiler.frontends.torch.context import Context, aten
from hardy.compiler.frontends.torch.conv import each
from hardy.compiler.frontends.torch.pad import pad
from hardy.compiler.frontends.torch.shape import gather_axis
from hardy.compiler.ir import Value
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.reduce import ArgMax, ReduceMax, limit
from hardy.compiler.ops.shape import Gather, GatherElements, ScatterElements
from hardy.compiler.types import DType

Pairs = tuple[tuple[int, int], ...]


def _batched(c: Context, x: Value, rank: int) -> Value:
    """x as [batch, channels, *spatial], whatever axes it lacks in front."""
    return c.e.reshape(x, (1,) * (rank + 2 - x.type.rank) + x.type.shape)


def _padding(
    sizes: Sequence[int],
    results: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> Pairs:
    """Padding that gives just `results` windows: more after the end than stated with ceil_mode."""
    pairs = []
    for n, m, k, s, p, d in zip(sizes, results, kernel, strides, pads, dilations, strict=True):
        reach = (m - 1) * s + d * (k - 1) + 1
        pairs.append((p, max(reach - n - p, 0)))
    return tuple(pairs)


def _max_pool(rank: int) -> None:
    @aten(f"max_pool{rank}d", f"max_pool{rank}d_with_indices")
    def import_(
        c: Context,
        x: Value,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> Value | list[Value | None]:
        kernel = each(kernel_size, rank)
        strides = each(stride or kernel, rank)
        dilations = each(dilation, rank)
        pads = each(padding, rank)
        results = c.shape[-rank:]
        y = _batched(c, x, rank)
        pairs = _padding(y.type.shape[2:], results, kernel, strides, pads, dilations)
        values = c.e.reshape(c(MaxPool(kernel, strides, pairs, dilations), y), c.shape)
        if len(c.types) == 1:
            return values
        if not c.used(1):
            return [values, None]
        windows = [
            torch.arange(m)[:, None] * s + torch.arange(k) * d - p
            for m, k, s, d, p in zip(results, kernel, strides, dilations, pads, strict=True)
        ]
        return [values, _positions(c, y, windows)]


for _rank in (1, 2, 3):
    _max_pool(_rank)


def _positions(c: Context, x: Value, windows: Sequence[torch.Tensor]) -> Value:
    """Where in the flattened spatial axes of x each window's greatest element lies.

    `windows` holds, for each spatial axis, the positions [results, kernel]; those outside do not count.
    """
    e = c.e
    sizes = x.type.shape[2:]
    results = [w.shape[0] for w in windows]
    # Flat positions of all windows' elements: [*results, *kernel], -1 outside x.
    flat = torch.zeros((), dtype=torch.int64)
    inside = torch.ones((), dtype=torch.bool)
    rank = len(windows)
    for axis, (w, n) in enumerate(zip(windows, sizes, strict=True)):
        view = [1] * (2 * rank)
        view[axis], view[rank + axis] = w.shape
        flat = flat * n + w.reshape(view)
        inside = inside & ((w >= 0) & (w < n)).reshape(view)
    count = math.prod(results)
    flat, inside = flat.reshape(count, -1), inside.expand(flat.shape).reshape(count, -1)
    table = torch.where(inside, flat, 0)
    picked = gather_axis(c, e.reshape(x, (*x.type.shape[:2], math.prod(sizes))), 2, table)
    if not bool(inside.all()):
        lowest = limit(x.type.dtype.torch, lowest=True)
        picked = e.where(e.constant(inside), picked, float(lowest))
    best = c(ArgMax(3, True), picked)
    tables = e.broadcast(e.constant(table), picked.type.shape)
    return e.reshape(c(GatherElements(3), tables, best), c.shape)


def _avg_pool(rank: int) -> None:
    @aten(f"avg_pool{rank}d")
    def import_(
        c: Context,
        x: Value,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        kernel = each(kernel_size, rank)
        strides = each(stride or kernel, rank)
        pads = each(padding, rank)
        ones = (1,) * rank
        y = _batched(c, x, rank)
        pairs = _padding(y.type.shape[2:], c.shape[-rank:], kernel, strides, pads, ones)
        if divisor_override is not None:
            y = c(AvgPool(kernel, strides, pairs, ones, count_padding=True), y)
            y = c.e.mul(y, math.prod(kernel) / divisor_override)
        elif not count_include_pad:
            y = c(AvgPool(kernel, strides, pairs, ones), y)
        elif all(high <= p for (_, high), p in zip(pairs, pads, strict=True)):
            y = c(AvgPool(kernel, strides, pairs, ones, count_padding=any(pads)), y)
        else:
            # What ceil_mode adds beyond the padding is not counted; the padding is.
            y = pad(c, y, [(0, 0), (0, 0), *[(p, p) for p in pads]])
            beyond = tuple((0, max(high - p, 0)) for (_, high), p in zip(pairs, pads, strict=True))
            y = c(AvgPool(kernel, strides, beyond, ones), y)
        return c.e.reshape(y, c.shape)


for _rank in (1, 2, 3):
    _avg_pool(_rank)


def _bins(size: int, count: int) -> list[tuple[int, int]]:
    """Start and end of each of `count` bins of an adaptive pool."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _adaptive_avg(rank: int) -> Callable[..., Value]:
    def import_(c: Context, x: Value, output_size: Sequence[int]) -> Value:
        y = _batched(c, x, rank)
        sizes = y.type.shape[2:]
        results = c.shape[-rank:]
        if 0 in c.shape:
            return c.e.zeros(c.type)
        if all(m == 1 for m in results):
            return c.e.reshape(c(ReduceMean(tuple(range(2, 2 + rank)), True), y), c.shape)
        if all(n % m == 0 for n, m in zip(sizes, results, strict=True)):
            kernel = tuple(n // m for n, m in zip(sizes, results, strict=True))
            pool = AvgPool(kernel, kernel, ((0, 0),) * rank, (1,) * rank)
            return c.e.reshape(c(pool, y), c.shape)
        for axis, (n, m) in enumerate(zip(sizes, results, strict=True), 2):
            weights = torch.zeros(n, m, dtype=torch.float64)
            for i, (start, end) in enumerate(_bins(n, m)):
                weights[start:end, i] = 1 / (end - start)
            matrix = c.e.constant(weights.to(c.dtype.torch))
            last = y.type.rank - 1
            y = c.e.move_axis(c(Matmul(), c.e.move_axis(y, axis, last), matrix), last, axis)
        return c.e.reshape(y, c.shape)

    return import_


aten("adaptive_avg_pool1d")(_adaptive_avg(1))
aten("adaptive_avg_pool2d", "_adaptive_avg_pool2d")(_adaptive_avg(2))
aten("adaptive_avg_pool3d", "_adaptive_avg_pool3d")(_adaptive_avg(3))


def _adaptive_max(rank: int) -> None:
    @aten(f"adaptive_max_pool{rank}d")
    def import_(c: Context, x: Value, output_size: Sequence[int]) -> list[Value | None]:
        if 0 in c.shape:
            return [c.e.zeros(t) for t in c.types if t is not None]
        batched = _batched(c, x, rank)
        windows = []
        for n, m in zip(batched.type.shape[2:], c.shape[-rank:], strict=True):
            bins = _bins(n, m)
            longest = max(end - start for start, end in bins)
            # A bin that is shorter than the longest repeats its last element.
            windows.append(torch.tensor([[min(s + k, e - 1) for k in range(longest)] for s, e in bins]))
        y = batched
        for axis, w in enumerate(windows, 2):
            y = c(ReduceMax((axis + 1,)), c(Gather(axis), y, c.e.constant(w)))
        positions = _positions(c, batched, windows) if c.used(1) else None
        return [c.e.reshape(y, c.shape), positions]


for _rank in (1, 2, 3):
    _adaptive_max(_rank)


def _max_unpool(rank: int) -> None:
    @aten(f"max_unpool{rank}d")
    def import_(c: Context, x: Value, indices: Value, *sizes: object) -> Value:
        e = c.e
        lead = x.type.shape[: x.type.rank - rank]
        zeros = e.full((*lead, math.prod(c.shape[-rank:])), 0, c.dtype)
        count = math.prod(x.type.shape[-rank:])
        at = e.cast(e.reshape(indices, (*lead, count)), DType.i64)
        placed = c(ScatterElements(len(lead)), zeros, at, e.reshape(x, (*lead, count)))
        return e.reshape(placed, c.shape)


for _rank in (2, 3):
    _max_unpool(_rank)
