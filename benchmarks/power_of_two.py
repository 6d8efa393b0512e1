"""Networks for devices that requantize by shifts: 8 bits, symmetric, scales that are powers of two.

python -m benchmarks.power_of_two [NAME ...] [--json]

`QDQ` is the score of the quantized graph with float arithmetic, `integers` that of the same graph after
`lower_quantization`, whose shifts run on the cpu target to the bit as a device of shifts computes them.
Weights have a scale for each output channel or one for each tensor; `float nodes` are those that still
lie between the first quantize and the last dequantize.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import hardy
from benchmarks import networks
from benchmarks.tasks import Feeds, photos
from examples.data import fashion_mnist
from hardy.compiler.cli.output import console, table
from hardy.compiler.driver import plan_passes
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.pass_list import Listed
from hardy.compiler.pipeline import Pipeline
from hardy.compiler.types import DType
from hardy.passes import DEFAULT, CorrectBias, Equalize, LowerQuantization, Quantize
from hardy.passes.adaround import AdaRound
from hardy.passes.integer_parts import integer_parts
from hardy.targets.target import QuantizationScheme, find_target

LOWER = LowerQuantization(power_of_two=True)


def scheme(per_channel: bool) -> QuantizationScheme:
    """i8 by i8, symmetric, powers of two."""
    return QuantizationScheme(DType.i8, DType.i8, True, per_channel, power_of_two_scales=True)


def quantize(per_channel: bool) -> Quantize:
    return Quantize(scheme=scheme(per_channel))


FORMS: Mapping[str, tuple[Listed, ...]] = {
    "per channel": (*DEFAULT, quantize(True)),
    "per channel, correct_bias": (*DEFAULT, quantize(True), CorrectBias(samples=16)),
    "per tensor": (*DEFAULT, quantize(False)),
    "per tensor, equalize, correct_bias": (*DEFAULT, Equalize(), quantize(False), CorrectBias(samples=16)),
    "per tensor, equalize, adaround": (*DEFAULT, Equalize(), quantize(False), AdaRound()),
}


@dataclass(frozen=True)
class Network:
    """A graph of batches, its data, and the score in percent of the outputs for all test batches."""

    graph: Graph
    calibration: Feeds
    test: Feeds
    score: Callable[[Sequence[Tensor]], float]


@dataclass(frozen=True)
class Row:
    network: str
    form: str
    f32: float
    qdq: float
    integers: float
    float_nodes: dict[str, int]


def fashion(name: str) -> Network:
    """A classifier of the benchmarks on all 10,000 test images, in batches of 100."""
    train, test = fashion_mnist.load("train"), fashion_mnist.load("t10k")
    graph = hardy.trace(networks.trained(name), (test.x[:100],), self_test=False)
    (image,) = graph.input_names

    def score(given: Sequence[Tensor]) -> float:
        return 100 * float((torch.cat(list(given)).argmax(1) == test.y).float().mean())

    feeds = [[{image: x} for x in images.split(100)] for images in (train.x[:1000], test.x)]
    return Network(graph, *feeds, score)


def efficientnet(folder: Path) -> Network:
    """EfficientNet-lite0 on crops of photos: how often the class is that of f32."""
    task = photos(folder)
    expected = by_reference(task.graph, task.test)
    return Network(task.graph, task.calibration, task.test, lambda given: task.score(given, expected))


def by_reference(graph: Graph, feeds: Feeds) -> list[Tensor]:
    return [next(iter(run(graph, feed).values())) for feed in feeds]


def by_cpu(graph: Graph, feeds: Feeds) -> list[Tensor]:
    """The integer graph as native code."""
    artifact = hardy.compile(graph, None, target="cpu", self_test=False, keep_passes=False)
    return [next(iter(artifact.run(feed).values())) for feed in feeds]


def measure(name: str, network: Network, form: str) -> Row:
    planned = plan_passes(find_target("reference"), FORMS[form], network.calibration)
    quantized = Pipeline(planned).run(network.graph).graph
    lowered = Pipeline((LOWER, *DEFAULT)).run(quantized).graph
    return Row(
        network=name,
        form=form,
        f32=network.score(by_reference(network.graph, network.test)),
        qdq=network.score(by_reference(quantized, network.test)),
        integers=network.score(by_cpu(lowered, network.test)),
        float_nodes=dict(Counter(n.op.name for n in integer_parts(lowered).between)),
    )


NAMES = (*networks.RECIPES, "efficientnet_lite0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--form", action="append", choices=FORMS, help="only this one; may be repeated")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)
    rows = []
    figures = ("f32, %", "QDQ, %", "integers, %")
    shown = table("network", "form", *figures, "float nodes", right=figures)
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names or NAMES:
            network = efficientnet(Path(folder)) if name == "efficientnet_lite0" else fashion(name)
            for form in given.form or FORMS:
                row = measure(name, network, form)
                rows.append(row)
                between = ", ".join(f"{n} {op}" for op, n in row.float_nodes.items()) or "none"
                scores = [f"{x:.2f}" for x in (row.f32, row.qdq, row.integers)]
                shown.add_row(row.network, row.form, *scores, between)
    if given.json:
        print(json.dumps({"rows": [asdict(r) for r in rows]}))
        return
    console().print(shown)


if __name__ == "__main__":
    main()
