"""Shares weights: every weight of a layer is one of a few values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import torch

from hardy.compiler import kmeans
from hardy.compiler.errors import GraphError, UsageError
from hardy.compiler.ir import Constant, Graph, Value
from hardy.compiler.notes import note
from hardy.compiler.pipeline import Pass, sqnr
from hardy.passes.layers import Layer, layers, replace_weights, select
from hardy.passes.scores import data_for, require_score, weight_scores

# An artifact's coded weights index a codebook with a byte.
MOST = 256


@dataclass(frozen=True)
class Cluster(Pass):
    """Share weights: replace those of each layer by the nearest of a few values, found by k-means.

    A weight takes 2^`bits` values, or `clusters` where that is given, or with `sqnr_db` the fewest that
    keep so many dB of signal to noise, 256 at most. One that takes no more already is left alone. Where
    elements are zero, zero is one of the values and those stay zero. `init` starts k-means (`exact` is
    the optimum). With the `score` "wanda" or "first_order" errors of weights that matter more count more,
    in `sqnr_db` too; see `hardy.passes.scores` for these, `label`, `calibration` and `samples`. `others`
    clusters every other float constant of at least so many elements too. `only` and `skip` choose layers
    by name or source (Han et al., 2016, arXiv:1510.00149).
    """

    bits: int = 4
    clusters: int = 0
    sqnr_db: float | None = None
    init: kmeans.Init = "exact"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    others: int = 0
    score: str = "magnitude"
    label: str = "label"
    calibration: object = None
    samples: int | None = None
    seed: int = 0

    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise UsageError(f"cluster: {self.bits} bits are not between 1 and 8")
        if self.clusters and not 2 <= self.clusters <= MOST:
            raise UsageError(f"cluster: {self.clusters} clusters are not between 2 and {MOST}")
        if self.clusters and self.sqnr_db is not None:
            raise UsageError("cluster: `clusters` says how many values, and so does `sqnr_db`: give one")
        if self.sqnr_db is not None and not 0 < self.sqnr_db < math.inf:
            raise UsageError(f"cluster: {self.sqnr_db} dB are no positive number")
        if self.init not in get_args(kmeans.Init):
            raise UsageError(
                f"cluster: there is no init {self.init!r}", hint="one of " + ", ".join(get_args(kmeans.Init))
            )

    def run(self, graph: Graph) -> Graph:
        require_score(self.score, self.calibration)
        chosen = select(layers(graph), self.only, self.skip)
        importance = self._importance(graph, chosen)
        new: dict[Value, torch.Tensor] = {}
        rows = []
        for name, value in self._weights(graph, chosen).items():
            data = _data(value)
            shared = self._shared(name, data, importance.get(value))
            if torch.equal(shared, data):
                continue
            new[value] = shared
            rows.append(
                {
                    "layer": name,
                    "values": _values(shared),
                    "non-zero": float((shared != 0).double().mean()),
                    "sqnr_db": sqnr(data, shared),
                }
            )
        if not new:
            return graph
        note("weights", rows)
        return replace_weights(graph, new)

    def _weights(self, graph: Graph, chosen: list[Layer]) -> Mapping[str, Value]:
        """What to cluster, by name: a weight that several layers share once."""
        found: dict[Value, str] = {}
        for layer in chosen:
            found.setdefault(layer.weight, layer.name)
        if self.others:
            of_layers = {layer.weight for layer in layers(graph)}
            for node in graph.nodes:
                value = node.values[0]
                large = isinstance(node.op, Constant) and node.type.size >= self.others
                if large and node.type.dtype.is_float and value not in of_layers:
                    found[value] = node.name or f"constant {node.type}"
        seen: Counter[str] = Counter()
        named = {}
        for value, name in found.items():
            seen[name] += 1
            named[name if seen[name] == 1 else f"{name}#{seen[name]}"] = value
        return named

    def _importance(self, graph: Graph, chosen: list[Layer]) -> Mapping[Value, torch.Tensor]:
        """How much the squared error of each weight counts: the square of its score over its size.

        By "wanda" that is the mean square of the input that the weight multiplies, so that the layer's own
        output changes least; by "first_order" about the square of its gradient, so that the loss does (the
        diagonal of the Fisher information).
        """
        if self.score == "magnitude":
            return {}
        samples = data_for(graph, self.calibration, self.samples)
        scores = weight_scores(graph, chosen, self.score, samples, self.label)
        return {value: (s.double() / _data(value).double().abs()).square() for value, s in scores.items()}

    def _shared(self, name: str, data: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        wide = data.double()
        if not bool(wide.isfinite().all()):
            raise GraphError(f"weight {name} holds NaN or infinity", where=name)
        count = MOST if self.sqnr_db is not None else self.clusters or 2**self.bits
        if _values(data) <= count:
            return data
        kept = wide != 0
        inside = wide[kept].numpy()
        counts = None if importance is None else importance[kept].numpy()
        new = self._nearest(inside, counts, count - int(inside.size < data.numel()))
        # Pruning may have left zeros of either sign: one is enough.
        shared = torch.zeros_like(wide)
        shared[kept] = torch.from_numpy(new)
        return shared.to(data.dtype)

    def _nearest(self, inside: kmeans.Floats, counts: kmeans.Floats | None, most: int) -> kmeans.Floats:
        """Numbers replaced by the nearest of `most` values, or of the fewest that keep `sqnr_db`."""

        def of(k: int) -> kmeans.Floats:
            codebook = kmeans.codebook(inside, k, counts, self.init, self.seed)
            return codebook[kmeans.assign(inside, codebook)]

        if self.sqnr_db is None:
            return of(most)
        weight = np.ones_like(inside) if counts is None else counts
        allowed = float(weight @ inside**2) / 10 ** (self.sqnr_db / 10)

        def keeps(new: kmeans.Floats) -> bool:
            return float(weight @ (inside - new) ** 2) <= allowed

        # Small codebooks are found fastest: double, then halve the interval.
        low, high = 0, 1
        best = of(high)
        while not keeps(best) and high < most:
            low, high = high, min(2 * high, most)
            best = of(high)
        while high - low > 1:
            k = (low + high) // 2
            tried = of(k)
            if keeps(tried):
                high, best = k, tried
            else:
                low = k
        return best


def _data(value: Value) -> torch.Tensor:
    assert value.literal is not None
    return value.literal.tensor


def _values(data: torch.Tensor) -> int:
    """How many distinct values there are."""
    return len(np.unique(data.double().numpy()))
