"""The accelerator as processes and FIFOs: layers and their windows, and what lies between them.

Tokens are vectors of lanes. Where a producer makes other lanes than a consumer takes, an adapter goes between
them; where a tensor has several consumers, its tokens are copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hardy.targets.fpga.dataflow.folding import Fold
from hardy.targets.fpga.dataflow.layers import Elementwise, Layer, Network, Product, Tensor
from hardy.targets.fpga.dataflow.ranges import Range


@dataclass(frozen=True)
class Fifo:
    """A FIFO of `depth` tokens of `lanes` elements; `tokens` pass in a frame."""

    name: str
    type: Range
    lanes: int
    tokens: int
    depth: int = 2

    @property
    def width(self) -> int:
        """Bits of a token."""
        return self.type.bits * self.lanes


@dataclass(frozen=True, eq=False)
class Process:
    """A process: its kind (the name of its function in the library), the FIFOs it reads and writes in the
    order of its parameters, and its layer or the numbers it is made with."""

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    layer: Layer | None = None
    fold: Fold | None = None
    tensor: Tensor | None = None
    times: int = 1


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Processes in the order in which data flows, and the FIFOs between them by name."""

    network: Network
    folds: tuple[Fold, ...]
    processes: tuple[Process, ...]
    fifos: dict[str, Fifo]

    def with_depths(self, depths: dict[str, int]) -> Pipeline:
        fifos = {n: replace(f, depth=depths.get(n, f.depth)) for n, f in self.fifos.items()}
        return replace(self, fifos=fifos)


def build(network: Network, folds: Sequence[Fold]) -> Pipeline:
    """The processes of a network whose layers are folded so."""
    return _Builder(network, tuple(folds)).build()


@dataclass
class _Builder:
    network: Network
    folds: tuple[Fold, ...]
    processes: list[Process] = field(default_factory=list)
    fifos: dict[str, Fifo] = field(default_factory=dict)
    # The FIFO that brings a tensor to one of its readers: (tensor, reader, role).
    arriving: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def build(self) -> Pipeline:
        for tensor in self.network.inputs:
            lanes = self._readers(tensor)[0][2]
            name = self._fifo(tensor.producer, tensor.range, lanes, tensor.size)
            self.processes.append(Process(f"load_{tensor.producer}", "load", (), (name,), tensor=tensor))
            self._spread(tensor, name)
        for layer, fold in zip(self.network.layers, self.folds, strict=True):
            self._layer(layer, fold)
        for i, tensor in enumerate(self.network.outputs):
            name = self.arriving[tensor.producer, f"output{i}", "stored"]
            self.processes.append(Process(f"store_{i}", "store", (name,), (), tensor=tensor))
        return Pipeline(self.network, self.folds, tuple(self.processes), self.fifos)

    def _readers(self, tensor: Tensor) -> list[tuple[str, str, int]]:
        """Who reads a tensor: name, role, and the lanes it takes."""
        found: list[tuple[str, str, int]] = []
        for layer, fold in zip(self.network.layers, self.folds, strict=True):
            if layer.input is tensor:
                found.append((layer.name, "input", fold.lanes))
            if layer.joined is tensor:
                found.append((layer.name, "joined", fold.pe))
        for i, output in enumerate(self.network.outputs):
            if output is tensor:
                found.append((f"output{i}", "stored", 0))
        return found

    def _fifo(self, name: str, type: Range, lanes: int, elements: int) -> str:
        self.fifos[name] = Fifo(name, type, lanes, elements // lanes)
        return name

    def _spread(self, tensor: Tensor, name: str) -> None:
        """Bring a tensor from its FIFO to all of its readers, each in its own lanes."""
        readers = self._readers(tensor)
        made = self.fifos[name]
        arrived = [name]
        if len(readers) > 1:
            arrived = [
                self._fifo(f"{name}_to_{reader}_{role}", made.type, made.lanes, tensor.size)
                for reader, role, _ in readers
            ]
            self.processes.append(Process(f"copy_{name}", "copies", (name,), tuple(arrived), tensor=tensor))
        for (reader, role, lanes), fifo in zip(readers, arrived, strict=True):
            self.arriving[tensor.producer, reader, role] = self._adapt(tensor, fifo, lanes or made.lanes)

    def _adapt(self, tensor: Tensor, name: str, lanes: int) -> str:
        """The FIFO that has the tokens of another in `lanes` lanes."""
        given = self.fifos[name]
        common = math.lcm(given.lanes, lanes)
        for kind, times, to in (
            ("widen", common // given.lanes, common),
            ("narrow", common // lanes, lanes),
        ):
            if times > 1:
                new = self._fifo(f"{name}_by_{to}", given.type, to, tensor.size)
                self.processes.append(
                    Process(f"{kind}_{name}", kind, (name,), (new,), tensor=tensor, times=times)
                )
                name = new
        return name

    def _layer(self, layer: Layer, fold: Fold) -> None:
        name = self.arriving[layer.input.producer, layer.name, "input"]
        if layer.window is not None:
            kind = "window_whole" if fold.taps > 1 else "window_taps"
            elements = layer.window.taps * math.prod(layer.window.positions) * layer.channels
            windows = self._fifo(f"{layer.name}_windows", layer.x, fold.simd, elements)
            self.processes.append(
                Process(f"{layer.name}_window", kind, (name,), (windows,), layer, fold, layer.input)
            )
            name = windows
        reads = [name]
        if layer.joined is not None:
            reads.append(self.arriving[layer.joined.producer, layer.name, "joined"])
        tensor = layer.output
        out = self._fifo(layer.name, tensor.range, fold.pe, tensor.size)
        self.processes.append(Process(layer.name, kind_of(layer), tuple(reads), (out,), layer, fold, tensor))
        self._spread(tensor, out)


def kind_of(layer: Layer) -> str:
    """The function of the library that computes a layer's head."""
    kinds = {
        "Product": "product",
        "Depthwise": "depthwise",
        "WholeImage": "whole_image",
        "MaxPool": "max_pool",
    }
    if isinstance(layer.head, Product | Elementwise):
        return "product" if isinstance(layer.head, Product) else "elementwise"
    return kinds[type(layer.head).__name__]
