"""Limits weights to a range, so that outliers neither hide from pruning nor widen quantization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph, Value
from hardy.compiler.notes import note
from hardy.compiler.pipeline import Pass
from hardy.passes.layers import layers, replace_weights, select


@dataclass(frozen=True)
class ClipWeights(Pass):
    """Clip the weights of layers to a threshold, or to a percentile of their magnitudes.

    `percentile` (0..100, nearest rank) is taken for each layer by itself.
    """

    exact: ClassVar[bool] = False

    threshold: float | None = None
    percentile: float | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.threshold is not None and self.percentile is not None:
            raise UsageError("clip_weights takes either a threshold or a percentile")
        if self.threshold is not None and not (self.threshold > 0 and math.isfinite(self.threshold)):
            raise UsageError(f"the threshold must be positive and finite, got {self.threshold}")
        if self.percentile is not None and not 0 < self.percentile <= 100:
            raise UsageError(f"the percentile must lie in 0..100, above 0, got {self.percentile}")

    def run(self, graph: Graph) -> Graph:
        new: dict[Value, torch.Tensor] = {}
        rows = []
        for layer in select(layers(graph), self.only, self.skip):
            data = layer.data
            limit = self._limit(data)
            outside = int((data.abs() > limit).sum())
            rows.append({"layer": layer.name, "limit": limit, "clipped": outside / max(data.numel(), 1)})
            if outside:
                new[layer.weight] = data.clamp(-limit, limit)
        note("layers", rows)
        return replace_weights(graph, new) if new else graph

    def _limit(self, data: torch.Tensor) -> float:
        if self.threshold is not None:
            return self.threshold
        if self.percentile is None:
            raise UsageError("clip_weights needs a threshold or a percentile")
        if data.numel() == 0:
            return 0.0
        rank = max(1, math.ceil(self.percentile / 100 * data.numel()))
        return float(data.abs().reshape(-1).kthvalue(rank).values)
