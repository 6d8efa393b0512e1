"""The same model on hardy and on others, ready to be called."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable

import onnxruntime
import torch
from torch import nn

import hardy

Call = Callable[[], object]


def to_onnx(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> bytes:
    """The module as an ONNX file, by torch's own exporter."""
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, inputs, dynamo=True, verbose=False)
        assert program is not None
        program.save(buffer)
    return buffer.getvalue()


def torch_eager(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Call:
    def call() -> object:
        with torch.inference_mode():
            return module(*inputs)

    return call


def onnx_runtime(module: nn.Module, inputs: tuple[torch.Tensor, ...], threads: int) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        to_onnx(module, inputs), options, providers=["CPUExecutionProvider"]
    )
    feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, feed)


def compiled(artifact: hardy.Artifact, inputs: tuple[torch.Tensor, ...]) -> Call:
    named = dict(zip(artifact.graph.input_names, inputs, strict=True))
    return lambda: artifact.run(named)
