"""The same model on hardy and on others, ready to be called."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

import hardy

Call = Callable[[], object]
Inputs = tuple[Tensor, ...] | Mapping[str, Tensor]


def export_onnx(module: nn.Module, inputs: Inputs, path: Path) -> None:
    """Write the module as an ONNX file, by torch's own exporter."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (inputs, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, args, path, kwargs=kwargs, dynamo=True, verbose=False)


def tensors(inputs: Inputs) -> tuple[Tensor, ...]:
    return tuple(inputs.values()) if isinstance(inputs, Mapping) else tuple(inputs)


def torch_eager(module: nn.Module, inputs: Inputs) -> Call:
    def call() -> object:
        with torch.inference_mode():
            return module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)

    return call


def onnx_runtime(module: nn.Module, inputs: Inputs, threads: int) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(module, inputs, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), tensors(inputs), strict=True)}
    return lambda: session.run(None, feed)


def compiled(artifact: hardy.Artifact, inputs: Inputs) -> Call:
    runner, given = artifact.prepare(), tensors(inputs)
    return lambda: runner.run(given)
