"""The same model on hardy and on others, ready to be called."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader
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
        torch.onnx.export(module, args, path, kwargs=kwargs, dynamo=True, verbose=False, external_data=False)


class Feeder(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no type stubs
    """Samples, each the tensors of the inputs of these names, as onnxruntime's calibration takes them."""

    def __init__(self, names: Sequence[str], samples: Iterable[Iterable[Tensor]]) -> None:
        self._left = iter([{n: t.numpy() for n, t in zip(names, row, strict=True)} for row in samples])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


def tensors(inputs: Inputs) -> tuple[Tensor, ...]:
    return tuple(inputs.values()) if isinstance(inputs, Mapping) else tuple(inputs)


def torch_eager(module: nn.Module, inputs: Inputs) -> Call:
    def call() -> object:
        with torch.inference_mode():
            return module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)

    return call


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """An ONNX file in onnxruntime, with all of its optimizations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnx_runtime(module: nn.Module, inputs: Inputs, threads: int) -> Call:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(module, inputs, path)
        opened = session(path, threads)
    feed = {i.name: x.numpy() for i, x in zip(opened.get_inputs(), tensors(inputs), strict=True)}
    return lambda: opened.run(None, feed)


def compiled(artifact: hardy.Artifact, inputs: Inputs) -> Call:
    runner, given = artifact.prepare(), tensors(inputs)
    return lambda: runner.run(given)
