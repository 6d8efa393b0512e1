"""Models in every form that people have them in, as graphs."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hardy.compiler.errors import ModelError, UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.verify import verify

if TYPE_CHECKING:
    from hardy.compiler.frontends.selftest import ImportCheck

FORMS = (
    "a torch module, an exported program, a graph, an .onnx or .pt2 file, an artifact, "
    "or package.module:function"
)


TorchModel = torch.nn.Module | torch.export.ExportedProgram


@dataclass(frozen=True)
class Binding:
    """Values for what a model leaves free: sizes of named dimensions, whole input shapes, and
    inputs that become constants. `shapes` and `bind` are for ONNX models."""

    dims: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    bind: Mapping[str, np.ndarray[Any, Any]]

    def only_dims(self, what: str) -> Mapping[str, int]:
        """`dims`; UsageError where something is given that only ONNX models have."""
        if self.shapes or self.bind:
            raise UsageError(
                f"shapes and bound inputs are for ONNX models, this is {what}",
                hint="the example inputs give the shapes of a torch model",
            )
        return self.dims

    def refuse(self, what: str) -> None:
        """UsageError where anything is given."""
        if self.dims or self.shapes or self.bind:
            raise UsageError(f"{what} has nothing to bind")


@dataclass(frozen=True)
class Imported:
    """A model as a graph, where it came from, and how its import was checked (None: it was not)."""

    graph: Graph
    provenance: Mapping[str, str]
    check: ImportCheck | None


def import_model(model: object, inputs: object, binding: Binding, self_test: bool) -> Imported:
    """Read or trace any form of model; ModelError or UsageError names what is wrong with it."""
    if isinstance(model, Graph):
        binding.refuse("a graph")
        _refuse_inputs(inputs, "a graph")
        verify(model)
        return Imported(model, {"kind": "graph", "name": model.name}, None)
    if isinstance(model, str) and names_function(model):
        binding_dims = binding.only_dims("a function")
        _refuse_inputs(inputs, "a function that returns its example inputs")
        module, example = _call(model)
        imported = _from_torch(module, example, binding_dims, self_test)
        return Imported(imported.graph, {"kind": "function", "name": model}, imported.check)
    if isinstance(model, str | Path):
        _refuse_inputs(inputs, "a file")
        return _from_file(Path(model), binding, self_test)
    if isinstance(model, torch.nn.Module | torch.export.ExportedProgram):
        return _from_torch(model, inputs, binding.only_dims("a torch model"), self_test)
    if _is_onnx(model):
        _refuse_inputs(inputs, "an ONNX model")
        return _from_onnx(model, {"kind": "onnx"}, binding, self_test)
    raise UsageError(f"a {type(model).__name__} is not a model", hint=f"give {FORMS}")


def trace(
    model: object,
    inputs: object = None,
    *,
    dims: Mapping[str, int] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    bind: Mapping[str, np.ndarray[Any, Any]] | None = None,
    self_test: bool = True,
) -> Graph:
    """The graph of a model, which is a torch module with example inputs, an exported program, an
    ONNX model, a path to an .onnx or .pt2 file, or "package.module:function".

    `dims` gives sizes to free dimensions, `shapes` whole shapes to ONNX inputs, `bind` makes inputs
    constants. `self_test` runs model and graph on random input and compares: MismatchError.
    """
    return import_model(model, inputs, Binding(dims or {}, shapes or {}, bind or {}), self_test).graph


def names_function(text: str) -> bool:
    """Whether the text is `package.module:function` rather than a path."""
    module, _, function = text.partition(":")
    return bool(function) and all(p.isidentifier() for p in (*module.split("."), function))


def _refuse_inputs(inputs: object, what: str) -> None:
    if inputs is not None:
        raise UsageError(f"{what} takes no example inputs")


def _is_onnx(model: object) -> bool:
    """Whether it is an onnx.ModelProto, told without importing onnx for other models."""
    kind = type(model)
    return kind.__name__ == "ModelProto" and kind.__module__.startswith("onnx")


def _call(text: str) -> tuple[TorchModel, object]:
    """What `package.module:function` returns: the model and its example inputs."""
    module_name, _, function_name = text.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(
            f"cannot import {module_name}: {error}",
            hint="name a module that is installed or lies below the current folder",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelError(
            f"{module_name} has no function {function_name!r}",
            where=str(getattr(module, "__file__", None) or ""),
            hint="name one without arguments that returns (module, example inputs)",
        )
    result = function()
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], torch.nn.Module):
        return result
    if isinstance(result, torch.export.ExportedProgram):
        return result, None
    raise ModelError(
        f"{text} must return (module, example inputs), got {type(result).__name__}",
        hint="return (module.eval(), (x, y)), with tensors like those that it will run on",
    )


def _from_file(path: Path, binding: Binding, self_test: bool) -> Imported:
    if path.is_dir():
        from hardy.compiler.artifact import is_artifact

        if is_artifact(path):
            binding.refuse("an artifact")
            return _from_artifact(path)
        raise ModelError(f"{path} is a folder, not a model", hint=f"a model is {FORMS}")
    if not path.is_file():
        raise ModelError(f"there is no model {path}", hint=f"a model is {FORMS}")
    kind = path.suffix.lower()
    if kind == ".onnx":
        return _from_onnx(path, {"kind": "onnx"} | _file_facts(path), binding, self_test)
    if kind == ".pt2":
        from hardy.compiler.frontends.torch import load_pt2

        imported = _from_torch(load_pt2(path), None, binding.only_dims("a torch program"), self_test)
        return Imported(imported.graph, {"kind": "pt2"} | _file_facts(path), imported.check)
    raise ModelError(f"{path.name} is neither .onnx nor .pt2", where=str(path), hint=f"a model is {FORMS}")


def _from_artifact(path: Path) -> Imported:
    """The final graph of an artifact that holds its weights."""
    from hardy.compiler.artifact import Artifact

    artifact = Artifact.open(path)
    if not artifact.manifest["graph_weights"]:
        raise ModelError(
            f"{path} is compiled and does not hold the weights of its graph",
            hint="compile it with --keep-graph-weights, or for the target reference",
        )
    facts = {"kind": "artifact", "digest": str(artifact.manifest["digest"])}
    return Imported(artifact.graph, facts, None)


def _file_facts(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _from_torch(model: TorchModel, inputs: object, dims: Mapping[str, int], self_test: bool) -> Imported:
    from hardy.compiler.frontends.torch import trace as trace_torch

    if isinstance(model, torch.nn.Module) and inputs is None:
        raise UsageError("a torch module needs example inputs", hint="hardy.compile(module, (x, y))")
    graph = trace_torch(model, inputs, dims=dims)
    provenance = {"kind": "exported_program"}
    if isinstance(model, torch.nn.Module):
        kind = type(model)
        provenance = {"kind": "torch_module", "class": f"{kind.__module__}.{kind.__qualname__}"}
    check = None
    if self_test:
        from hardy.compiler.frontends.selftest import check_torch

        check = check_torch(model, inputs, graph)
    return Imported(graph, provenance, check)


def _from_onnx(source: Any, provenance: Mapping[str, str], binding: Binding, self_test: bool) -> Imported:
    from hardy.compiler.frontends.onnx import load

    graph = load(source, dims=binding.dims, shapes=binding.shapes, bind=binding.bind)
    check = None
    if self_test:
        from hardy.compiler.frontends.selftest import check_onnx

        check = check_onnx(source, graph, bind=binding.bind)
    return Imported(graph, provenance, check)
