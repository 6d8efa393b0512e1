"""Clipping ranges: which part of what was seen a grid of integers covers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hardy.compiler.calibration.grid import Grid
from hardy.compiler.calibration.histogram import Histogram

# Shares of the full range that are tried as the range: for both ends together, then for each.
COARSE = torch.linspace(1.0, 1 / 16, 16, dtype=torch.float64)
FINE = torch.linspace(1.0, 0.02, 99, dtype=torch.float64)
SHARES = tuple(FINE[1:60].tolist())
# Width of the steps between thresholds that `entropy` compares, in bins.
STRIDE = 16
# What an empty group of bins counts as, so that divergences stay finite.
TRACE = 1e-4


def min_max(seen: Histogram, grid: Grid, percentile: float) -> tuple[float, float]:
    """Everything that was seen."""
    return seen.low, seen.high


def percentile(seen: Histogram, grid: Grid, percentile: float) -> tuple[float, float]:
    """`percentile` percent of what was seen, the rest shared by both ends, or at the only end."""
    outside = (100.0 - percentile) / 100.0
    if seen.low >= 0:
        return 0.0, seen.quantile(1.0 - outside)
    if seen.high <= 0:
        return max(seen.low, seen.quantile(outside) - seen.width), 0.0
    low = seen.quantile(outside / 2) - seen.width
    return max(seen.low, low), seen.quantile(1.0 - outside / 2)


def mean_squared_error(seen: Histogram, grid: Grid, percentile: float) -> tuple[float, float]:
    """The range whose grid changes what was seen least, in the mean of squares."""
    filled = seen.counts > 0
    x = seen.centers()[filled].float()
    weight = seen.counts[filled].double()

    def best(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        scale, zero = grid.parameters(low, high)
        noise = grid.rounded(x, scale[:, None], zero[:, None]).sub_(x).double().square_() @ weight
        least = int(noise.argmin())
        return low[least], high[least]

    low = torch.tensor(min(seen.low, 0.0), dtype=torch.float64)
    high = torch.tensor(max(seen.high, 0.0), dtype=torch.float64)
    if grid.symmetric:
        bound = torch.maximum(-low, high)
        found = best(torch.where(low < 0, -bound, 0.0) * FINE, bound * FINE)
        return max(float(found[0]), seen.low), min(float(found[1]), seen.high)
    ends = low, high
    if low < 0 < high:
        ends = best((low * COARSE).repeat_interleave(len(COARSE)), (high * COARSE).repeat(len(COARSE)))
    if high > 0:
        ends = best(ends[0].expand(len(FINE)), high * FINE)
    if low < 0:
        ends = best(low * FINE, ends[1].expand(len(FINE)))
    return float(ends[0]), float(ends[1])


def entropy(seen: Histogram, grid: Grid, percentile: float) -> tuple[float, float]:
    """The range whose grid keeps most of the information: the least Kullback-Leibler divergence
    between what was seen, clipped, and its histogram with a bin for each integer.

    The method of TensorRT ("8-bit inference with TensorRT", Migacz, 2017), with thresholds on both
    sides of zero where both signs were seen.
    """
    counts = seen.counts.double()
    zero = -seen.start
    used = seen.counts.nonzero().reshape(-1)
    if not used.numel():
        return seen.low, seen.high
    below, above = max(zero - int(used[0]), 0), max(int(used[-1]) + 1 - zero, 0)
    reach = max(below, above)
    # A window that clips most elements would look perfect: they all fall into its last bin.
    distance = torch.where(used >= zero, used - zero + 1, zero - used)
    nearest = distance.sort()
    held = seen.counts[used][nearest.indices].cumsum(0)
    half = int(nearest.values[int(torch.searchsorted(held, (held[-1] + 1) // 2))])
    levels = grid.levels // 2 if grid.symmetric and seen.low >= 0 and grid.limits[0] < 0 else grid.levels
    least = max(levels if below == 0 or above == 0 else levels // 2, half)
    candidates = [*range(min(least, reach), reach, STRIDE), reach]
    costs = [_divergence(counts, zero - min(below, t), zero + min(above, t), levels) for t in candidates]
    threshold = candidates[int(torch.tensor(costs).argmin())] * seen.width
    return max(seen.low, -threshold), min(seen.high, threshold)


def _divergence(counts: Tensor, first: int, stop: int, levels: int) -> float:
    """KL divergence of counts clipped to the bins [first, stop) from the same in `levels` groups."""
    inside = counts[first:stop]
    clipped = inside.clone()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[stop:].sum()
    group = torch.arange(len(inside)) * levels // len(inside)
    some = (clipped > 0).double()
    sums = torch.zeros(levels, dtype=torch.float64).index_add_(0, group, inside)
    filled = torch.zeros(levels, dtype=torch.float64).index_add_(0, group, some)
    spread = (sums / filled.clamp(min=1))[group].clamp(min=TRACE) * some
    p, q = clipped / clipped.sum(), spread / spread.sum()
    present = clipped > 0
    return float((p[present] * (p[present] / q[present]).log()).sum())


Method = Callable[[Histogram, Grid, float], tuple[float, float]]

METHODS: Mapping[str, Method] = {
    "min_max": min_max,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mean_squared_error,
}


def clip_rows(
    rows: Tensor, grid: Grid, importance: Tensor | None = None, shares: Sequence[float] = SHARES
) -> tuple[Tensor, Tensor]:
    """Scales and zero points of each row of a weight [rows, elements] with the least squared error.

    `importance` weighs the error of each element: [elements] or [rows, elements]. `shares` of each row's
    range are tried, besides all of it.
    """
    low, high = rows.amin(1), rows.amax(1)
    # Towards what a range shrinks.
    middle = (low + high) / 2 if grid.real_zero else torch.zeros_like(low)
    if not grid.real_zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    scale, zero = grid.parameters(low, high)
    weight = torch.ones(()) if importance is None else importance.float()

    def noise(scale: Tensor, zero: Tensor) -> Tensor:
        change = grid.rounded(rows, scale[:, None], zero[:, None]).sub_(rows).square_()
        return change.mul_(weight).sum(1)

    least = noise(scale, zero)
    for share in shares:
        tried_scale, tried_zero = grid.parameters(
            middle + (low - middle) * share, middle + (high - middle) * share
        )
        tried = noise(tried_scale, tried_zero)
        better = tried < least
        least = torch.where(better, tried, least)
        scale, zero = torch.where(better, tried_scale, scale), torch.where(better, tried_zero, zero)
    return scale, zero
