"""Distillation on Fashion-MNIST: a small network alone, and the same one taught by a larger one.

python -m benchmarks.distillation [--seeds N] [--images N] [--epochs N] [--temperature T]

Both students start from the same weights and take the same steps over the same labelled images, in
the same order; they differ in the loss alone. The teacher is `resnet_8` of `benchmarks.networks`,
trained on all 60,000 images; a student sees the first few thousand.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.networks import accuracy, trained
from examples.data import fashion_mnist
from examples.data.fashion_mnist import Images
from examples.models.image_classifiers import two_convolutions
from hardy.compiler.calibration import Samples
from hardy.compiler.cost import statistics as cost_of
from hardy.compiler.ir import Graph
from hardy.compiler.models import trace
from hardy.compiler.pipeline import Pipeline
from hardy.compiler.training import CrossEntropy, GraphModule, fit
from hardy.compiler.training.distill import distill, teaching
from hardy.passes import DEFAULT

BATCH = 64
RATE = 4e-3
LABEL_WEIGHT = 0.1


def graph_of(module: nn.Module) -> Graph:
    graph = trace(module.eval(), (torch.zeros(1, 1, 28, 28),))
    return Pipeline(DEFAULT).run(graph).graph


def samples_of(data: Images) -> Samples:
    feeds = [{"input": data.x[i : i + 1], "label": data.y[i : i + 1]} for i in range(len(data))]
    return Samples(lambda: feeds, "Fashion-MNIST")


def score(graph: Graph, data: Images) -> float:
    module = GraphModule(graph, train=())

    def run(x: Tensor) -> Tensor:
        outputs, _ = module.batch({"input": x[:, None]})
        return outputs["output"][:, 0]

    return 100 * accuracy(run, data)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--images", type=int, default=2000)
    options.add_argument("--epochs", type=int, default=40)
    options.add_argument("--temperature", type=float, default=2.0)
    given = options.parse_args()
    torch.set_num_threads(1)
    train, test = fashion_mnist.load("train").part(0, given.images), fashion_mnist.load("t10k")
    teacher = graph_of(trained("resnet_8"))
    samples = samples_of(train)
    how = {"epochs": given.epochs, "rate": RATE, "batch": BATCH, "schedule": "one_cycle"}
    loss = teaching("label", LABEL_WEIGHT, given.temperature)

    table = Table("seed", "alone", "distilled", "gain", title=f"accuracy on {len(test)} test images, %")
    gains = []
    started = time.perf_counter()
    for seed in range(given.seeds):
        torch.manual_seed(seed)
        start = graph_of(two_convolutions())
        alone = GraphModule(start)
        fit(alone, samples, CrossEntropy(), seed=seed, **how)
        taught, _ = distill(teacher, start, samples, loss, remembered=True, seed=seed, **how)
        a, b = score(alone.to_graph(), test), score(taught, test)
        gains.append(b - a)
        table.add_row(str(seed), f"{a:.2f}", f"{b:.2f}", f"{b - a:+.2f}")
        print(
            f"seed {seed}: alone {a:.2f}, distilled {b:.2f}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    console = Console()
    console.print(table)
    big, small = cost_of(teacher), cost_of(start)
    console.print(
        f"{given.images} images, {given.epochs} epochs, temperature {given.temperature:g}, "
        f"weight of the labels {LABEL_WEIGHT}"
    )
    console.print(
        f"teacher: {score(teacher, test):.2f} %, {big.parameters} parameters, {big.macs} MACs; "
        f"student: {small.parameters} parameters, {small.macs} MACs"
    )
    console.print(f"distilled minus alone, mean of {given.seeds} seeds: {statistics.mean(gains):+.2f} points")


if __name__ == "__main__":
    main()
