"""Deep Compression (Han et al., 2016, arXiv:1510.00149) of two LeNets on Fashion-MNIST.

python -m benchmarks.deep_compression [NETWORK ...] [--control] [--json]

Prune by magnitude in rounds with training between them (Zhu and Gupta, 2017, arXiv:1710.01878), share
weights by k-means, train the codebooks, and write an artifact with coded weights. All accuracies are
of artifacts loaded from disk, on the 10,000 test images; bytes are those of the whole weights file. The
dense network is the teacher (Hinton et al., 2015, arXiv:1503.02531). Neither the number of epochs nor
anything else is chosen on the run: the last graph counts.
"""

from __future__ import annotations

import json as json_format
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import hardy
from benchmarks import networks
from benchmarks.distillation import samples_of
from examples.data import fashion_mnist
from examples.data.fashion_mnist import Images
from hardy.compiler.calibration import Samples
from hardy.compiler.driver import WeightForm
from hardy.compiler.ir import Graph
from hardy.compiler.progress import Progress as Tell
from hardy.compiler.training import GraphModule, fit
from hardy.compiler.training.distill import teaching
from hardy.compiler.training.graph_module import Keep
from hardy.compiler.training.losses import Remembered, remember
from hardy.passes import Cluster, Prune
from hardy.passes.layers import layers

BATCH = 100
LABEL_WEIGHT, TEMPERATURE = 0.3, 3.0
RATE, CODEBOOK_RATE = 1e-3, 2.5e-4


@dataclass(frozen=True)
class Recipe:
    """The share of weights that stays and the bits of a weight, by layer in order; rounds of pruning with
    an epoch each, and epochs of training the pruned network and its codebooks."""

    density: tuple[float, ...]
    bits: tuple[int, ...]
    rounds: int
    epochs: int
    codebook_epochs: int

    @property
    def total(self) -> int:
        """All epochs."""
        return self.rounds + self.epochs + self.codebook_epochs


RECIPES = {
    "lenet_300_100": Recipe((0.05, 0.08, 0.4), (3, 3, 4), rounds=8, epochs=10, codebook_epochs=3),
    "lenet_5": Recipe((0.7, 0.15, 0.04, 0.25), (4, 3, 3, 4), rounds=4, epochs=4, codebook_epochs=1),
}


@dataclass(frozen=True)
class Row:
    """One stage: accuracy, the share of weights that are not zero, bytes of the weights file, and how many
    times smaller that is than the parameters in f32."""

    stage: str
    accuracy: float
    nonzero: float
    nbytes: int
    ratio: float


@dataclass
class Trainer:
    """Trains graphs towards labels and the teacher's answers, every part in an order of its own."""

    samples: Samples
    bar: Progress
    name: str
    epochs: int
    seed: int

    def __post_init__(self) -> None:
        self.task = self.bar.add_task(self.name)
        self.parts = 0

    def train(self, graph: Graph, keep: Keep, epochs: int, rate: float, falling: bool = True) -> Graph:
        """Adam, at a rate that falls along a cosine or stays."""
        module = GraphModule(graph, keep=keep)
        fit(
            module,
            self.samples,
            Remembered(teaching("label", LABEL_WEIGHT, TEMPERATURE)),
            epochs=epochs,
            rate=rate,
            batch=BATCH,
            seed=self.seed + self.parts,
            schedule="cosine" if falling else "constant",
            progress=self.tell(epochs),
        )
        self.parts += 1
        return module.to_graph()

    def tell(self, epochs: int) -> Tell:
        """Moves the bar by these epochs while they are trained."""
        start = self.bar.tasks[self.task].completed

        def progress(step: str, done: int, total: int) -> None:
            at = start + epochs * done / max(total, 1)
            self.bar.update(self.task, completed=at, total=self.epochs, description=f"{self.name}: {step}")

        return progress


def stages(graph: Graph, recipe: Recipe, trainer: Trainer) -> Iterator[tuple[str, Graph]]:
    """The graph after each stage."""
    names = [layer.name for layer in layers(graph)]
    for done in range(1, recipe.rounds + 1):
        lost = 1 - (1 - done / recipe.rounds) ** 3
        for name, density in zip(names, recipe.density, strict=True):
            graph = Prune(sparsity=lost * (1 - density), structure="element", only=(name,)).run(graph)
        graph = trainer.train(graph, "zeros", 1, RATE, falling=False)
    yield "pruned", graph
    graph = trainer.train(graph, "zeros", recipe.epochs, RATE)
    yield "pruned, trained", graph
    for name, bits in zip(names, recipe.bits, strict=True):
        graph = Cluster(bits=bits, only=(name,)).run(graph)
    yield "clustered", graph
    yield "clustered, trained", trainer.train(graph, "ties", recipe.codebook_epochs, CODEBOOK_RATE)


def measure(stage: str, graph: Graph, test: Images, target: str = "cpu", form: WeightForm = "coded") -> Row:
    """Write an artifact, load it, and run the test images on it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.hardy")
        hardy.compile(graph, target=target, out=path, weights=form)
        artifact = hardy.load(path)
        nbytes = (path / "weights.safetensors").stat().st_size
        (name,), (output,) = artifact.inputs, artifact.outputs
        right = networks.accuracy(lambda x: artifact.run({name: x})[output], test, batch=1)
    weights = [layer.data for layer in layers(graph)]
    nonzero = sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    raw = sum(c.tensor.nbytes for c in graph.constants() if c.type.dtype.is_float)
    return Row(stage, right, nonzero, nbytes, raw / nbytes)


def compress(name: str, control: bool, seed: int, bar: Progress) -> list[Row]:
    """The rows of a network's table."""
    recipe = RECIPES[name]
    data, test = fashion_mnist.load("train"), fashion_mnist.load("t10k")
    dense = hardy.trace(networks.trained(name), (data.x[:1],))
    samples = remember(dense, samples_of(data))
    trainer = Trainer(samples, bar, name, recipe.total * (2 if control else 1), seed)
    rows = [measure("dense", dense, test, form="raw")]
    if control:
        trained = trainer.train(dense, "nothing", recipe.total, RATE)
        rows.append(measure("dense, trained as long", trained, test))
    for stage, graph in stages(dense, recipe, trainer):
        rows.append(measure(stage, graph, test))
    rows.append(measure("for the reference", graph, test, target="reference"))
    return rows


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(RECIPES)}.")] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Also train the dense network for as many epochs.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the order of the images.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prune, share, code and measure."""
    torch.set_num_threads(1)
    results = {}
    for name in names or RECIPES:
        started = time.perf_counter()
        with Progress(console=Console(stderr=True), disable=json) as bar:
            rows = compress(name, control, seed, bar)
        results[name] = [asdict(row) for row in rows]
        if json:
            continue
        table = Table("stage", "accuracy", "non-zero", "bits a weight", "bytes", "smaller", title=name)
        for row in rows:
            cells = [f"{row.accuracy:.2%}", f"{row.nonzero:.1%}", f"{32 / row.ratio:.2f}", f"{row.nbytes:,}"]
            table.add_row(row.stage, *cells, f"{row.ratio:.1f}x")
        first, last = rows[0], rows[-2]
        spent = time.perf_counter() - started
        lost = 100 * (first.accuracy - last.accuracy)
        table.caption = f"{last.ratio:.1f}x smaller, {lost:.2f} points lost, {spent:.0f} s"
        Console().print(table)
    if json:
        print(json_format.dumps(results))


if __name__ == "__main__":
    typer.run(main)
