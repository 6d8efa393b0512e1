"""Runs an ONNX model by other means than hardy's: what an import is checked against."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import EncodeError

from hardy.compiler.frontends.onnx.tensors import dtype_of_array, from_array, to_array
from hardy.compiler.ir import Graph

Arrays = Mapping[str, np.ndarray[Any, Any]]
Outputs = dict[str, torch.Tensor]

# What onnx's reference evaluator raises for models and operators that it does not run.
_REFERENCE_FAILURES = (
    RuntimeError,
    NotImplementedError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    AssertionError,
    ArithmeticError,
)


def run_model(
    source: Any, graph: Graph, inputs: Mapping[str, torch.Tensor], bind: Arrays
) -> tuple[str, Outputs | None, list[str]]:
    """Who ran the model, its outputs by name (None where nobody can), and why the others did not."""
    types = graph.input_types()
    feeds = {name: to_array(tensor, types[name].dtype) for name, tensor in inputs.items()}
    feeds |= {name: np.asarray(array) for name, array in bind.items()}
    refusals: list[str] = []
    for name, run in (("onnxruntime", _onnxruntime), ("onnx's reference evaluator", _reference)):
        arrays = run(source, graph.output_names, feeds)
        if not isinstance(arrays, str):
            outputs = {
                n: from_array(np.asarray(a), dtype_of_array(np.asarray(a), f"output {n!r}")).tensor
                for n, a in zip(graph.output_names, arrays, strict=True)
            }
            return name, outputs, refusals
        refusals.append(f"{name}: {arrays}")
    return "", None, refusals


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _onnxruntime(source: Any, outputs: tuple[str, ...], feeds: Arrays) -> list[Any] | str:
    """The outputs, or why onnxruntime does not run the model."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "not installed"
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    failures = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
        RuntimeError,
        TypeError,
        ValueError,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # The model as it is written: an optimizer's rewrites are not what the import is compared with.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        data = _serialized(source)
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        result: list[Any] = session.run(list(outputs), dict(feeds))
    except (*failures, EncodeError) as error:
        return _first_line(error)
    return result


def _serialized(source: Any) -> str | bytes:
    if isinstance(source, onnx.ModelProto):
        data: bytes = source.SerializeToString()
        return data
    return bytes(source) if isinstance(source, bytes) else str(source)


def _reference(source: Any, outputs: tuple[str, ...], feeds: Arrays) -> list[Any] | str:
    """The outputs, or why onnx's reference evaluator does not run the model."""
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(source) if isinstance(source, bytes) else source
    try:
        evaluator = ReferenceEvaluator(str(model) if isinstance(model, Path) else model)
        result: list[Any] = evaluator.run(list(outputs), dict(feeds))
    except _REFERENCE_FAILURES as error:
        return _first_line(error)
    return result
