"""Views, joins, padding and other movement of elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hardy.compiler.frontends.torch.context import Context, Operand, aten
from hardy.compiler.ir import Value
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops.shape import Gather, Pad, Reverse, Slice
from hardy.compiler.types import DType


@aten(
    "alias",
    "clone",
    "contiguous",
    "detach",
    "detach_",
    "lift_fresh_copy",
    "lift_fresh",
    "lift",
    "positive",
    "resolve_conj",
    "resolve_neg",
    "conj",
    "_conj",
    "conj_physical",
    "_conj_physical",
    "real",
)
def _identity(c: Context, x: Value, **options: Any) -> Value:
    return x


@aten("clone", namespace="prims")
def _prims_clone(c: Context, x: Value, **options: Any) -> Value:
    return x


@aten("_to_copy", "to.dtype", "to.device", "to.dtype_layout")
def _to_copy(c: Context, x: Value, *rest: Any, **options: Any) -> Value:
    return cast(c, x, c.dtype)


def cast(c: Context, x: Value, dtype: DType) -> Value:
    return c.e.cast(x, dtype)


@aten("view", "reshape", "_unsafe_view", "view_copy", "_reshape_alias")
def _view(c: Context, x: Value, *shape: Any) -> Value:
    return c.e.reshape(x, c.shape)


@aten(
    "unsqueeze", "squeeze", "squeeze.dim", "squeeze.dims", "flatten.using_ints", "unflatten.int", "atleast_1d"
)
def _same_elements(c: Context, x: Value, *rest: Any) -> Value:
    return c.e.reshape(x, c.shape)


@aten("view.dtype")
def _view_dtype(c: Context, x: Value, dtype: torch.dtype) -> Value:
    if c.dtype is not x.type.dtype:
        c.unsupported(f"reading the bytes of {x.type} as {c.dtype}")
    return x


@aten("permute")
def _permute(c: Context, x: Value, dims: Sequence[int]) -> Value:
    return c.e.transpose(x, [c.axis(d, x.type.rank) for d in dims])


def swap(c: Context, x: Value, first: int, second: int) -> Value:
    order = list(range(x.type.rank))
    if order:
        a, b = c.axis(first, x.type.rank), c.axis(second, x.type.rank)
        order[a], order[b] = order[b], order[a]
    return c.e.transpose(x, order)


aten("transpose.int")(swap)


@aten("t", "numpy_T", "mT", "mH")
def _t(c: Context, x: Value) -> Value:
    return swap(c, x, -2, -1) if x.type.rank >= 2 else x


@aten("expand", "broadcast_to")
def _expand(c: Context, x: Value, size: Sequence[int], *, implicit: bool = False) -> Value:
    return c.e.broadcast(x, c.shape)


def slice_axis(c: Context, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """x[start:stop:step] along an axis, with bounds inside it."""
    if step == 1:
        return c.e.slice(x, axis, start, max(start, stop))
    starts, stops, steps = [0] * x.type.rank, list(x.type.shape), [1] * x.type.rank
    starts[axis], stops[axis], steps[axis] = start, max(start, stop), step
    return c(Slice(tuple(starts), tuple(stops), tuple(steps)), x)


@aten("slice.Tensor")
def _slice(
    c: Context, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    axis = c.axis(dim, x.type.rank)
    first, last, _ = slice(start, end).indices(x.type.shape[axis])
    return slice_axis(c, x, axis, first, last, step)


@aten("narrow")
def _narrow(c: Context, x: Value, dim: int, start: int, length: int) -> Value:
    axis = c.axis(dim, x.type.rank)
    first = start % max(x.type.shape[axis], 1) if start < 0 else start
    return c.e.slice(x, axis, first, first + length)


@aten("select.int")
def _select(c: Context, x: Value, dim: int, index: int) -> Value:
    axis = c.axis(dim, x.type.rank)
    return c.e.pick(x, axis, index % x.type.shape[axis])


@aten("split_with_sizes", "split_with_sizes_copy")
def _split_with_sizes(c: Context, x: Value, sizes: Sequence[int], dim: int = 0) -> list[Value]:
    return c.e.split(x, c.axis(dim, x.type.rank), sizes)


@aten("split.Tensor", "split.sizes", "chunk", "unsafe_split.Tensor")
def _split(c: Context, x: Value, size: Any, dim: int = 0) -> list[Value]:
    axis = c.axis(dim, x.type.rank)
    sizes = [t.shape[axis] for t in c.types if t is not None]
    return c.e.split(x, axis, sizes)


@aten("unbind.int")
def _unbind(c: Context, x: Value, dim: int = 0) -> list[Value]:
    axis = c.axis(dim, x.type.rank)
    return [c.e.pick(x, axis, i) for i in range(x.type.shape[axis])]


@aten("cat")
def cat(c: Context, tensors: Sequence[Value], dim: int = 0) -> Value:
    axis = c.axis(dim, c.type.rank)
    # A vector of no elements joins anything, by an old rule of torch.
    kept = [t for t in tensors if t.type.shape != (0,) or c.type.rank == 1]
    return c.e.concat([c.value(t, c.dtype) for t in kept], axis)


@aten("stack")
def _stack(c: Context, tensors: Sequence[Value], dim: int = 0) -> Value:
    return c.e.stack([c.value(t, c.dtype) for t in tensors], c.axis(dim, c.type.rank))


@aten("flip")
def _flip(c: Context, x: Value, dims: Sequence[int]) -> Value:
    axes = tuple(sorted({c.axis(d, x.type.rank) for d in dims})) if x.type.rank else ()
    return c(Reverse(axes), x) if axes else x


@aten("roll")
def _roll(c: Context, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    if not dims:
        flat = c.e.reshape(x, (x.type.size,))
        return c.e.reshape(_roll(c, flat, shifts, [0]), x.type.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        axis = c.axis(dim, x.type.rank)
        n = x.type.shape[axis] if x.type.rank else 0
        cut = n - shift % n if n else 0
        if 0 < cut < n:
            x = c.e.concat([c.e.slice(x, axis, cut, n), c.e.slice(x, axis, 0, cut)], axis)
    return x


@aten("repeat", "tile")
def _repeat(c: Context, x: Value, repeats: Sequence[int]) -> Value:
    """Repeats through an axis in front of each repeated one."""
    rank = len(c.shape)
    shape = (1,) * (rank - x.type.rank) + x.type.shape
    counts = [1] * (rank - len(repeats)) + list(repeats)
    if counts == [1] * rank:
        return c.e.reshape(x, shape)
    split: list[int] = []
    full: list[int] = []
    for n, count in zip(shape, counts, strict=True):
        split += [1, n] if count != 1 else [n]
        full += [count, n] if count != 1 else [n]
    return c.e.reshape(c.e.broadcast(c.e.reshape(x, split), full), c.shape)


def triangle(shape: Sequence[int], diagonal: int, upper: bool) -> torch.Tensor:
    """Where the upper or lower triangle of the last two axes lies: bool [rows, columns]."""
    rows, columns = torch.arange(shape[-2])[:, None], torch.arange(shape[-1])[None, :]
    return columns - rows >= diagonal if upper else columns - rows <= diagonal


@aten("tril")
def _tril(c: Context, x: Value, diagonal: int = 0) -> Value:
    keep = c.e.constant(triangle(x.type.shape, diagonal, upper=False))
    return c.e.where(keep, x, 0)


@aten("triu")
def _triu(c: Context, x: Value, diagonal: int = 0) -> Value:
    keep = c.e.constant(triangle(x.type.shape, diagonal, upper=True))
    return c.e.where(keep, x, 0)


def pad(c: Context, x: Value, pairs: Sequence[tuple[int, int]], value: Operand = 0.0) -> Value:
    """Pads each axis by (low, high); a negative amount crops."""
    for axis, (low, high) in enumerate(pairs):
        if low < 0 or high < 0:
            x = c.e.slice(x, axis, max(-low, 0), x.type.shape[axis] - max(-high, 0))
    lows, highs = (tuple(max(p[i], 0) for p in pairs) for i in (0, 1))
    if not any(lows) and not any(highs):
        return x
    assert not isinstance(value, Value)
    return c(Pad(lows, highs, float(value)), x)


def pad_pairs(pads: Sequence[int], rank: int) -> list[tuple[int, int]]:
    """torch's flat list, which starts with the last axis, as a pair for each axis."""
    pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]
    return [(0, 0)] * (rank - len(pairs)) + pairs[::-1]


