"""Whole models against their peers, one thread, float32, side by side in one run.

python -m benchmarks [MODEL ...] [--seconds 10] [--threads 1]
"""

from __future__ import annotations

import time
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

import hardy
from benchmarks import peers
from benchmarks.models import MODELS
from hardy.compiler.timing import time_in_turn

DEFAULT = ["resnet50", "mobilenet_v2", "minilm"]


def main(
    models: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(MODELS)}.")] = None,
    seconds: Annotated[float, typer.Option(help="Time spent on each model.")] = 10.0,
    threads: Annotated[int, typer.Option(help="Threads of every contender.")] = 1,
) -> None:
    """Compare hardy's cpu target with onnxruntime and eager PyTorch."""
    torch.set_num_threads(threads)
    table = Table("model", "compile s", "hardy ms", "onnxruntime ms", "torch ms", "hardy / onnxruntime")
    for name in models or DEFAULT:
        module, inputs = MODELS[name]()
        started = time.perf_counter()
        artifact = hardy.compile(module, inputs, target="cpu", self_test=False)
        spent = time.perf_counter() - started
        contenders = {
            "hardy": peers.compiled(artifact, inputs),
            "onnxruntime": peers.onnx_runtime(module, inputs, threads),
            "torch": peers.torch_eager(module, inputs),
        }
        timings = time_in_turn(contenders, seconds=seconds)
        cells = [f"{t.median * 1e3:.2f} ({t.best * 1e3:.2f})" for t in timings.values()]
        ratio = timings["hardy"].median / timings["onnxruntime"].median
        table.add_row(name, f"{spent:.1f}", *cells, f"{ratio:.2f}")
    table.caption = "medians (best); contenders take turns"
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
