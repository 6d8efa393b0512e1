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
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

import hardy
from benchmarks import fashion_mnist, networks
from benchmarks.fashion_mnist import Images
from hardy.compiler.interpret import evaluate
from hardy.compiler.ir import Graph
from hardy.compiler.training import GraphModule
from hardy.compiler.training.graph_module import Keep
from hardy.passes import Cluster
from hardy.passes.layers import layers, replace_weights

BATCH = 100
SOFTNESS, FROM_TEACHER = 3.0, 0.7


@dataclass(frozen=True)
class Recipe:
    """The share of weights that stays and the bits of a weight, by layer in order; epochs of each part."""

    density: tuple[float, ...]
    bits: tuple[int, ...]
    rounds: int
    epochs: int
    codebook_epochs: int
    rate: float = 1e-3


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


class Trainer:
    """Trains a graph towards labels and a teacher's answers, all images in a new order each epoch."""

    def __init__(self, data: Images, teacher: Tensor, seed: int, tell: Callable[[], None]) -> None:
        self.data, self.teacher, self.tell = data, teacher, tell
        self.generator = torch.Generator().manual_seed(seed)

    def train(self, graph: Graph, keep: Keep, epochs: int, rate: float, falling: bool = True) -> Graph:
        """Adam, at a rate that falls along a cosine or stays."""
        module = GraphModule(graph, keep=keep)
        optimizer = torch.optim.Adam(module.parameters(), lr=rate)
        (name,) = graph.input_names
        (output,) = graph.output_names
        total = len(self.data) // BATCH * epochs
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / total)) if falling else 1.0
        )
        for _ in range(epochs):
            order = torch.randperm(len(self.data), generator=self.generator)
            for rows in order.split(BATCH):
                y = module({name: self.data.x[rows]})[0][output]
                loss = self.loss(y, self.data.y[rows], self.teacher[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            self.tell()
        return module.to_graph()

    def loss(self, y: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
        soft, target = F.log_softmax(y / SOFTNESS, 1), F.log_softmax(teacher / SOFTNESS, 1)
        apart = F.kl_div(soft, target, log_target=True, reduction="batchmean")
        return (1 - FROM_TEACHER) * F.cross_entropy(y, labels) + FROM_TEACHER * SOFTNESS**2 * apart


def pruned(graph: Graph, density: Mapping[str, float]) -> Graph:
    """The graph with only the largest weights of each layer, so many of them."""
    new = {}
    for layer in layers(graph):
        size = layer.data.abs().flatten()
        least = size.kthvalue(len(size) - max(1, round(density[layer.name] * len(size))) + 1).values
        new[layer.weight] = torch.where(layer.data.abs() >= least, layer.data, 0.0)
    return replace_weights(graph, new)


def stages(graph: Graph, recipe: Recipe, trainer: Trainer) -> Iterator[tuple[str, Graph]]:
    """The graph after each stage."""
    names = [layer.name for layer in layers(graph)]
    for done in range(1, recipe.rounds + 1):
        kept = (1 - done / recipe.rounds) ** 3
        density = {n: d + (1 - d) * kept for n, d in zip(names, recipe.density, strict=True)}
        graph = trainer.train(pruned(graph, density), "zeros", 1, recipe.rate, falling=False)
    yield "pruned", graph
    graph = trainer.train(graph, "zeros", recipe.epochs, recipe.rate)
    yield "pruned, trained", graph
    for name, bits in zip(names, recipe.bits, strict=True):
        graph = Cluster(bits=bits, only=(name,)).run(graph)
    yield "clustered", graph
    yield "clustered, trained", trainer.train(graph, "ties", recipe.codebook_epochs, recipe.rate / 4)


def measure(stage: str, graph: Graph, test: Images, target: str, form: str, parameters: int) -> Row:
    """Write an artifact, load it, and run the test images on it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.hardy")
        hardy.compile(graph, target=target, out=path, weights=form)
        artifact = hardy.load(path)
        nbytes = (path / "weights.safetensors").stat().st_size
        (name,) = graph.input_names
        right = networks.accuracy(lambda x: next(iter(artifact.run({name: x}).values())), test, BATCH)
    weights = [layer.data for layer in layers(graph)]
    nonzero = sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    return Row(stage, right, nonzero, nbytes, 4 * parameters / nbytes)


def compress(name: str, control: bool, seed: int, tell: Callable[[int, int], None]) -> list[Row]:
    """The rows of a network's table."""
    recipe = RECIPES[name]
    data, test = fashion_mnist.load("train"), fashion_mnist.load("t10k")
    network = networks.trained(name)
    parameters = sum(p.numel() for p in network.parameters())
    dense = hardy.trace(network, (data.x[:BATCH],))
    epochs = recipe.rounds + recipe.epochs + recipe.codebook_epochs
    total, done = epochs * (2 if control else 1), 0

    def count() -> None:
        nonlocal done
        done += 1
        tell(done, total)

    with torch.no_grad():
        teacher = torch.cat([evaluate(dense, [x])[0] for x in data.x.split(BATCH)])
    rows = [measure("dense", dense, test, "reference", "raw", parameters)]
    if control:
        trained = Trainer(data, teacher, seed, count).train(dense, "nothing", epochs, recipe.rate)
        rows.append(measure("dense, trained as long", trained, test, "reference", "coded", parameters))
    for stage, graph in stages(dense, recipe, Trainer(data, teacher, seed, count)):
        rows.append(measure(stage, graph, test, "reference", "coded", parameters))
    rows.append(measure("compiled for the cpu", graph, test, "cpu", "coded", parameters))
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
            task = bar.add_task(f"{name}: epochs")
            rows = compress(
                name, control, seed, lambda done, total, t=task: bar.update(t, completed=done, total=total)
            )
        results[name] = [asdict(row) for row in rows]
        if json:
            continue
        table = Table("stage", "accuracy", "non-zero", "bits a weight", "bytes", "smaller", title=name)
        parameters = rows[0].ratio * rows[0].nbytes / 4
        for row in rows:
            bits = 8 * row.nbytes / parameters
            cells = [f"{row.accuracy:.2%}", f"{row.nonzero:.1%}", f"{bits:.2f}", f"{row.nbytes:,}"]
            table.add_row(row.stage, *cells, f"{row.ratio:.1f}x")
        last = rows[-1]
        lost = 100 * (rows[0].accuracy - last.accuracy)
        table.caption = (
            f"{last.ratio:.1f}x smaller, {lost:+.2f} points lost, {time.perf_counter() - started:.0f} s"
        )
        Console().print(table)
    if json:
        print(json_format.dumps(results))


if __name__ == "__main__":
    typer.run(main)
