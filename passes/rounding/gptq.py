"""GPTQ (Frantar et al., 2022, arXiv:2210.17323): columns are rounded one after the other, and those to
come make up for the error."""

from __future__ import annotations

import torch
from torch import Tensor

from hardy.compiler.errors import UnsupportedError
from hardy.passes.rounding.blocks import Blocks, output_errors

# Columns whose error is carried to the others at once.
LAZY = 128


def gptq(
    rows: Tensor,
    moments: Tensor,
    blocks: Blocks,
    *,
    damping: float = 0.01,
    by_activity: bool = False,
    parameters: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Integers [groups, n, k] (f32), scales and zero points [groups, n, blocks].

    `parameters` are scales and zero points to round with, where they are known. `damping` is added to the
    diagonal of `moments`, as a share of its mean. `by_activity` rounds the columns with the largest inputs
    first, with scales found beforehand; otherwise the scales of a block are found when its turn comes. A
    row that came out worse than rounded to nearest is rounded to nearest.

    UnsupportedError where `moments` with this damping are not positive definite.
    """
    importance = importance_of(moments)
    scale, zero = parameters or blocks.parameters(rows, importance)
    nearest = blocks.quantize(rows, scale, zero)
    if by_activity:
        order = importance[:, 0].argsort(dim=-1, descending=True, stable=True)
    else:
        order = torch.arange(rows.shape[-1]).expand(len(rows), -1)
    fixed = by_activity or parameters is not None
    carried = _Columns(rows, moments, blocks, order, damping, (scale, zero), fixed)
    found = carried.run()
    before = output_errors(blocks.dequantize(nearest, scale, zero) - rows, moments)
    after = output_errors(blocks.dequantize(*found) - rows, moments)
    better = (after < before)[..., None]
    integers, scales, zeros = (
        torch.where(better, new, old) for new, old in zip(found, (nearest, scale, zero), strict=True)
    )
    return integers, scales, zeros


def importance_of(moments: Tensor) -> Tensor:
    """How much the error of each column counts on its own: [groups, 1, k]."""
    diagonal = moments.diagonal(dim1=-2, dim2=-1)
    least = diagonal.mean(-1, keepdim=True) * 1e-4 + 1e-30
    return torch.maximum(diagonal, least)[:, None]


class _Columns:
    """The sweep over the columns of all groups at once, in the order in which they are rounded."""

    def __init__(
        self,
        rows: Tensor,
        moments: Tensor,
        blocks: Blocks,
        order: Tensor,
        damping: float,
        parameters: tuple[Tensor, Tensor],
        fixed: bool,
    ) -> None:
        self.blocks = blocks
        self.order = order[:, None].expand_as(rows)
        self.fixed = fixed
        self.scale, self.zero = (p.clone() for p in parameters)
        self.work = rows.gather(-1, self.order)
        self.importance = importance_of(moments)[:, 0].gather(-1, order)
        self.factor = _inverse_factor(moments, order, damping)
        self.integers = torch.empty_like(rows)
        # Scale and zero point of each column.
        k = rows.shape[-1]
        spread = [blocks.spread(p, k).expand_as(rows) for p in parameters]
        self.by_column = [p.gather(-1, self.order) for p in spread]

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        k = self.work.shape[-1]
        for start in range(0, k, LAZY):
            stop = min(start + LAZY, k)
            errors = self._sweep(start, stop)
            self.work[..., stop:] -= errors @ self.factor[:, start:stop, stop:]
        integers = torch.empty_like(self.integers).scatter_(-1, self.order, self.integers)
        return integers, self.scale, self.zero

    def _sweep(self, start: int, stop: int) -> Tensor:
        """Round the columns start..stop; their errors over the factor's diagonal, [groups, n, columns]."""
        errors = torch.empty_like(self.work[..., start:stop])
        here = self.work[..., start:stop]
        factor = self.factor[:, None, start:stop, start:stop]
        size = self.blocks.size
        scales, zeros = self.by_column
        for i in range(stop - start):
            column = start + i
            if not self.fixed and size and column % size == 0:
                self._rescale(column, errors[..., :i], start, stop)
            x, scale, zero = here[..., i], scales[..., column], zeros[..., column]
            q = self.blocks.grid.quantize(x, scale, zero)
            self.integers[..., column] = q
            error = (x - (q - zero) * scale) / factor[..., i, i]
            here[..., i + 1 :] -= error[..., None] * factor[..., i, i + 1 :]
            errors[..., i] = error
        return errors

    def _rescale(self, column: int, errors: Tensor, start: int, stop: int) -> None:
        """Scales of the block that begins at this column, from its weights as they have become."""
        end = min(column + self.blocks.size, self.work.shape[-1])
        weights = self.work[..., column:end]
        if end > stop:
            # What is beyond the lazy part has not been told of this part's errors yet.
            late = errors @ self.factor[:, start:column, stop:end]
            weights = torch.cat([weights[..., : stop - column], weights[..., stop - column :] - late], -1)
        scale, zero = self.blocks.parameters(weights, self.importance[:, None, column:end])
        block = column // self.blocks.size
        self.scale[..., block], self.zero[..., block] = scale[..., 0], zero[..., 0]
        for by_column, parameter in zip(self.by_column, (scale, zero), strict=True):
            by_column[..., column:end] = parameter


def _inverse_factor(moments: Tensor, order: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped and ordered moments, f32.

    Columns whose input was always zero have no one to make up for them.
    """
    h = moments.double()
    h = h.gather(-2, order[..., None].expand_as(h)).gather(-1, order[:, None].expand_as(h))
    diagonal = h.diagonal(dim1=-2, dim2=-1)
    added = torch.where(diagonal == 0, 1.0, damping * diagonal.mean(-1, keepdim=True))
    lower, info = torch.linalg.cholesky_ex(h + torch.diag_embed(added))
    if not bool(info.any()):
        upper, info = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if bool(info.any()):
        raise UnsupportedError(
            f"the second moments of the inputs are not positive definite with a damping of {damping}",
            hint="use a larger damping or more samples",
        )
    factor: Tensor = upper.float()
    return factor
