"""A small ResNet on an FPGA board: trained on Fashion-MNIST, compiled for VTA, run on the simulated board.

python -m examples.fpga_resnet [--quick] [--out DIR]

The network is trained on its traced graph, quantized to 8-bit integers in the board's scheme (symmetric,
scales that are powers of two), and compiled to one instruction stream for VTA on a PYNQ-Z1. Test images go
through the simulator, which computes what the board would, bit by bit. Cycles are estimates of a model.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

import hardy
from examples.compress_fashion_mnist import samples_of
from examples.data import fashion_mnist
from examples.data.fashion_mnist import Images
from examples.models.image_classifiers import resnet_8
from hardy.compiler.calibration import Samples
from hardy.compiler.cli.output import console, progress_bar, table
from hardy.compiler.pipeline import Pipeline
from hardy.compiler.progress import telling
from hardy.compiler.training import CrossEntropy, GraphModule, fit
from hardy.passes import DEFAULT
from hardy.targets.fpga.summary import Summary, summarize

BOARD = "fpga:pynq-z1"
CALIBRATION = 200
FLOAT, INT8, SIMULATED = "float, cpu", "int8, cpu", "int8, simulated board"


@dataclass(frozen=True)
class Effort:
    """Images to train and to test on, and the training's epochs and batch."""

    train: int
    test: int
    epochs: int
    batch: int


FULL = Effort(20_000, 2_000, 8, 64)
QUICK = Effort(2_000, 200, 3, 25)


@dataclass(frozen=True)
class Result:
    """The accuracy of each form on the same images, and the estimates for the board."""

    accuracy: Mapping[str, float]
    images: int
    board: Summary
    drawing: Path


def train(samples: Samples, effort: Effort) -> hardy.Graph:
    """The network for one image, trained as a graph whose batch normalizations are folded away."""
    torch.manual_seed(0)
    graph = hardy.trace(resnet_8().eval(), (torch.zeros(1, 1, 28, 28),))
    module = GraphModule(Pipeline(DEFAULT).run(graph).graph)
    how = {"epochs": effort.epochs, "batch": effort.batch, "rate": 4e-3, "schedule": "one_cycle"}
    fit(module, samples, CrossEntropy("label"), augment=moved, **how)
    return module.to_graph()


def moved(feeds: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A batch of feeds, each image [1, 1, 28, 28], with images moved and mirrored at random."""
    return {**feeds, "input": fashion_mnist.augment(feeds["input"][:, 0], generator)[:, None]}


def accuracy(artifact: hardy.Artifact, images: Images) -> float:
    """The share of images whose greatest output is their class, one image a run."""
    runner = artifact.prepare()
    right = 0
    for i in range(len(images)):
        (scores,) = runner.run((images.x[i : i + 1],))
        right += int(scores.argmax()) == int(images.y[i])
    return right / len(images)


def measure(graph: hardy.Graph, samples: Samples, test: Images, out: Path) -> Result:
    """Compile the network in three forms, and run all of them on the test images."""
    int8 = {"preset": "int8", "calibration": samples.first(CALIBRATION)}
    artifacts = {
        FLOAT: hardy.compile(graph, target="cpu", out=out / "float.hardy"),
        INT8: hardy.compile(graph, target="cpu", out=out / "int8.hardy", **int8),
        SIMULATED: hardy.compile(graph, target=BOARD, out=out / "board.hardy", **int8),
    }
    board = artifacts[SIMULATED]
    (drawing,) = board.draw_timeline(out / "timeline.png")
    right = {form: accuracy(artifact, test) for form, artifact in artifacts.items()}
    return Result(right, len(test), summarize(board), drawing)


def show(result: Result) -> None:
    """The table, the layers, and what was run."""
    accuracies = table(f"form, on {result.images} images", "accuracy", right=("accuracy",))
    for form, share in result.accuracy.items():
        accuracies.add_row(form, f"{share:.2%}")
    console().print(accuracies)

    board = result.board
    facts = table("on the board, an image", "", right=("",))
    facts.add_row("multiply-accumulates on VTA", f"{board.macs_share:.2%}")
    facts.add_row("cycles, estimated", f"{board.cycles:,}")
    facts.add_row("milliseconds at its clock, estimated", f"{1e3 * board.seconds:.3f}")
    facts.add_row("cycles in which products begin", f"{board.gemm_use:.1%}")
    console().print(facts)

    figures = ("cycles", "GEMM", "ALU", "KB")
    layers = table("layer", *figures, "limit", "tiles", right=figures)
    for row in board.layers:
        shares = (f"{row['gemm_use']:.1%}", f"{row['alu_share']:.1%}")
        kilobytes = f"{row['bytes'] / 1000:.1f}"
        layers.add_row(row["layer"], f"{row['cycles']:,}", *shares, kilobytes, row["limit"], row["tiling"])
    console().print(layers)
    print("A simulator ran, bit by bit, not a board; cycles and milliseconds are those of a model.")


def main(out: Path, quick: bool = False) -> Result:
    """Train, compile, run, print and draw."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("matplotlib is not installed: pip install 'hardy[plots]'")
    try:
        images, test = fashion_mnist.load("train"), fashion_mnist.load("t10k")
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    effort = QUICK if quick else FULL
    samples = samples_of(images.part(0, effort.train))
    with progress_bar(quiet=False, left=True) as bar, telling(bar):
        graph = train(samples, effort)
        result = measure(graph, samples, test.part(0, effort.test), out)
    show(result)
    print(f"artifacts and timeline: {out}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few images, a rough result, in a minute")
    parser.add_argument("--out", type=Path, default=Path("out/fpga_resnet"), help="a folder")
    options = parser.parse_args()
    main(options.out, options.quick)
