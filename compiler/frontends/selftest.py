"""Every import tests itself: the graph and the model it came from run on the same random input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from hardy.compiler import interpret
from hardy.compiler.errors import MismatchError
from hardy.compiler.frontends.undecided import closest_outputs
from hardy.compiler.ir import Graph
from hardy.compiler.tolerance import Difference, compare
from hardy.compiler.types import DType, TensorType


@dataclass(frozen=True)
class ImportCheck:
    """How a graph compares with the model it was made from.

    `against` names what ran the model; `outputs` holds the difference of each output, once `signs` signs
    of numbers within rounding error of zero were taken as the model took them. Where nothing could run
    the model, `against` is empty and `skipped` says why.
    """

    against: str
    outputs: Mapping[str, Difference] = field(default_factory=dict)
    skipped: str = ""
    signs: int = 0

    @property
    def passed(self) -> bool:
        """Whether a comparison was made and every output agrees."""
        return not self.skipped and all(d.passed for d in self.outputs.values())

    @property
    def largest(self) -> float:
        """The greatest absolute difference of any output."""
        return max((d.absolute for d in self.outputs.values()), default=0.0)

    def worst(self) -> tuple[str, Difference]:
        """The output that differs most, relative to what the tolerance allows."""
        name = max(self.outputs, key=lambda n: self.outputs[n].ratio)
        return name, self.outputs[name]

    def summary(self) -> str:
        """One line."""
        if self.skipped:
            return f"import not checked: {self.skipped}"
        verb = "agrees" if self.passed else "DISAGREES"
        line = f"import {verb} with {self.against}: largest difference {self.largest:.3g}"
        if self.signs:
            some = "one sign" if self.signs == 1 else f"{self.signs} signs"
            line += f", where rounding decides {some} of numbers next to zero as the model does"
        return line

    def to_json(self) -> dict[str, Any]:
        return {
            "against": self.against,
            "skipped": self.skipped,
            "passed": self.passed,
            "signs": self.signs,
            "outputs": {name: {"absolute": d.absolute, "ratio": d.ratio} for name, d in self.outputs.items()},
        }


# Integers below the first serve as ids in most models and are varied enough to tell rows apart;
# models with smaller tables get the second.
ID_LIMITS = (100, 2)


def random_inputs(
    types: Mapping[str, TensorType], seed: int = 0, ids_below: int = ID_LIMITS[-1]
) -> dict[str, torch.Tensor]:
    """Floats from the standard normal distribution, integers from 0 to `ids_below` - 1, bools mixed.

    An integer input with "mask" in its name holds 0 and 1.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        name: _random(t, generator, 2 if "mask" in name.lower() else ids_below) for name, t in types.items()
    }


def _random(t: TensorType, generator: torch.Generator, ids_below: int) -> torch.Tensor:
    if t.dtype.is_float:
        wide = torch.float64 if t.dtype is DType.f64 else torch.float32
        return torch.randn(t.shape, generator=generator, dtype=wide).to(t.dtype.torch)
    high = min(ids_below, 2 if t.dtype is DType.boolean else t.dtype.range[1] + 1)
    return torch.randint(0, high, t.shape, generator=generator).to(t.dtype.torch)


def compare_outputs(
    against: str,
    expected: Mapping[str, torch.Tensor],
    graph: Graph,
    inputs: Mapping[str, torch.Tensor],
) -> ImportCheck:
    """The comparison of whole models on these inputs; MismatchError names the worst output.

    Where outputs differ, signs of numbers within rounding error of zero may be what the model found.
    """
    check = _differences(against, expected, interpret.run(graph, inputs))
    if check.passed:
        return check
    actual, signs = closest_outputs(graph, inputs, expected)
    excused = _differences(against, expected, actual, signs)
    if not excused.passed:
        name, d = check.worst()
        raise MismatchError(
            f"the imported graph differs from {against}: output {name!r} at {list(d.index)} is {d.actual!r}, "
            f"expected {d.expected!r} ({d.ratio:.3g} times the tolerance)",
            hint="this is a fault of hardy; import without the self test to look at the graph",
        )
    return excused


def _differences(
    against: str, expected: Mapping[str, torch.Tensor], actual: Mapping[str, torch.Tensor], signs: int = 0
) -> ImportCheck:
    differences = {name: compare(tensor, actual[name], scaled=True) for name, tensor in expected.items()}
    return ImportCheck(against, differences, signs=signs)


def check_onnx(
    source: Any, graph: Graph, *, bind: Mapping[str, np.ndarray[Any, Any]] | None = None, seed: int = 0
) -> ImportCheck:
    """Compare a graph with onnxruntime where that runs the model, else with onnx's reference evaluator.

    source: what `load` took, bind: the inputs that became constants. Raises MismatchError.
    """
    from hardy.compiler.frontends.onnx.oracle import run_model

    types = graph.input_types()
    refusals: list[str] = []
    for limit in ID_LIMITS if any(t.dtype.is_integer for t in types.values()) else ID_LIMITS[-1:]:
        inputs = random_inputs(types, seed, limit)
        against, outputs, refusals = run_model(source, graph, inputs, bind or {})
        if outputs is not None:
            return compare_outputs(against, outputs, graph, inputs)
    return ImportCheck("", skipped="; ".join(refusals))


def check_torch(model: object, inputs: object, graph: Graph, *, seed: int = 0) -> ImportCheck:
    """Compare a graph with the eager module or exported program.

    inputs: the example inputs that it was traced with, None for an exported program. Its float
    tensors are replaced by random ones; the others (ids, masks, lengths) are used as they are.
    Raises MismatchError.
    """
    from hardy.compiler.frontends.torch.capture import arguments

    if isinstance(model, torch.export.ExportedProgram):
        if model.example_inputs is None:
            return ImportCheck("", skipped="the exported program has no example inputs")
        given = model.example_inputs
        module: object = model.module()
        against = "the exported program"
    else:
        given, module, against = arguments(inputs), model, "eager PyTorch"
    leaves, spec = pytree.tree_flatten(given)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    types = graph.input_types()
    if len(places) != len(types):
        return ImportCheck("", skipped=f"{len(places)} example tensors for {len(types)} inputs of the graph")
    feeds = random_inputs(types, seed)
    for place, (name, t) in zip(places, types.items(), strict=True):
        example = leaves[place].detach()
        if not t.dtype.is_float and tuple(example.shape) == t.shape:
            feeds[name] = example.clone()
        leaves[place] = feeds[name].clone()
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    assert callable(module)
    with torch.no_grad():
        result = module(*args, **kwargs)
    tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    return _check_by_order(against, tensors, graph, feeds)


def _check_by_order(
    against: str, tensors: Sequence[torch.Tensor], graph: Graph, inputs: Mapping[str, torch.Tensor]
) -> ImportCheck:
    if len(tensors) != len(graph.output_names):
        raise MismatchError(f"{against} gives {len(tensors)} tensors, the graph {len(graph.output_names)}")
    return compare_outputs(against, dict(zip(graph.output_names, tensors, strict=True)), graph, inputs)
