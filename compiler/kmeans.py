"""k-means of numbers: the codebook with the least squared error, and the usual approximations.

In one dimension clusters are intervals of the sorted values, so dynamic programming finds the best
ones (Wang and Song, 2011, "Ckmeans.1d.dp"). For k clusters of n distinct values it takes O(k n log n),
because the best place of the last cluster only moves to the right with the values that are covered.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Init = Literal["exact", "linear", "density", "random"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Above this many distinct values "exact" works on as many weighted means of neighbours.
FINEST = 1 << 14
LLOYD_STEPS = 300
TINY = float(np.finfo(np.float64).tiny)


def codebook(
    values: NDArray[Any], k: int, weights: NDArray[Any] | None = None, init: Init = "exact", seed: int = 0
) -> Floats:
    """At most k sorted numbers that `values` (any shape, finite, not empty) are best replaced by.

    `weights` say how much the squared error of each value counts. "exact" is the optimum (of at most
    2^14 groups of neighbours, then moved to the nearest local optimum of all values); the others start
    Lloyd's iteration from evenly spaced numbers, from quantiles, or from k of the values (Han et al., 2016,
    arXiv:1510.00149, section 3.2).
    """
    x, w = _merge(values.reshape(-1).astype(np.float64), weights)
    if len(x) <= k:
        return x
    if init == "exact":
        coarse_x, coarse_w = _group(x, w, FINEST)
        starts = _optimal(coarse_x, coarse_w, k)
        return _lloyd(x, w, np.add.reduceat(coarse_x * coarse_w, starts) / np.add.reduceat(coarse_w, starts))
    if init == "linear":
        return _lloyd(x, w, np.linspace(x[0], x[-1], k))
    if init == "density":
        share = np.cumsum(w) / w.sum()
        return _lloyd(x, w, x[np.searchsorted(share, (np.arange(k) + 0.5) / k).clip(max=len(x) - 1)])
    return _lloyd(x, w, np.sort(np.random.default_rng(seed).choice(x, k, replace=False)))


def assign(values: NDArray[Any], centres: Floats) -> Ints:
    """The number of the nearest of the sorted centres for each value."""
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values.astype(np.float64))


def _merge(x: Floats, weights: NDArray[Any] | None) -> tuple[Floats, Floats]:
    """Distinct values in order and what each weighs: a trace at least, so that all have a place."""
    distinct, place = np.unique(x, return_inverse=True)
    if weights is None:
        return distinct, np.bincount(place).astype(np.float64)
    w = np.bincount(place, weights.reshape(-1).astype(np.float64))
    return distinct, np.maximum(w, w.max() * 1e-9 + TINY)


def _group(x: Floats, w: Floats, most: int) -> tuple[Floats, Floats]:
    """At most `most` neighbouring groups of equal width, as their means and weights."""
    if len(x) <= most:
        return x, w
    cell = np.minimum(((x - x[0]) / (x[-1] - x[0]) * most).astype(np.int64), most - 1)
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    total = np.add.reduceat(w, starts)
    return np.add.reduceat(x * w, starts) / total, total


def _optimal(x: Floats, w: Floats, k: int) -> Ints:
    """Where each of the k best clusters of sorted values starts.

    best[m][j] is the least cost of the first j values in m clusters: the least over i < j of
    best[m - 1][i] plus the cost of values i to j. The best i does not decrease with j, so halving the
    range of j halves that of i; all halves of one depth are worked on at once.
    """
    centred = x - np.average(x, weights=w)
    sums = [np.concatenate([[0.0], np.cumsum(w * centred**power)]) for power in range(3)]

    def cost(i: Ints, j: Ints) -> Floats:
        weight, first, second = (s[j] - s[i] for s in sums)
        spread: Floats = second - first**2 / np.maximum(weight, TINY)
        return np.maximum(spread, 0.0)

    n = len(x)
    ends = np.arange(n + 1)
    best = np.where(ends > 0, cost(np.zeros_like(ends), ends), 0.0)
    cuts = []
    for m in range(2, k + 1):
        best, cut = _layer(best, cost, m, n)
        cuts.append(cut)
    starts = [n]
    for cut in reversed(cuts):
        starts.append(int(cut[starts[-1]]))
    return np.array([0, *starts[:0:-1]], np.int64)


def _layer(before: Floats, cost: Any, m: int, n: int) -> tuple[Floats, Ints]:
    """best[m] and the i that gives it for each j, from best[m - 1]."""
    best = np.full(n + 1, np.inf)
    cut = np.zeros(n + 1, np.int64)
    # Ranges of j still to do, with the least and the greatest i for each.
    low, high = np.array([m]), np.array([n])
    left, right = np.array([m - 1]), np.array([n - 1])
    while len(low):
        j = (low + high) // 2
        last = np.minimum(right, j - 1)
        sizes = last - left + 1
        starts = np.cumsum(sizes) - sizes
        owner = np.repeat(np.arange(len(j)), sizes)
        i = left[owner] + np.arange(sizes.sum()) - starts[owner]
        costs = before[i] + cost(i, j[owner])
        least = np.minimum.reduceat(costs, starts)
        # The first i that reaches the least.
        hits = np.flatnonzero(costs == least[owner])
        first = hits[np.searchsorted(owner[hits], np.arange(len(j)))]
        best[j], cut[j] = least, i[first]
        lower, upper = low < j, j < high
        low, high, left, right = (
            np.concatenate([low[lower], j[upper] + 1]),
            np.concatenate([j[lower] - 1, high[upper]]),
            np.concatenate([left[lower], i[first][upper]]),
            np.concatenate([i[first][lower], right[upper]]),
        )
    return best, cut


def _lloyd(x: Floats, w: Floats, centres: Floats) -> Floats:
    """Lloyd's iteration to a fixed point; a centre that serves no value moves to the one served worst."""
    centres = np.unique(centres)
    for _ in range(LLOYD_STEPS):
        place = assign(x, centres)
        weight = np.bincount(place, w, len(centres))
        moved = np.bincount(place, w * x, len(centres)) / np.maximum(weight, TINY)
        empty = weight == 0
        if empty.any():
            worst = np.argsort(-w * (x - centres[place]) ** 2, kind="stable")[: int(empty.sum())]
            moved[empty] = x[worst]
        moved = np.unique(moved)
        if len(moved) == len(centres) and np.array_equal(moved, centres):
            break
        centres = moved
    return centres
