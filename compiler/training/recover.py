"""Block-wise recovery: makes a compressed graph compute what the original does, without labels."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardy.compiler.calibration.data import Samples
from hardy.compiler.cut import Part, cut
from hardy.compiler.ir import Graph, Value
from hardy.compiler.progress import Progress, tell
from hardy.compiler.training.blocks import By, End, block_ends
from hardy.compiler.training.distill import require_same_inputs
from hardy.compiler.training.fit import fit
from hardy.compiler.training.graph_module import GraphModule, Keep
from hardy.compiler.training.losses import Seen
from hardy.compiler.training.quantized import float_weights, integer_weights
from hardy.compiler.training.trainable import trainable
from hardy.compiler.types import TensorType
from hardy.passes.layers import replace_weights

# Samples that run together where nothing is trained.
CHUNK = 32


@dataclass(frozen=True)
class Recovered:
    """One block: where it ends, and the error of what it computes there relative to the original,
    sum (a - b)^2 / sum b^2, before and after; `kept` tells whether the new weights were."""

    end: str
    before: float
    after: float
    kept: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def recover(
    original: Graph,
    compressed: Graph,
    samples: Samples,
    *,
    epochs: int = 5,
    rate: float = 1e-3,
    batch: int = 32,
    seed: int = 0,
    keep: Keep = "zeros",
    by: By = "blocks",
    vectorize: bool = True,
    progress: Progress = tell,
) -> tuple[Graph, list[Recovered]]:
    """Train a compressed graph's weights block after block, so that each gives what the same place of
    the original gives; inputs come from the blocks before it, as they have become.

    `keep` says what stays of the weights (see `GraphModule`); stored integers stay integers. A block
    whose error on the samples does not fall keeps its weights. What flows between blocks lies in
    files, so that memory does not grow with the number of samples.
    """
    require_same_inputs(original, compressed)
    graph = float_weights(compressed)
    ends = block_ends(graph, original, by)
    ours = cut(graph, [e.ours for e in ends[:-1]] + [graph.outputs])
    theirs = cut(original, [e.theirs for e in ends[:-1]] + [original.outputs])
    new: dict[Value, Tensor] = {}
    report: list[Recovered] = []
    with tempfile.TemporaryDirectory(prefix="hardy-recover-") as folder:
        count = sum(1 for _ in samples.feeds(graph.input_types()))
        given, expected = _Store(Path(folder, "ours"), count), _Store(Path(folder, "theirs"), count)
        given.take_inputs(samples, ours[0].names, graph)
        expected.take_inputs(samples, theirs[0].names, original)
        for i, (end, part, target) in enumerate(zip(ends, ours, theirs, strict=True)):
            expected.run(target, target.graph, vectorize)
            learned = [v for v in trainable(part.graph) if v not in new]
            # Constants of a part are the graph's own nodes, but for those that an earlier block trained.
            start = replace_weights(part.graph, new)
            block = _Block(end, part, given, expected)
            before = block.error(start, vectorize)
            if learned and before > 0:
                module = GraphModule(start, learned, keep)
                fit(
                    module,
                    Samples(block.feeds, f"block {i + 1}"),
                    block.loss,
                    epochs=epochs,
                    rate=rate,
                    batch=batch,
                    seed=seed,
                    vectorize=vectorize,
                    progress=_within(progress, i, len(ends)),
                )
                trained = module.to_graph()
                after = block.error(trained, vectorize)
                if after < before:
                    new |= module.tensors()
                    start = trained
                report.append(Recovered(_place(end), before, after, after < before))
            given.run(part, start, vectorize)
            given.keep({v for p in ours[i + 1 :] for v in p.takes})
            expected.keep(
                {v for p in theirs[i + 1 :] for v in p.takes} | {v for e in ends[i + 1 :] for v in e.theirs}
            )
    if not any(r.kept for r in report):
        return compressed, report
    return integer_weights(replace_weights(graph, new)), report


def _place(end: End) -> str:
    node = end.ours[0].node
    return node.name or node.source or node.op.name


def _within(progress: Progress, block: int, blocks: int) -> Progress:
    def tell(step: str, done: int, total: int) -> None:
        progress(f"block {block + 1} of {blocks}, {step}", block * total + done, blocks * total)

    return tell


class _Store:
    """Values of every sample, in mapped files: [samples, ...] each."""

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir()
        self.folder, self.count = folder, count
        self.tensors: dict[Value, Tensor] = {}
        self.made = 0

    def make(self, value: Value, t: TensorType) -> Tensor:
        self.made += 1
        size = self.count * t.size
        path = self.folder / f"{self.made}"
        flat = (
            torch.from_file(str(path), shared=True, size=size, dtype=t.dtype.torch)
            if size
            else torch.empty(0, dtype=t.dtype.torch)
        )
        # The mapping outlives its name, and goes with the tensor.
        path.unlink(missing_ok=True)
        self.tensors[value] = flat.reshape(self.count, *t.shape)
        return self.tensors[value]

    def take_inputs(self, samples: Samples, names: Mapping[Value, str], graph: Graph) -> None:
        wanted = {v: self.make(v, v.type) for v in graph.inputs}
        for i, feed in enumerate(samples.feeds(graph.input_types())):
            for value, tensor in wanted.items():
                tensor[i] = feed[names[value]]

    def run(self, part: Part, graph: Graph, vectorize: bool) -> None:
        """Compute what a part gives, with the weights of `graph`, for every sample."""
        into = {part.names[v]: self.make(v, v.type) for v in part.gives}
        for rows, outputs in self.outputs(part, graph, vectorize):
            for name, tensor in outputs.items():
                into[name][rows] = tensor

    def outputs(
        self, part: Part, graph: Graph, vectorize: bool
    ) -> Iterator[tuple[slice, Mapping[str, Tensor]]]:
        module = GraphModule(graph, train=())
        for start in range(0, self.count, CHUNK):
            rows = slice(start, min(start + CHUNK, self.count))
            feed = {part.names[v]: self.tensors[v][rows] for v in part.takes}
            with torch.no_grad():
                yield rows, module.stacked(feed, (), vectorize)[0]

    def keep(self, values: set[Value]) -> None:
        self.tensors = {v: t for v, t in self.tensors.items() if v in values}


class _Block:
    """What trains one part: its inputs, what the original gives at its ends, and how far it is from it."""

    def __init__(self, end: End, part: Part, given: _Store, expected: _Store) -> None:
        self.part, self.given = part, given
        self.targets = {
            part.names[mine]: expected.tensors[other]
            for mine, other in zip(end.ours, end.theirs, strict=True)
            if mine in part.gives
        }
        tiny = torch.finfo(torch.float32).tiny
        self.power = {
            name: max(sum(float(rows.double().square().sum()) for rows in torch.split(t, CHUNK)), tiny)
            for name, t in self.targets.items()
        }

    def feeds(self) -> Iterator[dict[str, Tensor]]:
        """The part's inputs for each sample, and what is expected of each end under its name."""
        for i in range(self.given.count):
            feed = {self.part.names[v]: self.given.tensors[v][i] for v in self.part.takes}
            yield feed | {f"expected {name}": t[i] for name, t in self.targets.items()}

    def loss(self, seen: Seen) -> Tensor:
        """The squared error relative to the mean square over all samples, averaged over the ends."""
        errors = []
        for name, power in self.power.items():
            difference = seen.outputs[name].float() - seen.feed[f"expected {name}"].float()
            mean_power = power / self.targets[name].numel()
            errors.append(difference.square().mean() / mean_power)
        return torch.stack(errors).mean()

    def error(self, graph: Graph, vectorize: bool) -> float:
        """The relative error over all samples, averaged over the ends; 0 where there is none."""
        noise = dict.fromkeys(self.targets, 0.0)
        for rows, outputs in self.given.outputs(self.part, graph, vectorize):
            for name in noise:
                difference = outputs[name].double() - self.targets[name][rows].double()
                noise[name] += float(difference.square().sum())
        return sum(noise[name] / self.power[name] for name in noise) / max(len(noise), 1)
