"""What compression costs and brings: LeNet-5 on Fashion-MNIST pruned, clustered, quantized and distilled.

python -m examples.compress_fashion_mnist [--quick] [--out DIR]

Each network is compiled for the CPU, read back from disk and measured there. The table says why one
compresses in more than one way: zeros and shared weights make the artifact small, 8-bit integers and a
smaller network make it fast as well.

Distillation pays where labels are few. The small network is trained three times: on the labels of one
image in ten; on the same images with the float network's answers; and on all images, for which the float
network's answers stand in for labels. Where all images have labels, a student of this size does better on
them alone.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

import hardy
from examples.data import fashion_mnist
from examples.data.fashion_mnist import Images
from examples.models.image_classifiers import lenet_5, two_convolutions
from hardy.compiler.calibration import Samples
from hardy.compiler.cli.output import console, count, progress_bar, size, table
from hardy.compiler.cost import statistics
from hardy.compiler.driver import WeightForm
from hardy.compiler.pipeline import Pipeline
from hardy.compiler.progress import telling
from hardy.compiler.timing import time_in_turn
from hardy.compiler.training import CrossEntropy, GraphModule, fit
from hardy.compiler.training.distill import distill, teaching
from hardy.passes import Cluster, Finetune, Prune

# Part of the loss is the labels', the rest the float network's answers at this temperature.
LABEL_WEIGHT, TEMPERATURE = 0.3, 3.0
# A student, which knows less to begin with, listens to the float network more.
STUDENT_LABEL_WEIGHT, STUDENT_TEMPERATURE = 0.1, 2.0
CALIBRATION = 200


@dataclass(frozen=True)
class Effort:
    """Images, and how often each network sees them: `labelled` of them have labels for the student, which
    sees those for `student_epochs` and all images for `unlabelled_epochs`."""

    train: int
    test: int
    labelled: int
    float_epochs: int
    pruned_epochs: int
    clustered_epochs: int
    student_epochs: int
    unlabelled_epochs: int
    batch: int
    student_batch: int
    seconds: float


FULL = Effort(20_000, 10_000, 2_000, 5, 3, 1, 30, 8, 100, 64, seconds=10)
QUICK = Effort(1_500, 500, 150, 2, 1, 1, 12, 4, 25, 16, seconds=1)


@dataclass(frozen=True)
class Network:
    """A graph, and how it is compiled: with a preset, its weights raw or coded."""

    name: str
    graph: hardy.Graph
    preset: str | None = None
    weights: WeightForm = "coded"


@dataclass(frozen=True)
class Row:
    """What an artifact is worth: bytes on disk of all its files and of the weights, and the time of a run,
    in milliseconds and as a multiple of the float one's."""

    name: str
    accuracy: float
    nbytes: int
    weight_bytes: int
    macs: int
    milliseconds: float
    latency: float


def samples_of(images: Images) -> Samples:
    """One image a sample, with its class for the losses."""
    feeds = [{"input": images.x[i : i + 1], "label": images.y[i : i + 1]} for i in range(len(images))]
    return Samples(lambda: feeds, "Fashion-MNIST")


def untrained(module: nn.Module) -> hardy.Graph:
    """The graph for one image; graphs are trained as they are, compressed or not."""
    return hardy.trace(module.eval(), (torch.zeros(1, 1, 28, 28),))


def networks(samples: Samples, effort: Effort) -> list[Network]:
    """Train the float network, and compress it in all ways."""
    how = {"rate": 2e-3, "batch": effort.batch, "schedule": "one_cycle"}

    torch.manual_seed(0)
    module = GraphModule(untrained(lenet_5()))
    fit(module, samples, CrossEntropy("label"), epochs=effort.float_epochs, **how)
    whole = module.to_graph()

    # Nine of ten weights become zero, and stay zero while the others learn to do without them.
    taught = partial(
        Finetune,
        calibration=samples,
        original=whole,
        label="label",
        label_weight=LABEL_WEIGHT,
        temperature=TEMPERATURE,
        remember=True,
        **how,
    )
    prune = Prune(sparsity=0.9, scope="global")
    pruned = Pipeline((prune, taught(epochs=effort.pruned_epochs, keep="zeros"))).run(whole).graph

    # The weights of a layer share sixteen values; training moves the values, not who shares them.
    share = taught(epochs=effort.clustered_epochs, keep="ties")
    clustered = Pipeline((Cluster(bits=4), share)).run(pruned).graph

    alone, distilled, unlabelled = students(whole, samples, effort)
    # What no label was needed for is clustered without labels too.
    small = Pipeline((Cluster(bits=4), replace(share, label=None))).run(unlabelled).graph

    return [
        Network("float", whole, weights="raw"),
        Network("pruned", pruned),
        Network("pruned, clustered", clustered),
        Network("int8", whole, preset="int8"),
        Network("student alone", alone),
        Network("student distilled", distilled),
        Network("distilled on all", unlabelled),
        Network("distilled, clustered", small),
    ]


