"""Runs a graph with the ops' own torch references: the oracle for every pass and target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from hardy.compiler.errors import GraphError, InputError
from hardy.compiler.ir import Graph, Input, Node, Value
from hardy.compiler.ops.elementwise import Cast
from hardy.compiler.types import DType, TensorType, describe_tensor

Observer = Callable[[Value, torch.Tensor], None]
Compute = Callable[[Node, Sequence[torch.Tensor]], tuple[torch.Tensor, ...]]


def evaluate(
    graph: Graph,
    operands: Sequence[torch.Tensor],
    observe: Observer | None = None,
    compute: Compute | None = None,
) -> tuple[torch.Tensor, ...]:
    """The outputs for inputs given in order; each tensor is freed after its last use.

    `observe(value, tensor)` sees the inputs and every result as they are computed; `compute(node,
    operands)` takes the place of `run_node`. Raises GraphError where a reference result does not
    have the type that the shape rule gave.
    """
    compute = compute or run_node
    values: dict[Value, torch.Tensor] = dict(zip(graph.inputs, operands, strict=True))
    if observe:
        for value, tensor in values.items():
            observe(value, tensor)
    last: dict[Value, int] = {}
    for position, node in enumerate(graph.nodes):
        for v in node.operands:
            last[v] = position
    kept = set(graph.outputs)
    for position, node in enumerate(graph.nodes):
        if not isinstance(node.op, Input):
            results = compute(node, [values[v] for v in node.operands])
            for value, tensor in zip(node.values, results, strict=True):
                if value in last or value in kept:
                    values[value] = tensor
                if observe:
                    observe(value, tensor)
        for v in set(node.operands):
            if last[v] == position and v not in kept:
                del values[v]
    return tuple(values[v] for v in graph.outputs)


def run_node(node: Node, operands: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """One node's reference results, checked against its types."""
    results = node.op.reference(*operands)
    results = results if isinstance(results, tuple) else (results,)
    for result, expected in zip(results, node.types, strict=True):
        if tuple(result.shape) != expected.shape or result.dtype != expected.dtype.torch:
            raise GraphError(
                f"the reference of {node.op.name} gave {describe_tensor(result)}, "
                f"its shape rule says {expected}",
                where=node.source,
            )
    # torch computes 4-bit integers in 8 bits, which do not wrap where they do.
    return tuple(
        Cast(t.dtype).reference(result) if t.dtype in (DType.i4, DType.u4) else result
        for result, t in zip(results, node.types, strict=True)
    )


def check_inputs(expected: Mapping[str, TensorType], given: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The given tensors in the graph's order; InputError for a wrong name, shape or type."""
    listing = ", ".join(f"{name}: {t}" for name, t in expected.items()) or "none"
    for name in given:
        if name not in expected:
            raise InputError(f"there is no input {name!r}", hint=f"the inputs are {listing}")
    ordered = []
    for name, t in expected.items():
        if name not in given:
            raise InputError(f"input {name!r} is missing", hint=f"the inputs are {listing}")
        tensor = given[name]
        if tuple(tensor.shape) != t.shape or tensor.dtype != t.dtype.torch:
            raise InputError(f"input {name!r} must be {t}, got {describe_tensor(tensor)}")
        ordered.append(tensor)
    return ordered


def run(graph: Graph, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run by name, without gradients."""
    operands = check_inputs(graph.input_types(), inputs)
    with torch.no_grad():
        return dict(zip(graph.output_names, evaluate(graph, operands), strict=True))
