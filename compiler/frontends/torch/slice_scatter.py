"""Writing into slices of a tensor."""

from __future__ import annotations

import torch

from hardy.compiler.frontends.torch.context import Context, aten
from hardy.compiler.frontends.torch.shape import gather_axis
from hardy.compiler.ir import Value
from hardy.compiler.ops import elementwise as ew


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
