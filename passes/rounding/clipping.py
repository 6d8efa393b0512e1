"""Ranges of blocks that change a layer's output least when the weights are rounded to nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from hardy.compiler.calibration import Grid
from hardy.passes.rounding.blocks import CHUNK, Blocks

# Shares of a block's range that are tried: more than all of it too, which moves the integers' places.
SHARES = tuple(1.1 - 0.025 * i for i in range(24))
# The longest block whose elements' errors are weighed together; in a longer one each is by itself.
TOGETHER = 256


def least_output_error(rows: Tensor, moments: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Scales and zero points [groups, n, blocks] for rows [groups, n, k].

    They are those tried with the least d H d^T for the change d of each block by itself, H being the part
    of `moments` [groups, k, k] for its columns: errors that the inputs cancel cost nothing, and errors
    of one sign on inputs of one sign cost most. A zero point is tried on both sides as well.
    """
    k = rows.shape[-1]
    size = blocks.size or k
    whole = k // size * size
    found = [
        _part(rows[..., start:stop], moments[:, start:stop, start:stop], blocks.grid, width)
        for start, stop, width in ((0, whole, size), (whole, k, k - whole))
        if start < stop
    ]
    scale, zero = (torch.cat(parts, -1) for parts in zip(*found, strict=True))
    return scale, zero


def _part(rows: Tensor, moments: Tensor, grid: Grid, size: int) -> tuple[Tensor, Tensor]:
    """The same where k is a multiple of the block's size, some rows at a time."""
    k = rows.shape[-1]
    step = max(1, CHUNK // k)
    groups = []
    for some, matrix in zip(rows, moments, strict=True):
        squares = torch.stack([matrix[i : i + size, i : i + size] for i in range(0, k, size)])
        parts = [
            _search(some[i : i + step].unflatten(-1, (-1, size)).transpose(0, 1), squares, grid)
            for i in range(0, len(some), step)
        ]
        groups.append([torch.cat(p, 1).T for p in zip(*parts, strict=True)])
    scale, zero = (torch.stack(p) for p in zip(*groups, strict=True))
    return scale, zero


def _search(x: Tensor, squares: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Scales and zero points [blocks, n] for x [blocks, n, size] and moments [blocks, size, size]."""
    together = x.shape[-1] <= TOGETHER
    diagonal = squares.diagonal(dim1=-2, dim2=-1)[:, None]
    low, high = x.amin(-1), x.amax(-1)
    middle = (low + high) / 2 if grid.real_zero else torch.zeros_like(low)
    if not grid.real_zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    scale, zero = grid.parameters(low, high)

    def noise(scale: Tensor, zero: Tensor) -> Tensor:
        change = grid.rounded(x, scale[..., None], zero[..., None]).sub_(x)
        weighed = change @ squares if together else change * diagonal
        return weighed.mul_(change).sum(-1)

    least = noise(scale, zero)
    for share in SHARES:
        tried, place = grid.parameters(middle + (low - middle) * share, middle + (high - middle) * share)
        for shift in _shifts(grid):
            moved = place + shift if grid.real_zero else (place + shift).clamp(*grid.limits)
            error = noise(tried, moved)
            better = error < least
            least = torch.where(better, error, least)
            scale, zero = torch.where(better, tried, scale), torch.where(better, moved, zero)
    return scale, zero


def _shifts(grid: Grid) -> tuple[float, ...]:
    """By how much zero points are moved; symmetric grids have theirs in the middle."""
    if grid.symmetric:
        return (0.0,)
    return (-0.25, 0.0, 0.25) if grid.real_zero else (-1.0, 0.0, 1.0)
