"""A graph as an ONNX model; ops that ONNX lacks become nodes of hardy's own domain."""

from __future__ import annotations

import dataclasses
from typing import Any

from onnx import AttributeProto, ModelProto, NodeProto, ValueInfoProto, helper

from hardy.compiler.export.onnx.scope import Scope
from hardy.compiler.export.onnx.table import WRITERS
from hardy.compiler.export.onnx.types import takes_types
from hardy.compiler.frontends.onnx.tensors import ONNX_TYPES
from hardy.compiler.ir import Constant, Graph, Input, Node, Value
from hardy.compiler.types import DType, TensorType

# The first whose convolutions, activations and trigonometric functions take bf16.
OPSET = 22
DOMAIN = "hardy"


def to_model(graph: Graph) -> ModelProto:
    """The model; every value keeps its name where it has one, every node its source."""
    scope = Scope([*graph.input_names, *graph.output_names])
    nodes: list[NodeProto] = []
    # The interface keeps its names, whatever other nodes are called.
    renamed: list[NodeProto] = []
    outputs: dict[Value, str] = {}
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        if value in outputs or isinstance(value.op, Input | Constant):
            renamed.append(helper.make_node("Identity", [""], [name], name=name))
        else:
            outputs[value] = name
    scope.names.update(outputs)
    for node in graph.nodes:
        nodes += _nodes(scope, node)
    aliases = iter(renamed)
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        if outputs.get(value) != name:
            alias = next(aliases)
            alias.input[0] = scope.names[value]
            nodes.append(alias)
    proto = helper.make_graph(
        nodes,
        graph.name or "main",
        [_info(name, t) for name, t in graph.input_types().items()],
        [_info(name, t) for name, t in graph.output_types().items()],
        scope.initializers,
        value_info=_value_infos(scope, graph),
    )
    opsets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == DOMAIN for node in nodes):
        opsets.append(helper.make_opsetid(DOMAIN, 1))
    return helper.make_model(proto, opset_imports=opsets, producer_name="hardy", ir_version=10)


def _value_infos(scope: Scope, graph: Graph) -> list[ValueInfoProto]:
    interface = {*graph.inputs, *graph.outputs}
    return [
        _info(scope.names[v], v.type)
        for node in graph.nodes
        if not isinstance(node.op, Input | Constant)
        for v in node.values
        if v not in interface
    ]


def _nodes(scope: Scope, node: Node) -> list[NodeProto]:
    if isinstance(node.op, Input):
        scope.names[node.values[0]] = node.op.label
        return []
    if isinstance(node.op, Constant):
        scope.literal(node.op.literal, scope.name(node.values[0], node.name))
        return []
    operands = [scope.names[v] for v in node.operands]
    results = [scope.name(v, node.name) for v in node.values]
    nodes = _standard(scope, node, operands, results)
    if nodes is None:
        nodes = [_custom(node, operands, results)]
    for proto in nodes:
        proto.name = proto.name or results[0]
        proto.doc_string = node.source
    return nodes


def _standard(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
    """The op's nodes of ONNX; None where ONNX has no such op, or has it for other types only."""
    writer = WRITERS.get(type(node.op))
    before = len(scope.initializers)
    nodes = writer(scope, node, operands, results) if writer else None
    values = zip((*operands, *results), (*node.operands, *node.values), strict=True)
    types = {name: v.type.dtype for name, v in values}
    if nodes is None or not all(takes_types(proto, types, OPSET) for proto in nodes):
        del scope.initializers[before:]
        return None
    return nodes


def _info(name: str, t: TensorType) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, ONNX_TYPES[t.dtype], t.shape)


def _custom(node: Node, operands: list[str], results: list[str]) -> NodeProto:
    """A node of hardy's own domain with the op's attributes; graphs inside ops are nested."""
    proto = helper.make_node(node.op.name, operands, results, domain=DOMAIN)
    for f in dataclasses.fields(node.op):
        proto.attribute.extend(_attribute(f.name, getattr(node.op, f.name)))
    return proto


def _attribute(name: str, value: Any) -> list[AttributeProto]:
    if isinstance(value, Graph):
        return [helper.make_attribute(name, to_model(value).graph)]
    if isinstance(value, bool):
        return [helper.make_attribute(name, int(value))]
    if isinstance(value, int | float | str):
        return [helper.make_attribute(name, value)]
    if isinstance(value, DType):
        return [helper.make_attribute(name, value.value)]
    if isinstance(value, tuple) and value and all(isinstance(v, int) for v in value):
        return [helper.make_attribute(name, list(value))]
    if isinstance(value, tuple) and value and all(isinstance(v, float) for v in value):
        return [helper.make_attribute(name, list(value))]
    return [helper.make_attribute(name, str(value))] if value not in ((), None) else []
