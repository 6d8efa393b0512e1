"""Shares weights: every weight of a layer is one of a few values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import numpy as np
import torch

from hardy.compiler import kmeans
from hardy.compiler.calibration import Moments, observe, open_samples
from hardy.compiler.errors import GraphError, UsageError
from hardy.compiler.ir import Constant, Graph, Value
from hardy.compiler.notes import note
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.pipeline import Pass, sqnr
from hardy.passes.layers import Layer, layers, replace_weights, select

# An artifact's coded weights index a codebook with a byte.
MOST = 256


@dataclass(frozen=True)
class Cluster(Pass):
    """Share weights: replace those of each layer by the nearest of a few values, found by k-means.

    A weight takes 2^`bits` values, or `clusters` where that is given; where elements are zero already,
    zero is one of them and those stay zero. `init` starts k-means (`exact` is the optimum). With
    `calibration` data the error of a weight counts by the mean square of what it multiplies, so that the
    layer's output changes least. `others` clusters every other float constant of at least so many
    elements too. `only` and `skip` choose layers by name or source (Han et al., 2016, arXiv:1510.00149).
    """

    bits: int = 4
    clusters: int = 0
    init: kmeans.Init = "exact"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    others: int = 0
    calibration: Any = None
    seed: int = 0

    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise UsageError(f"cluster: {self.bits} bits are not between 1 and 8")
        if self.clusters and not 2 <= self.clusters <= MOST:
            raise UsageError(f"cluster: {self.clusters} clusters are not between 2 and {MOST}")
        if self.init not in get_args(kmeans.Init):
            raise UsageError(
                f"cluster: there is no init {self.init!r}", hint="one of " + ", ".join(get_args(kmeans.Init))
            )

    def run(self, graph: Graph) -> Graph:
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
        """How much the squared error of each weight counts, of shapes that broadcast to the weights'.

        The expected squared error of a sum over uncorrelated inputs is the sum of the weights' squared
        errors times the inputs' second moments: the diagonal of the layer's Hessian.
        """
        if self.calibration is None:
            return {}
        moments = {layer: Moments(_input_axis(layer)) for layer in chosen}
        watched: dict[Value, list[Moments]] = {}
        for layer, statistic in moments.items():
            watched.setdefault(layer.x, []).append(statistic)
        observe(graph, open_samples(self.calibration, graph.input_types()), watched)
        result: dict[Value, torch.Tensor] = {}
        for layer, statistic in moments.items():
            own = _by_input(layer, statistic.rms.square())
            result[layer.weight] = own + result[layer.weight] if layer.weight in result else own
        return result

    def _shared(self, name: str, data: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        wide = data.double()
        if not bool(wide.isfinite().all()):
            raise GraphError(f"weight {name} holds NaN or infinity", where=name)
        count = self.clusters or 2**self.bits
        if _values(data) <= count:
            return data
        kept = wide != 0
        inside = wide[kept].numpy()
        counts = None if importance is None else importance.expand(data.shape)[kept].numpy()
        room = count - int(inside.size < data.numel())
        codebook = kmeans.codebook(inside, room, counts, self.init, self.seed)
        shared = wide.clone()
        shared[kept] = torch.from_numpy(codebook[kmeans.assign(inside, codebook)])
        return shared.to(data.dtype)


def _data(value: Value) -> torch.Tensor:
    assert value.literal is not None
    return value.literal.tensor


def _values(data: torch.Tensor) -> int:
    """How many distinct values there are."""
    return len(np.unique(data.double().numpy()))


def _input_axis(layer: Layer) -> int:
    """The axis of what flows in that the layer sums over (with a convolution's groups in it)."""
    op = layer.node.op
    if isinstance(op, Conv):
        return 1 if op.layout == "channels_first" else layer.x.type.rank - 1
    assert isinstance(op, Matmul)
    last = op.transpose_b if layer.place == 0 else not op.transpose_a
    return layer.x.type.rank - (1 if last else 2)


def _by_input(layer: Layer, squares: torch.Tensor) -> torch.Tensor:
    """A number for each input channel, in a shape that broadcasts to the weight's."""
    shape = layer.weight.type.shape
    groups = layer.node.op.groups if isinstance(layer.node.op, Conv) else 1
    sizes = [1] * len(shape)
    sizes[layer.in_axis] = shape[layer.in_axis]
    if groups == 1:
        return squares.reshape(sizes)
    sizes[layer.out_axis] = shape[layer.out_axis]
    return squares.reshape(groups, -1).repeat_interleave(shape[layer.out_axis] // groups, 0).reshape(sizes)
