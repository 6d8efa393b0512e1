"""Scales for blocks of a row: `size` neighbouring elements share one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.calibration import Grid, clip_rows

# Elements whose scales are sought at once, so that what is tried stays in a cache.
CHUNK = 1 << 18
# Shares of a row's range that are tried: blocks are short, so that the best is not far below 1.
SHARES = tuple(1 - 0.04 * i for i in range(1, 13))


@dataclass(frozen=True)
class Blocks:
    """A grid of integers with a scale and a zero point for each block of a row; the whole row for size 0."""

    grid: Grid
    size: int = 0

    def count(self, k: int) -> int:
        """Blocks of a row of k elements, the last perhaps shorter."""
        return math.ceil(k / self.size) if self.size else 1

    def parameters(
        self, rows: Tensor, importance: Tensor | None = None, clip: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Scales and zero points of rows [..., k], as [..., blocks].

        With `clip` they have the least squared error, weighed by `importance` ([..., k], broadcast),
        else they cover the whole range.
        """
        k = rows.shape[-1]
        size = self.size or k
        if importance is not None:
            importance = importance.broadcast_to(rows.shape)
        whole = k // size * size
        parts = [(0, whole, size)] if whole else []
        if whole < k:
            parts.append((whole, k, k - whole))
        found = []
        for start, stop, width in parts:
            cut = [None if t is None else t[..., start:stop].reshape(-1, width) for t in (rows, importance)]
            assert cut[0] is not None
            scale, zero = self._search(cut[0], cut[1], clip)
            found.append([p.reshape(*rows.shape[:-1], -1) for p in (scale, zero)])
        scale, zero = (torch.cat(p, -1) for p in zip(*found, strict=True))
        return scale, zero

    def _search(self, rows: Tensor, importance: Tensor | None, clip: bool) -> tuple[Tensor, Tensor]:
        if not clip:
            return self.grid.parameters(rows.amin(1), rows.amax(1))
        step = max(1, CHUNK // rows.shape[1])
        pieces = [
            clip_rows(
                rows[i : i + step],
                self.grid,
                None if importance is None else importance[i : i + step],
                SHARES,
            )
            for i in range(0, len(rows), step)
        ]
        scale, zero = (torch.cat(p) for p in zip(*pieces, strict=True))
        return scale, zero

    def spread(self, parameter: Tensor, k: int) -> Tensor:
        """[..., blocks] as something that broadcasts with [..., k]."""
        return parameter.repeat_interleave(self.size, -1)[..., :k] if self.size else parameter

    def quantize(self, rows: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """The nearest integers, as f32."""
        k = rows.shape[-1]
        return self.grid.quantize(rows, self.spread(scale, k), self.spread(zero, k))

    def dequantize(self, integers: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        k = integers.shape[-1]
        return (integers - self.spread(zero, k)) * self.spread(scale, k)


def output_errors(change: Tensor, moments: Tensor) -> Tensor:
    """The mean squared change of each output channel, [groups, channels], for a change of the rows."""
    return torch.einsum("gnk,gnk->gn", change @ moments, change)
