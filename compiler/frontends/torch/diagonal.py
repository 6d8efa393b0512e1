"""Diagonals and triangles of matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hardy.compiler.frontends.torch.context import Context, aten
from hardy.compiler.frontends.torch.pad import pad
from hardy.compiler.frontends.torch.shape import gather_axis
from hardy.compiler.frontends.torch.slice_scatter import place
from hardy.compiler.ir import Value


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
