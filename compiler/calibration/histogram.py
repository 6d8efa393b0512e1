"""A streaming histogram whose range grows: what clipping ranges are chosen from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

BINS = 4096
# Finer bins would be narrower than what f32 can tell apart near zero.
SMALLEST = -120


@dataclass
class Histogram:
    """Counts in bins of a power-of-two width, which doubles when an element falls outside.

    Bin i counts elements in [(start + i) w, (start + i + 1) w) with w = 2 ** exponent. Doubling w
    merges pairs of bins, so that the counts are those of a histogram with the final width over all
    elements at once. Exact zeros are counted in `zeros` alone: every grid represents them exactly.
    `low` and `high` are the least and the greatest element. Memory is fixed by the number of bins.
    """

    bins: int = BINS
    exponent: int = SMALLEST
    start: int = 0
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf
    counts: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def __post_init__(self) -> None:
        if not self.counts.numel():
            self.counts = torch.zeros(self.bins, dtype=torch.int64)

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """How many elements were seen."""
        return int(self.counts.sum()) + self.zeros

    def update(self, x: torch.Tensor) -> None:
        """Count the elements of a finite tensor."""
        if not x.numel():
            return
        x = x.detach().reshape(-1)
        x = x if x.dtype is torch.float64 else x.float()
        low, high = (float(v) for v in x.aminmax())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._cover(min(low, 0.0), max(high, 0.0))
        place = (x * math.ldexp(1.0, -self.exponent)).floor_().to(torch.int64).sub_(self.start)
        self.counts += torch.bincount(place, minlength=self.bins)
        zeros = x.numel() - int(x.count_nonzero())
        self.counts[-self.start] -= zeros
        self.zeros += zeros

    def _cover(self, low: float, high: float) -> None:
        """Widen the bins until both ends fall into one of them."""
        first, last = self._place(low), self._place(high)
        if self.start <= first and last < self.start + self.bins:
            return
        used = self.counts.nonzero().reshape(-1)
        if used.numel():
            # What is counted already stays inside, and so does zero.
            first = min(first, self.start + int(used[0]), 0)
            last = max(last, self.start + int(used[-1]), 0)
        shift = 0
        while (last >> shift) - (first >> shift) >= self.bins:
            shift += 1
        merged = torch.zeros_like(self.counts)
        start = first >> shift
        if used.numel():
            merged.index_add_(0, ((used + self.start) >> shift) - start, self.counts[used])
        self.counts, self.start, self.exponent = merged, start, self.exponent + shift

    def _place(self, value: float) -> int:
        return math.floor(math.ldexp(value, -self.exponent))

    def centers(self) -> torch.Tensor:
        """The middle of each bin, f64."""
        places = torch.arange(self.start, self.start + self.bins, dtype=torch.float64)
        return (places + 0.5) * self.width

    def quantile(self, share: float) -> float:
        """A number that this share of all elements does not exceed, to the width of a bin."""
        counts = self.counts.clone()
        counts[-self.start] += self.zeros
        wanted = min(max(math.ceil(share * self.total), 1), self.total)
        place = int(torch.searchsorted(counts.cumsum(0), torch.tensor(wanted)))
        return min(max((self.start + place + 1) * self.width, self.low), self.high)
