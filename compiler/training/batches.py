"""Samples in shuffled batches: the same order for the same seed, wherever a run starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hardy.compiler.calibration.data import Feed, Samples
from hardy.compiler.errors import InputError, UsageError
from hardy.compiler.types import TensorType

# What a window of samples may hold in memory.
WINDOW_BYTES = 2 << 30


def generator(*numbers: int) -> torch.Generator:
    """Random numbers that depend on all of these, such as seed and epoch."""
    (state,) = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


class Batches:
    """Feeds stacked along a new axis in front, `size` at a time, the last of an epoch perhaps fewer.

    Data up to `window` bytes is read once, kept and shuffled as a whole in each epoch; larger data is
    read again in each epoch, and shuffled within windows of that size.
    """

    def __init__(
        self,
        samples: Samples,
        types: Mapping[str, TensorType],
        size: int,
        seed: int = 0,
        window: int = WINDOW_BYTES,
    ) -> None:
        if size < 1:
            raise UsageError(f"a batch of {size} samples is none", hint="give at least one")
        self.samples, self.types = samples, types
        self.size, self.seed = size, seed
        first: _Window | None = None
        self.count = self.rows = 0
        for feed in samples.feeds(types):
            if first is None:
                nbytes = sum(t.numel() * t.element_size() for t in feed.values())
                # Whole batches, so that only the last of an epoch can be smaller.
                self.rows = max(window // max(nbytes * size, 1), 1) * size
                first = _Window(samples.origin, self.rows)
            first.add(feed)
            self.count += 1
        self.kept = first.stacked() if first is not None and self.count <= self.rows else None

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self.count / self.size)

    def epoch(self, number: int, skip: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch in their order, without the first `skip`."""
        for place, window in enumerate(self._windows()):
            count = len(next(iter(window.values())))
            batches = math.ceil(count / self.size)
            if skip < batches:
                order = torch.randperm(count, generator=generator(self.seed, number, place))
                for rows in torch.split(order, self.size)[skip:]:
                    yield {name: t[rows] for name, t in window.items()}
            skip = max(skip - batches, 0)

    def _windows(self) -> Iterator[dict[str, Tensor]]:
        if self.kept is not None:
            yield self.kept
            return
        window = _Window(self.samples.origin, self.rows)
        for feed in self.samples.feeds(self.types):
            window.add(feed)
            if len(window.feeds) == self.rows:
                yield window.stacked()
                window = _Window(self.samples.origin, self.rows)
        if window.feeds:
            yield window.stacked()


class _Window:
    """Collects feeds, up to `limit` of them, and stacks them."""

    def __init__(self, origin: str, limit: int) -> None:
        self.origin, self.limit = origin, limit
        self.feeds: list[Feed] = []

    def add(self, feed: Feed) -> None:
        if len(self.feeds) < self.limit:
            self.feeds.append(feed)

    def stacked(self) -> dict[str, Tensor]:
        first = self.feeds[0]
        for feed in self.feeds:
            for name, tensor in first.items():
                if name not in feed or feed[name].shape != tensor.shape or feed[name].dtype != tensor.dtype:
                    raise InputError(
                        f"samples of {self.origin} differ in the shape or type of {name!r}",
                        hint="samples that are trained on together hold tensors of the same shapes",
                    )
        return {name: torch.stack([feed[name] for feed in self.feeds]) for name in first}


@dataclass(frozen=True)
class Shard:
    """The part of each batch that one of several workers takes: contiguous, sizes within one."""

    rank: int = 0
    world: int = 1

    def __call__(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        """The rows of this worker and their share of the batch. A worker without a row of its own gets
        the first with a share of 0, so that it takes part in every exchange."""
        total = len(next(iter(batch.values())))
        start, stop = self.rank * total // self.world, (self.rank + 1) * total // self.world
        if start == stop:
            return {name: t[:1] for name, t in batch.items()}, 0.0
        return {name: t[start:stop] for name, t in batch.items()}, (stop - start) / total
