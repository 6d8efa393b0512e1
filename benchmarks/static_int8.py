"""Static int8 against f32 and against onnxruntime's own static quantization, on the same calibration data.

python -m benchmarks.static_int8 [NAME ...] [--seconds 10] [--json]

hardy's figures are those of the preset int8, compiled for this CPU: what runs is what is judged. A network
with attention is shown a second time with the products of attention in integers, as onnxruntime has them.
onnxruntime quantizes three times: with its defaults; by channel, with u8 activations and i8 weights, on a
graph prepared by its optimizer; and so for convolutions and matrix products alone, which is what
transformers need: their attention masks leave other activations no precision. Its loss is that of the best.

The loss is that against f32 on the same samples, with its 95 % interval (paired bootstrap). Times are
medians of one call on one thread, all forms in turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import torch
from onnxruntime.quantization import QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

import hardy
from benchmarks import peers
from benchmarks.tasks import TASKS, Task
from hardy.compiler.cli.output import console, table
from hardy.compiler.ops.attention import Attention
from hardy.compiler.pass_list import Listed
from hardy.compiler.pipeline import Pipeline, sqnr
from hardy.compiler.presets import preset_passes
from hardy.compiler.search.interval import Drop, paired_drop
from hardy.compiler.timing import time_in_turn
from hardy.passes import DEFAULT, Quantize


@dataclass(frozen=True)
class Row:
    """One network in one form: its score in percent, what it lost of that of f32 (percentage points), the
    SQNR of its first output in dB, and milliseconds of a call."""

    task: str
    form: str
    score: float
    loss: Drop
    sqnr_db: float
    ms: float


Runner = Callable[[Mapping[str, Tensor]], Tensor]


def by_onnxruntime(path: Path) -> Runner:
    """Runs an ONNX file on one thread; the first output."""
    opened = peers.session(path, 1)
    names = [i.name for i in opened.get_inputs()]

    def call(feed: Mapping[str, Tensor]) -> Tensor:
        given = {n: t.numpy() for n, t in zip(names, feed.values(), strict=True)}
        return torch.from_numpy(np.asarray(opened.run(None, given)[0]))

    return call


def by_hardy(task: Task, passes: Sequence[Listed] | None) -> Runner:
    """Compiles for this CPU with passes, those of the target where there are none; the first output."""
    calibration = None if passes is None else task.calibration
    artifact = hardy.compile(
        task.graph, target="cpu", passes=passes, calibration=calibration, self_test=False
    )
    runner, names = artifact.prepare(), task.graph.input_names
    return lambda feed: runner.run([feed[name] for name in names])[0]


def with_attention() -> list[Listed]:
    """The preset with the products of attention quantized too."""
    preset = preset_passes("int8")
    return [dataclasses.replace(p, attention=True) if isinstance(p, Quantize) else p for p in preset]


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
    names = [i.name for i in peers.session(source, 1).get_inputs()]
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


def measure(task: Task, seconds: float) -> list[Row]:
    with tempfile.TemporaryDirectory() as text:
        runners = {"f32": by_hardy(task, None), "hardy int8": by_hardy(task, preset_passes("int8"))}
        if any(isinstance(n.op, Attention) for n in Pipeline(DEFAULT).run(task.graph).graph.nodes):
            runners["hardy int8, attention too"] = by_hardy(task, with_attention())
        for form in FORMS:
            runners[form] = by_onnxruntime(onnxruntime_int8(task, Path(text), form))
    given = {form: [runner(feed).clone() for feed in task.test] for form, runner in runners.items()}
    calls = {form: partial(runner, task.test[0]) for form, runner in runners.items()}
    times = time_in_turn(calls, seconds=seconds)
    expected = given["f32"]
    flat, figures = torch.cat([e.flatten() for e in expected]), task.score(expected, expected)
    rows = []
    for form, outputs in given.items():
        mine = task.score(outputs, expected)
        drop = paired_drop(figures, mine)
        loss = Drop(100 * drop.mean, 100 * drop.low, 100 * drop.high)
        noise = sqnr(flat, torch.cat([g.flatten() for g in outputs]))
        rows.append(Row(task.name, form, 100 * float(mine.mean()), loss, noise, 1e3 * times[form].median))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TASKS))
    parser.add_argument("--seconds", type=float, default=10.0, help="time spent on timing each network")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)
    rows: list[Row] = []
    right = ("score, %", "lost", "SQNR, dB", "ms", "f32 / this")
    shown = table("network", "measure", "form", "score, %", "lost", "95 %", *right[2:], right=right)
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names or TASKS:
            task = TASKS[name](Path(folder))
            measured = measure(task, given.seconds)
            rows += measured
            for row in measured:
                exact = math.isinf(row.sqnr_db)
                shown.add_row(
                    row.task,
                    task.measure,
                    row.form,
                    f"{row.score:.2f}",
                    "" if exact else f"{row.loss.mean:.2f}",
                    "" if exact else f"{row.loss.low:.2f} .. {row.loss.high:.2f}",
                    "" if exact else f"{row.sqnr_db:.2f}",
                    f"{row.ms:.2f}",
                    f"{measured[0].ms / row.ms:.2f}",
                )
    if given.json:
        print(json.dumps({"rows": [{**asdict(r), "sqnr_db": str(r.sqnr_db)} for r in rows]}))
        return
    console().print(shown)


if __name__ == "__main__":
    main()