@aten("constant_pad_nd")
def _constant_pad(c: Context, x: Value, pads: Sequence[int], value: Operand = 0) -> Value:
    return pad(c, x, pad_pairs(pads, x.type.rank), value)


@aten("pad")
def _pad(
    c: Context, x: Value, pads: Sequence[int], mode: str = "constant", value: float | None = None
) -> Value:
    pairs = pad_pairs(pads, x.type.rank)
    if mode == "constant":
        return pad(c, x, pairs, value or 0.0)
    for axis, (low, high) in enumerate(pairs):
        if mode == "circular" and min(low, high) < 0:
            # Negative padding crops, and what is left wraps round.
            x = c.e.slice(x, axis, max(-low, 0), x.type.shape[axis] - max(-high, 0))
            low, high = max(low, 0), max(high, 0)
        if low or high:
            n = x.type.shape[axis]
            x = gather_axis(c, x, axis, pad_positions(n, low, high, mode))
    return x


def pad_positions(size: int, low: int, high: int, mode: str) -> torch.Tensor:
    """Which element each position of a padded axis repeats."""
    at = torch.arange(-low, size + high)
    if mode == "replicate":
        return at.clamp(0, size - 1)
    if mode == "circular":
        return at % size
    return size - 1 - (size - 1 - at.abs()).abs()  # reflect


