"""Four tenths of the MACs of the Fashion-MNIST ResNet removed: accuracy and speed, before and after.

python -m benchmarks.structured_pruning [--keep 0.6] [--epochs 6] [--score first_order] [--multiple 8]

Channels go by first-order scores on training images; what is left is trained for a few epochs on the
classes and on the whole network's outputs; both networks are compiled for the cpu target and take
turns on one image at a time, one thread.
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

import hardy
from benchmarks import networks, peers
from examples.data import fashion_mnist
from examples.data.fashion_mnist import Images
from hardy.compiler.artifact import Artifact
from hardy.compiler.calibration import Samples
from hardy.compiler.cli.output import progress_bar
from hardy.compiler.cli.tables import print_passes
from hardy.compiler.cost import statistics
from hardy.compiler.ir import Graph
from hardy.compiler.pipeline import Pipeline
from hardy.compiler.progress import telling
from hardy.compiler.timing import time_in_turn
from hardy.compiler.training.distill import distill, teaching
from hardy.passes import DEFAULT, PruneChannels

SCORED = 1024  # training images that the scores are taken on
RATE, LABEL_WEIGHT, TEMPERATURE = 3e-3, 0.5, 2.0
MOST_LOST, LEAST_GAINED = 0.01, 1.4


def feeds(images: Images) -> Samples:
    """One image after the other, with its class."""
    return Samples(
        lambda: ({"input": images.x[i : i + 1], "label": images.y[i : i + 1]} for i in range(len(images))),
        "Fashion-MNIST",
    )


def shifted(feed: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A batch of single images, changed as in the network's own training."""
    return {**feed, "input": networks.augment(feed["input"][:, 0], generator)[:, None]}


def recover(graph: Graph, teacher: Graph, images: Images, epochs: int, seed: int) -> Graph:
    """Train what pruning left, on the classes and on what the whole network says."""
    with progress_bar(quiet=False, left=True) as progress, telling(progress):
        recovered, _ = distill(
            teacher,
            graph,
            feeds(images),
            teaching("label", LABEL_WEIGHT, TEMPERATURE),
            epochs=epochs,
            rate=RATE,
            batch=networks.BATCH,
            seed=seed,
            weight_decay=1e-4,
            schedule="one_cycle",
            augment=shifted,
        )
    return recovered


def accuracy(artifact: Artifact, images: Images) -> float:
    """Of the compiled program, image by image."""
    (name,) = artifact.inputs
    right = 0
    for i in range(len(images)):
        (logits,) = artifact.run({name: images.x[i : i + 1]}).values()
        right += int(logits.argmax()) == int(images.y[i])
    return right / len(images)


def main(
    keep: Annotated[float, typer.Option(help="The share of the MACs to keep.")] = 0.6,
    epochs: Annotated[int, typer.Option(help="Epochs of recovery.")] = 6,
    score: Annotated[str, typer.Option(help="See hardy.passes.channel_scores.")] = "first_order",
    multiple: Annotated[int, typer.Option(help="What the channels left are a multiple of.")] = 8,
    seconds: Annotated[float, typer.Option(help="Time spent on the comparison of speed.")] = 10.0,
    seed: int = 0,
) -> None:
    """Prune the ResNet's channels, recover, compile, and compare."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    train, test = fashion_mnist.load("train"), fashion_mnist.load("t10k")
    traced = hardy.trace(networks.trained("resnet_8"), (test.x[:1],))
    whole = Pipeline(DEFAULT).run(traced).graph
    prune = PruneChannels(
        macs=keep, multiple=multiple, score=score, calibration=feeds(train), samples=SCORED, target="cpu"
    )
    result = Pipeline((prune,)).run(whole)
    screen = Console()
    print_passes(screen, [r.to_json() for r in result.records])
    graphs = {"unpruned": whole, "pruned": result.graph}
    if epochs:
        graphs["recovered"] = recover(result.graph, whole, train, epochs, seed)
    artifacts = {name: hardy.compile(graph, target="cpu") for name, graph in graphs.items()}
    right = {name: accuracy(artifact, test) for name, artifact in artifacts.items()}
    image = (test.x[:1],)
    timings = time_in_turn({n: peers.compiled(a, image) for n, a in artifacts.items()}, seconds=seconds)
    table = Table("network", "accuracy", "MACs", "parameters", "ms (best)", "times faster")
    for name, graph in graphs.items():
        size, t = statistics(graph), timings[name]
        table.add_row(
            name,
            f"{right[name]:.2%}",
            f"{size.macs / 1e6:.2f} M",
            f"{size.parameters / 1e3:.1f} k",
            f"{t.median * 1e3:.3f} ({t.best * 1e3:.3f})",
            f"{timings['unpruned'].median / t.median:.2f}",
        )
    screen.print(table)
    last = next(reversed(graphs))
    lost = right["unpruned"] - right[last]
    gained = timings["unpruned"].median / timings[last].median
    screen.print(
        f"{last}: {100 * lost:.2f} points lost (at most {100 * MOST_LOST:g}), "
        f"{gained:.2f} times faster (at least {LEAST_GAINED:g})"
    )


if __name__ == "__main__":
    typer.run(main)
