"""Streaming statistics of a tensor: each holds a fixed amount of memory, however many samples come."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass
class Range:
    """The least and the greatest element seen."""

    low: float = math.inf
    high: float = -math.inf

    def update(self, x: torch.Tensor) -> None:
        if x.numel():
            low, high = x.aminmax()
            self.low = min(self.low, float(low))
            self.high = max(self.high, float(high))


@dataclass
class ChannelRange:
    """The least and the greatest element of each channel along `axis`, as f32 vectors."""

    axis: int
    low: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    high: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def update(self, x: torch.Tensor) -> None:
        rows = x.float().movedim(self.axis, 0).flatten(1)
        low, high = rows.amin(1), rows.amax(1)
        if self.low.numel():
            low, high = torch.minimum(low, self.low), torch.maximum(high, self.high)
        self.low, self.high = low, high


@dataclass
class Moments:
    """Sum and sum of squares of each channel along `axis` in f64, and the number of elements in each."""

    axis: int
    count: int = 0
    total: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def update(self, x: torch.Tensor) -> None:
        rows = x.double().movedim(self.axis, 0).flatten(1)
        self.count += rows.shape[1]
        self.total = self.total + rows.sum(1)
        self.squares = self.squares + rows.square().sum(1)

    @property
    def mean(self) -> torch.Tensor:
        return self.total / max(self.count, 1)

    @property
    def rms(self) -> torch.Tensor:
        return (self.squares / max(self.count, 1)).sqrt()


@dataclass
class SecondMoments:
    """The mean of x x^T over the columns that `view` takes from a tensor: [groups, columns, k] to
    [groups, k, k], f32; and the mean and the mean magnitude of each of the k, [groups, k].

    For a linear layer this is, up to a factor, the Hessian of its squared output error in its weights.
    """

    view: Callable[[torch.Tensor], torch.Tensor]
    count: int = 0
    total: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    absolute: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def update(self, x: torch.Tensor) -> None:
        columns = self.view(x).float()
        self.count += columns.shape[1]
        self.total = self.total + columns.mT @ columns
        self.absolute = self.absolute + columns.abs().sum(1)
        self.sums = self.sums + columns.sum(1)

    @property
    def mean(self) -> torch.Tensor:
        return self.sums / max(self.count, 1)

    @property
    def covariance(self) -> torch.Tensor:
        """The mean of (x - E[x]) (x - E[x])^T, [groups, k, k]."""
        mean = self.mean
        return self.matrix - mean[..., :, None] * mean[..., None, :]

    @property
    def matrix(self) -> torch.Tensor:
        return self.total / max(self.count, 1)

    @property
    def magnitude(self) -> torch.Tensor:
        return self.absolute / max(self.count, 1)