def students(teacher: hardy.Graph, samples: Samples, effort: Effort, seed: int = 0) -> list[hardy.Graph]:
    """The small network trained on few labels, on the teacher's answers to the same images besides, and on
    nothing but the teacher's answers to all images; the same weights to start from."""
    torch.manual_seed(seed)
    start = untrained(two_convolutions())
    few = samples.first(effort.labelled)
    how = {"rate": 4e-3, "batch": effort.student_batch, "schedule": "one_cycle", "seed": seed}

    module = GraphModule(start)
    fit(module, few, CrossEntropy("label"), epochs=effort.student_epochs, **how)
    graphs = [module.to_graph()]
    for images, label, weight, epochs in (
        (few, "label", STUDENT_LABEL_WEIGHT, effort.student_epochs),
        (samples, None, 0.0, effort.unlabelled_epochs),
    ):
        loss = teaching(label, weight, STUDENT_TEMPERATURE)
        distilled, _ = distill(teacher, start, images, loss, remembered=True, epochs=epochs, **how)
        graphs.append(distilled)
    return graphs


def accuracy(artifact: hardy.Artifact, images: Images) -> float:
    """The share of images whose greatest output is their class, one image a run."""
    right = 0
    for i in range(len(images)):
        (scores,) = artifact.run(input=images.x[i : i + 1]).values()
        right += int(scores.argmax()) == int(images.y[i])
    return right / len(images)


def measure(nets: list[Network], samples: Samples, test: Images, out: Path, seconds: float) -> list[Row]:
    """Compile each network into the folder, and measure what lies there; speeds in turn, on one image."""
    artifacts = {}
    for net in nets:
        path = out / f"{net.name.replace(',', '').replace(' ', '_')}.hardy"
        calibration = samples.first(CALIBRATION) if net.preset else None
        how = {"preset": net.preset, "calibration": calibration, "weights": net.weights}
        hardy.compile(net.graph, target="cpu", out=path, keep_passes=False, **how)
        artifacts[net.name] = hardy.load(path)
    right = {name: accuracy(artifact, test) for name, artifact in artifacts.items()}
    image = (test.x[:1],)
    calls = {name: partial(artifact.prepare().run, image) for name, artifact in artifacts.items()}
    times = {name: t.median for name, t in time_in_turn(calls, seconds=seconds, most=20_000).items()}
    rows = []
    for net in nets:
        folder = artifacts[net.name].folder
        assert folder is not None
        files = {f: f.stat().st_size for f in folder.rglob("*") if f.is_file()}
        rows.append(
            Row(
                net.name,
                right[net.name],
                nbytes=sum(files.values()),
                weight_bytes=files[folder / "weights.safetensors"],
                macs=statistics(net.graph).macs,
                milliseconds=1e3 * times[net.name],
                latency=times[net.name] / times["float"],
            )
        )
    return rows


def print_table(rows: list[Row]) -> None:
    """`smaller` is of the weights alone; programs and reports fill the rest of an artifact."""
    figures = ("accuracy", "artifact", "weights", "smaller", "MACs", "ms", "time")
    shown = table("network", *figures, right=figures)
    for row in rows:
        shown.add_row(
            row.name,
            f"{row.accuracy:.2%}",
            size(row.nbytes),
            size(row.weight_bytes),
            f"{rows[0].weight_bytes / row.weight_bytes:.1f}x",
            count(row.macs),
            f"{row.milliseconds:.3f}",
            f"{row.latency:.2f}x",
        )
    console().print(shown)


def draw(rows: list[Row], out: Path) -> None:
    """Accuracy against size and against latency: up and to the left is better."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, (row, marker) in enumerate(zip(rows, "*osDv^PX", strict=True)):
        for axes, x in ((left, row.nbytes / 1024), (right, row.latency)):
            style = {"marker": marker, "color": f"C{place}", "edgecolors": "white", "linewidths": 0.6}
            axes.scatter(x, 100 * row.accuracy, s=190 if marker == "*" else 85, label=row.name, **style)
    for axes, label in ((left, "artifact on disk, KiB"), (right, "time of a run / float's")):
        axes.set(xscale="log", xlabel=label)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(0.12)
    left.set_ylabel("accuracy, %")
    figure.suptitle("LeNet-5 on Fashion-MNIST, compressed")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(out / "compression.svg", metadata={"Date": None})
    figure.savefig(out / "compression.png", dpi=150)


def main(out: Path, quick: bool = False) -> list[Row]:
    """Train, compress, compile, measure, print and draw."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("matplotlib is not installed: pip install 'hardy[plots]'")
    try:
        train, test = fashion_mnist.load("train"), fashion_mnist.load("t10k")
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    effort = QUICK if quick else FULL
    torch.set_num_threads(1)
    samples, test = samples_of(train.part(0, effort.train)), test.part(0, effort.test)
    with progress_bar(quiet=False, left=True) as bar, telling(bar):
        nets = networks(samples, effort)
    rows = measure(nets, samples, test, out, effort.seconds)
    print_table(rows)
    draw(rows, out)
    print(f"artifacts and plot: {out}")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few images, a rough result, in a minute")
    parser.add_argument("--out", type=Path, default=Path("out/compress_fashion_mnist"), help="a folder")
    options = parser.parse_args()
    main(options.out, options.quick)