def gather_axis(c: Context, x: Value, axis: int, positions: torch.Tensor) -> Value:
    """x at fixed positions along an axis; the positions' shape replaces it."""
    return c(Gather(axis), x, c.e.constant(positions))


def _fixed_padding(mode: str) -> Callable[..., Value]:
    def import_(c: Context, x: Value, pads: Sequence[int]) -> Value:
        return _pad(c, x, pads, mode)

    return import_


aten("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")(_fixed_padding("reflect"))
aten("replication_pad1d", "replication_pad2d", "replication_pad3d")(_fixed_padding("replicate"))
aten("_pad_circular")(_fixed_padding("circular"))


@aten("as_strided", "as_strided_copy")
def _as_strided(
    c: Context, x: Value, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Value:
    """Elements by their address; known only where torch lays x out in order."""
    source = c.node.args[0].meta["val"]  # type: ignore[union-attr]
    if not source.is_contiguous():
        c.unsupported(
            "a strided view of a tensor that is not contiguous", hint="call .contiguous() before it"
        )
    positions = torch.full(tuple(size), storage_offset or 0, dtype=torch.int64)
    for axis, (n, step) in enumerate(zip(size, stride, strict=True)):
        positions = positions + (torch.arange(n) * step).reshape(
            [-1 if i == axis else 1 for i in range(len(size))]
        )
    flat = c.e.reshape(x, (x.type.size,))
    return gather_axis(c, flat, 0, positions)


@aten("unfold")
def _unfold(c: Context, x: Value, dim: int, size: int, step: int) -> Value:
    if x.type.rank == 0:
        return c.e.reshape(x, c.shape)
    axis = c.axis(dim, x.type.rank)
    starts = torch.arange(0, x.type.shape[axis] - size + 1, step)
    windows = gather_axis(c, x, axis, starts[:, None] + torch.arange(size))
    return c.e.move_axis(windows, axis + 1, windows.type.rank - 1)


@aten("diagonal", "diagonal_copy")
def _diagonal(c: Context, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    first, second = c.axis(dim1, x.type.rank), c.axis(dim2, x.type.rank)
    rest = [i for i in range(x.type.rank) if i not in (first, second)]
    x = c.e.transpose(x, [*rest, first, second])
    rows, columns = x.type.shape[-2:]
    positions = diagonal_positions(rows, columns, offset)
    flat = c.e.reshape(x, (*x.type.shape[:-2], rows * columns))
    return gather_axis(c, flat, flat.type.rank - 1, positions)


def diagonal_positions(rows: int, columns: int, offset: int) -> torch.Tensor:
    """Positions of a diagonal in a flattened matrix."""
    row, column = max(-offset, 0), max(offset, 0)
    count = max(min(rows - row, columns - column), 0)
    return (torch.arange(count) + row) * columns + torch.arange(count) + column


@aten("diag_embed")
def _diag_embed(c: Context, x: Value, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Value:
    rank = x.type.rank + 1
    first, second = c.axis(dim1, rank), c.axis(dim2, rank)
    n = x.type.shape[-1] + abs(offset)
    low = max(offset, 0), max(-offset, 0)
    columns = pad(c, x, [(0, 0)] * (rank - 2) + [(low[0], n - x.type.shape[-1] - low[0])])
    spread = c.e.reshape(columns, (*x.type.shape[:-1], 1, n))
    keep = torch.arange(n)[None, :] - torch.arange(n)[:, None] == offset
    matrix = c.e.where(c.e.constant(keep), spread, 0)
    order = list(range(rank - 2))
    for axis, source in sorted([(first, rank - 2), (second, rank - 1)]):
        order.insert(axis, source)
    return c.e.transpose(matrix, order)


@aten("channel_shuffle")
def _channel_shuffle(c: Context, x: Value, groups: int) -> Value:
    n, channels, *rest = x.type.shape
    split = c.e.reshape(x, (n, groups, channels // groups, *rest))
    return c.e.reshape(swap(c, split, 1, 2), x.type.shape)


@aten("_assert_tensor_metadata", "_assert_async.msg", "_assert_scalar", "sym_constrain_range_for_size")
def _nothing(c: Context, *args: Any, **options: Any) -> None:
    """Checks that export leaves in the program; shapes and types are checked during import."""


def slice_scatter_mask(size: int, start: int, stop: int, step: int) -> torch.Tensor:
    """For each position of an axis the element of the update that lands there, or -1."""
    at = torch.full((size,), -1)
    chosen = torch.arange(size)[start:stop:step]
    at[chosen] = torch.arange(len(chosen))
    return at


def place(c: Context, x: Value, update: Value, axis: int, at: torch.Tensor) -> Value:
    """x with slices of `update` where `at` names one (else -1)."""
    if bool((at < 0).all()):
        return x
    moved = gather_axis(c, update, axis, at.clamp(min=0))
    if bool((at >= 0).all()):
        return moved
    view = [1] * x.type.rank
    view[axis] = -1
    return c(ew.Where(), c.e.constant((at >= 0).reshape(view)), moved, x)


@aten("slice_scatter")
def _slice_scatter(
    c: Context,
    x: Value,
    src: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    axis = c.axis(dim, x.type.rank)
    size = x.type.shape[axis]
    first, last, _ = slice(start, end).indices(size)
    src = c.value(src, x.type.dtype)
    if step == 1:
        parts = [c.e.slice(x, axis, 0, first), src, c.e.slice(x, axis, max(last, first), size)]
        return c.e.concat([p for p in parts if p.type.shape[axis]] or [x], axis)
    return place(c, x, src, axis, slice_scatter_mask(size, first, last, step))


@aten("select_scatter")
def _select_scatter(c: Context, x: Value, src: Value, dim: int, index: int) -> Value:
    axis = c.axis(dim, x.type.rank)
    index %= x.type.shape[axis]
    shape = (*x.type.shape[:axis], 1, *x.type.shape[axis + 1 :])
    src = c.e.reshape(c.value(src, x.type.dtype), shape)
    return _slice_scatter(c, x, src, axis, index, index + 1)


@aten("diagonal_scatter")
def _diagonal_scatter(
    c: Context, x: Value, src: Value, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Value:
    first, second = c.axis(dim1, x.type.rank), c.axis(dim2, x.type.rank)
    rest = [i for i in range(x.type.rank) if i not in (first, second)]
    order = [*rest, first, second]
    moved = c.e.transpose(x, order)
    rows, columns = moved.type.shape[-2:]
    flat = c.e.reshape(moved, (*moved.type.shape[:-2], rows * columns))
    at = torch.full((rows * columns,), -1)
    positions = diagonal_positions(rows, columns, offset)
    at[positions] = torch.arange(len(positions))
    placed = place(c, flat, c.value(src, x.type.dtype), flat.type.rank - 1, at)
    back = c.e.reshape(placed, moved.type.shape)
    return c.e.transpose(back, [order.index(i) for i in range(len(order))])
