"""Views, joins, splits and other movement of elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hardy.compiler.frontends.torch.context import Context, aten
from hardy.compiler.ir import Value
from hardy.compiler.ops.shape import Gather, Reverse, Slice
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


def gather_axis(c: Context, x: Value, axis: int, positions: torch.Tensor) -> Value:
    """x at fixed positions along an axis; the positions' shape replaces it."""
    return c(Gather(axis), x, c.e.constant(positions))


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


@aten("channel_shuffle")
def _channel_shuffle(c: Context, x: Value, groups: int) -> Value:
    n, channels, *rest = x.type.shape
    split = c.e.reshape(x, (n, groups, channels // groups, *rest))
    return c.e.reshape(swap(c, split, 1, 2), x.type.shape)


@aten("_assert_tensor_metadata", "_assert_async.msg", "_assert_scalar", "sym_constrain_range_for_size")
def _nothing(c: Context, *args: Any, **options: Any) -> None:
    """Checks that export leaves in the program; shapes and types are checked during import."""
