"""Static int8 against f32 and against onnxruntime's own static quantization, on the same calibration data.

python -m benchmarks.static_int8 [NAME ...] [--json]

hardy's figures are those of the preset int8 in quantize-dequantize form, run by the reference.
onnxruntime quantizes three times: with its defaults; by channel, with u8 activations and i8 weights, on a
graph prepared by its optimizer; and so for convolutions and matrix products alone, which is what
transformers need: their attention masks leave other activations no precision. Its loss is that of the best.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from benchmarks import peers
from benchmarks.tasks import TASKS, Feeds, Task
from hardy.compiler.cli.output import console, table
from hardy.compiler.driver import plan_passes
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.pipeline import Pipeline, sqnr
from hardy.compiler.presets import preset_passes
from hardy.targets.target import find_target


@dataclass(frozen=True)
class Row:
    """One network in one form: its score in percent, and the SQNR of its first output in dB."""

    task: str
    form: str
    score: float
    sqnr_db: float


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def by_onnxruntime(path: Path, feeds: Feeds) -> list[Tensor]:
    """The first output for each sample."""
    runner = session(path)
    names = [i.name for i in runner.get_inputs()]
    return [
        torch.from_numpy(
            np.asarray(runner.run(None, {n: t.numpy() for n, t in zip(names, f.values(), strict=True)})[0])
        )
        for f in feeds
    ]


def by_reference(graph: Graph, feeds: Feeds) -> list[Tensor]:
    return [next(iter(run(graph, feed).values())) for feed in feeds]


def hardy_int8(task: Task, name: str) -> Graph:
    """The preset's passes up to quantization, for the CPU's scheme."""
    passes = [p for p in preset_passes(name) if p is not ...]
    planned = plan_passes(find_target("cpu"), passes, task.calibration)
    return Pipeline(planned).run(task.graph).graph


FORMS: Mapping[str, Mapping[str, Any]] = {
    "onnxruntime, defaults": {},
    "onnxruntime, by channel": {"per_channel": True, "activation_type": QuantType.QUInt8},
    "onnxruntime, products": {
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "op_types_to_quantize": ["Conv", "MatMul", "Gemm"],
    },
}
# The first operator set whose DequantizeLinear has scales by channel.
BY_CHANNEL = 13


def onnxruntime_int8(task: Task, folder: Path, form: str) -> Path:
    source, out = task.onnx, folder / "quantized.onnx"
    names = [i.name for i in session(source).get_inputs()]
    if FORMS[form]:
        model = onnx.load(source)
        if max(o.version for o in model.opset_import if not o.domain) < BY_CHANNEL:
            model = onnx.version_converter.convert_version(model, BY_CHANNEL)
        onnx.save(model, folder / "upgraded.onnx")
        source = folder / "prepared.onnx"
        quant_pre_process(folder / "upgraded.onnx", source, skip_symbolic_shape=True)
    samples = peers.Feeder(names, (feed.values() for feed in task.calibration))
    quantize_static(source, out, samples, **FORMS[form])
    return out


def measure(task: Task) -> list[Row]:
    expected = by_reference(task.graph, task.test)
    flat = torch.cat([e.flatten() for e in expected])

    def row(form: str, given: list[Tensor]) -> Row:
        noise = sqnr(flat, torch.cat([g.flatten() for g in given]))
        return Row(task.name, form, task.score(given, expected), noise)

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        return [
            row("f32", expected),
            row("hardy int8", by_reference(hardy_int8(task, "int8"), task.test)),
            *[row(f, by_onnxruntime(onnxruntime_int8(task, folder, f), task.test)) for f in FORMS],
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TASKS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)
    rows: list[Row] = []
    shown = table("network", "measure", "form", "score, %", "SQNR, dB", right=("score, %", "SQNR, dB"))
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names or TASKS:
            task = TASKS[name](Path(folder))
            for row in measure(task):
                rows.append(row)
                noise = "" if math.isinf(row.sqnr_db) else f"{row.sqnr_db:.2f}"
                shown.add_row(row.task, task.measure, row.form, f"{row.score:.2f}", noise)
    if given.json:
        print(json.dumps({"rows": [{**asdict(r), "sqnr_db": str(r.sqnr_db)} for r in rows]}))
        return
    console().print(shown)


if __name__ == "__main__":
    main()
