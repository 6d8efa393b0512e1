"""Quantized whole models against float32 and against onnxruntime, one thread, side by side in one run.

python -m benchmarks.int8_speed [MODEL ...] [--seconds 20] [--threads 1] [--profile]

Each model is quantized once by onnxruntime's own static quantization (QDQ, u8 activations, i8 weights per
channel, minima and maxima of the example inputs: the speed does not depend on the scales). Both engines run
that file.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import onnxruntime
import torch
import typer
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table

import hardy
from benchmarks import peers
from benchmarks.models import MODELS
from hardy.compiler.timing import time_in_turn

DEFAULT = ["resnet50", "efficientnet_lite0", "minilm"]
# What is quantized of a transformer: normalizations, softmax and gelu stay float in both engines.
ENCODER_LAYERS = ["MatMul", "Gemm"]


def quantize_onnx(module: torch.nn.Module, inputs: peers.Inputs, folder: Path) -> Path:
    """The module exported and quantized; the file's path."""
    logging.getLogger().setLevel(logging.ERROR)
    plain, prepared, quantized = (folder / f"{n}.onnx" for n in ("plain", "prepared", "int8"))
    peers.export_onnx(module, inputs, plain)
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    names = [i.name for i in onnxruntime.InferenceSession(prepared).get_inputs()]
    quantize_static(
        prepared,
        quantized,
        peers.Feeder(names, [peers.tensors(inputs)]),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=ENCODER_LAYERS if isinstance(inputs, Mapping) else None,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return quantized


def profile(console: Console, artifact: hardy.Artifact, inputs: peers.Inputs) -> None:
    """Time by what the steps compute."""
    runner: Any = artifact.prepare()
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for step, seconds in runner.profile(peers.tensors(inputs)):
        kind = step.split(" ")[0].rstrip("0123456789_x")
        times[kind] += seconds
        counts[kind] += 1
    table = Table("steps", "count", "ms", "share")
    total = sum(times.values())
    for kind, seconds in times.most_common():
        table.add_row(kind, str(counts[kind]), f"{seconds * 1e3:.3f}", f"{seconds / total:.1%}")
    console.print(table)


def main(
    models: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(MODELS)}.")] = None,
    seconds: Annotated[float, typer.Option(help="Time spent on each model.")] = 20.0,
    threads: Annotated[int, typer.Option(help="Threads of onnxruntime; hardy has one.")] = 1,
    target: Annotated[str, typer.Option(help="The cpu target to compile for.")] = "cpu",
    show_profile: Annotated[bool, typer.Option("--profile", help="Show where the int8 time goes.")] = False,
) -> None:
    """Compare hardy int8, hardy f32, onnxruntime int8 and onnxruntime f32."""
    torch.set_num_threads(threads)
    console = Console()
    table = Table(
        "model",
        "steps",
        "hardy int8 ms",
        "hardy f32 ms",
        "ort int8 ms",
        "ort f32 ms",
        "f32 / int8",
        "ort / hardy",
    )
    for name in models or DEFAULT:
        module, inputs = MODELS[name]()
        with tempfile.TemporaryDirectory() as folder:
            path = quantize_onnx(module, inputs, Path(folder))
            session = peers.session(path, threads)
            feed = {
                i.name: x.numpy() for i, x in zip(session.get_inputs(), peers.tensors(inputs), strict=True)
            }
            small = hardy.compile(path, target=target, self_test=False)
        single = hardy.compile(module, inputs, target=target, self_test=False)
        contenders = {
            "int8": peers.compiled(small, inputs),
            "f32": peers.compiled(single, inputs),
            "ort int8": lambda session=session, feed=feed: session.run(None, feed),
            "ort f32": peers.onnx_runtime(module, inputs, threads),
        }
        timings = time_in_turn(contenders, seconds=seconds)
        median = {n: t.median * 1e3 for n, t in timings.items()}
        steps = small.manifest["target"]["package"]["steps"]
        table.add_row(
            name,
            str(len(steps)),
            *[f"{m:.2f}" for m in median.values()],
            f"{median['f32'] / median['int8']:.2f}",
            f"{median['ort int8'] / median['int8']:.2f}",
        )
        if show_profile:
            profile(console, small, inputs)
    table.caption = "medians; contenders take turns; ratios above 1: hardy int8 is faster"
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
