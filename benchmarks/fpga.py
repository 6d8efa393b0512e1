"""Whole networks on a simulated PYNQ-Z1 with VTA: what runs there, to the bit, and in how many cycles.

python -m benchmarks.fpga [NAME ...] [--json] [--seconds 300]

Each network is quantized by the preset int8, compiled for fpga:pynq-z1 and simulated. `equal` counts the
inputs on which all outputs of the simulated board were, to the bit, those of the artifact's graph as the
reference interprets it; the program stops where one is not. Cycles are those of the cycle model, of VTA
alone, for one input; no board was measured. Milliseconds are at the board's clock.

Accuracy for Fashion-MNIST is that of as many test images as the simulator runs in the given time, and that
of all 10,000 by the interpreted graph, which stands in for the board by the equality shown beside it.
For EfficientNet-lite0 both columns say how often the class is that of f32, on crops of photos. ResNet-18 has
random weights: its figure is left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import hardy
from benchmarks import networks
from benchmarks.models import MODELS
from benchmarks.tasks import CALIBRATION_PHOTOS, TEST_PHOTOS, Feeds, photo_crops, photos
from examples.data import fashion_mnist
from hardy.compiler.cli.output import console, table
from hardy.compiler.interpret import evaluate, run
from hardy.compiler.ir import Graph
from hardy.targets.fpga.summary import summarize

TARGET = "fpga:pynq-z1"


@dataclass(frozen=True)
class Network:
    """A graph of one input a run and its data.

    `expected` is the class of each test input, where one is known; `simulated` is the most test inputs to
    simulate, `judged` how many the interpreted graph is judged on.
    """

    graph: Graph
    calibration: Feeds
    test: Feeds
    expected: Sequence[int]
    simulated: int
    judged: int


@dataclass(frozen=True)
class Row:
    """Figures of one network: shares and scores from 0 to 1, scores None where no class is known."""

    network: str
    macs: int
    macs_share: float
    stages: dict[str, int]
    layers: int
    no_layer: list[dict[str, str]]
    cycles: int
    ms: float
    gemm_use: float
    compile_s: float
    simulation_s: float
    equal: int
    f32: float | None
    simulated: float | None
    all_inputs: int
    all_by_graph: float | None


def fashion(name: str) -> Network:
    """A classifier of the benchmarks on test images, one a run."""
    train, test = fashion_mnist.load("train"), fashion_mnist.load("t10k")
    graph = hardy.trace(networks.trained(name), (test.x[:1],), self_test=False)
    (image,) = graph.input_names
    calibration, feeds = ([{image: x} for x in images.split(1)] for images in (train.x[:500], test.x))
    return Network(graph, calibration, feeds, test.y.tolist(), simulated=len(feeds), judged=len(feeds))


def efficientnet() -> Network:
    """EfficientNet-lite0 with its real weights; a class is right where it is that of f32."""
    with tempfile.TemporaryDirectory() as folder:
        task = photos(Path(folder))
    test = task.test[::4]
    expected = [predicted(next(iter(run(task.graph, feed).values()))) for feed in test]
    return Network(task.graph, task.calibration, test, expected, simulated=40, judged=len(test))


def resnet18() -> Network:
    """ResNet-18 for images of 224 x 224, with random weights."""
    module, inputs = MODELS["resnet18"]()
    graph = hardy.trace(module, inputs, self_test=False)
    (image,) = graph.input_names
    crops = (photo_crops(CALIBRATION_PHOTOS, 5, 0), photo_crops(TEST_PHOTOS, 1, 1))
    calibration, test = ([{image: x} for x in found] for found in crops)
    return Network(graph, calibration, test, (), simulated=len(test), judged=0)


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "efficientnet_lite0": efficientnet,
    "resnet18": resnet18,
    "resnet_8": lambda: fashion("resnet_8"),
    "lenet_300_100": lambda: fashion("lenet_300_100"),
}


def predicted(scores: Tensor) -> int:
    return int(scores.argmax())


def measure(name: str, network: Network, seconds: float) -> Row:
    """Compile, simulate for at most so many seconds, and compare."""
    names = network.graph.input_names
    started = time.perf_counter()
    artifact = hardy.compile(
        network.graph,
        target=TARGET,
        preset="int8",
        calibration=network.calibration,
        keep_graph_weights=True,
        keep_passes=False,
    )
    compile_s = time.perf_counter() - started

    runner = artifact.prepare()
    runner.run([network.test[0][n] for n in names])  # The simulator's own code is compiled once for all.
    classes, spent = [], 0.0
    for number, feed in enumerate(network.test[: network.simulated]):
        given = [feed[n] for n in names]
        started = time.perf_counter()
        ours = runner.run(given)
        spent += time.perf_counter() - started
        for output, reference in zip(ours, evaluate(artifact.graph, given), strict=True):
            if not torch.equal(output, reference):
                sys.exit(f"{name}: the simulated board differs from the artifact's graph on input {number}")
        classes.append(predicted(ours[0]))
        if spent > seconds:
            break
    judged = network.test[: network.judged]
    later = judged[len(classes) :]
    everywhere = classes + [predicted(evaluate(artifact.graph, [f[n] for n in names])[0]) for f in later]
    whole = [predicted(next(iter(run(network.graph, feed).values()))) for feed in judged]

    summary = summarize(artifact)
    notes = [p["notes"] for p in artifact.report["passes"]]
    return Row(
        network=name,
        macs=sum(s["macs"] for s in artifact.manifest["target"]["package"]["stages"]),
        macs_share=summary.macs_share,
        stages=dict(Counter(d.partition(":")[0] for d in summary.devices)),
        layers=len(summary.layers),
        no_layer=[row for note in notes for row in note.get("no_layer", ())],
        cycles=summary.cycles,
        ms=1e3 * summary.seconds,
        gemm_use=summary.gemm_use,
        compile_s=compile_s,
        simulation_s=spent / len(classes),
        equal=len(classes),
        f32=score(whole, network.expected),
        simulated=score(classes, network.expected),
        all_inputs=len(judged),
        all_by_graph=score(everywhere[: len(judged)], network.expected),
    )


def score(classes: Sequence[int], expected: Sequence[int]) -> float | None:
    """The share of the first classes that are as expected; None where nothing is."""
    if not classes or not expected:
        return None
    return sum(a == b for a, b in zip(classes, expected, strict=False)) / len(classes)


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=300.0, help="the most to simulate each network")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)
    rows = [measure(name, NETWORKS[name](), given.seconds) for name in given.names or NETWORKS]
    if given.json:
        print(json.dumps({"rows": [asdict(r) for r in rows]}))
        return
    figures = ("MACs on VTA", "stages", "layers", "cycles", "ms", "GEMM", "compile s", "simulate s")
    board = table("network", *figures, right=figures, title=f"{TARGET}; cycles and ms are a model's")
    scores = ("equal to the bit", "f32", "simulated board", "its graph, all inputs")
    right = table("network", *scores, "inputs", right=(*scores, "inputs"), title="class as expected")
    for r in rows:
        stages = ", ".join(f"{n} {device}" for device, n in r.stages.items())
        costs = (f"{r.cycles:,}", f"{r.ms:.3f}", f"{r.gemm_use:.1%}", f"{r.compile_s:.0f}")
        board.add_row(
            r.network, f"{r.macs_share:.2%}", stages, str(r.layers), *costs, f"{r.simulation_s:.3f}"
        )
        shares = (percent(r.f32), percent(r.simulated), percent(r.all_by_graph))
        right.add_row(r.network, f"{r.equal} inputs", *shares, str(r.all_inputs or ""))
    console().print(board)
    console().print(right)


if __name__ == "__main__":
    main()
