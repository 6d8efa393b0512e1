"""How sure a measured drop is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

DRAWS = 4000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Drop:
    """The mean loss of a metric over samples, and the two-sided 95 % interval of it."""

    mean: float
    low: float
    high: float


def paired_drop(before: torch.Tensor, after: torch.Tensor, seed: int = 0) -> Drop:
    """The drop from `before` to `after`, one figure a sample, by the paired bootstrap (Efron, 1979).

    Resampling cannot show what no sample shows: where no figure of either fell and all are 0 or 1, the
    upper end is that of the rule of three, 3 / n.
    """
    fall = (before - after).double()
    n = len(fall)
    generator = torch.Generator().manual_seed(seed)
    means = torch.stack([fall[torch.randint(0, n, (n,), generator=generator)].mean() for _ in range(DRAWS)])
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(q) for q in torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)))
    binary = bool(((before == 0) | (before == 1)).all() and ((after == 0) | (after == 1)).all())
    if binary and not bool((fall > 0).any()):
        high = max(high, 3 / n)
    return Drop(float(fall.mean()), low, high)
