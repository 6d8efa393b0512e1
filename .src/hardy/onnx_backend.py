"""hardy as a backend of ONNX's own test suite: `onnx.backend.test` runs on it unchanged.

The environment variable HARDY_TARGET names the target (default `reference`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto
from onnx.backend.base import Backend, BackendRep, namedtupledict

from hardy.compiler import interpret
from hardy.compiler.errors import InputError, UnsupportedError
from hardy.compiler.frontends.onnx import ConstantRequiredError, load
from hardy.compiler.frontends.onnx.tensors import dtype_of_array, from_array, to_array
from hardy.compiler.ir import Graph

Array = np.ndarray[Any, Any]
Run = Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]

__all__ = ["HardyBackend", "HardyRep", "prepare", "run_model", "run_node", "supports_device"]


def target_name() -> str:
    return os.environ.get("HARDY_TARGET", "reference")


def _runner(graph: Graph, target: str) -> Run:
    if target == "reference":
        return lambda inputs: interpret.run(graph, inputs)
    import hardy

    artifact = hardy.compile(graph, target=target)
    return lambda inputs: artifact.run(inputs)


class HardyRep(BackendRep):  # type: ignore[misc]  # onnx has no types
    """A model ready to run.

    The graph is built at the first run, when the shapes are known. Inputs whose value an operator
    needs at compile time (a shape, axes, a pad) become constants: one specialisation for each value.
    """

    def __init__(self, model: ModelProto, target: str) -> None:
        self.model = model
        self.target = target
        initialized = {t.name for t in model.graph.initializer}
        self.input_names = [i.name for i in model.graph.input if i.name not in initialized]
        self.output_names = [o.name for o in model.graph.output]
        self._bound: tuple[str, ...] = ()
        self._specialised: dict[tuple[object, ...], tuple[Graph, Run]] = {}

    @property
    def specialisations(self) -> int:
        """How many graphs have been built."""
        return len(self._specialised)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs in order, for inputs given in order, by name, or as one array."""
        given = self._named(inputs)
        graph, run = self._specialise(given)
        results = run(
            {name: from_array(given[name], t.dtype).tensor for name, t in graph.input_types().items()}
        )
        arrays = [to_array(results[name], t.dtype) for name, t in graph.output_types().items()]
        return tuple(namedtupledict("Outputs", self.output_names)(*arrays))

    def _named(self, inputs: Any) -> dict[str, Array]:
        if isinstance(inputs, Mapping):
            items: Sequence[tuple[str, Any]] = list(inputs.items())
        else:
            ordered = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            if len(ordered) > len(self.input_names):
                raise InputError(f"the model takes {len(self.input_names)} inputs, got {len(ordered)}")
            items = list(zip(self.input_names, ordered, strict=False))
        for name, value in items:
            if not isinstance(value, (np.ndarray, np.generic, int, float, bool)):
                raise UnsupportedError(f"input {name!r} is a {type(value).__name__}; a graph takes tensors")
        return {name: np.asarray(value) for name, value in items}

    def _specialise(self, given: Mapping[str, Array]) -> tuple[Graph, Run]:
        signature = tuple((name, str(a.dtype), a.shape) for name, a in given.items())
        while True:
            values = tuple(given[name].tobytes() for name in self._bound)
            key = (signature, self._bound, values)
            if key in self._specialised:
                return self._specialised[key]
            bind = {name: given[name] for name in self._bound}
            shapes = {name: tuple(a.shape) for name, a in given.items() if name not in bind}
            try:
                graph = load(self.model, shapes=shapes, bind=bind)
            except ConstantRequiredError as error:
                more = tuple(name for name in error.inputs if name not in self._bound)
                if not more:
                    raise
                self._bound += more
                continue
            self._specialised[key] = graph, _runner(graph, self.target)
            return self._specialised[key]


class HardyBackend(Backend):  # type: ignore[misc]  # onnx has no types
    """ONNX's backend interface."""

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> HardyRep:
        return HardyRep(model, target_name())

    @classmethod
    def run_model(cls, model: ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run one operator of the newest operator set, or of `opset_version`."""
        arrays = [np.asarray(a) for a in inputs]
        present = [name for name in node.input if name]
        infos = []
        for name, array in zip(present, arrays, strict=True):
            dtype_of_array(array, f"input {name!r}")
            code = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            infos.append(onnx.helper.make_tensor_value_info(name, code, array.shape))
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
        version = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        model = onnx.helper.make_model(
            onnx.helper.make_graph([node], "node", infos, outputs),
            opset_imports=[onnx.helper.make_opsetid(node.domain, version)],
        )
        return cls.prepare(model, device).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


prepare = HardyBackend.prepare
run_model = HardyBackend.run_model
run_node = HardyBackend.run_node
supports_device = HardyBackend.supports_device
