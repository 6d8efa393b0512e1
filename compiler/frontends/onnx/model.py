"""Reading ONNX files and putting their graphs in order, without trusting them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
)

from hardy.compiler.errors import ModelError, UnsupportedError

# 7 brought today's broadcasting; 6 differs only in that and is taken too. Operators of older sets
# are taken where they did not change since.
OLDEST_OPSET = 6


def read(source: Path | str | bytes | ModelProto) -> tuple[ModelProto, Path | None]:
    """The model and the folder that its external data may lie in."""
    if isinstance(source, ModelProto):
        return _checked(source, "the model"), None
    if isinstance(source, bytes):
        return _checked(_parse(source, "the model"), "the model"), None
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    return _checked(_parse(data, str(path)), str(path)), path.parent


def _parse(data: bytes, where: str) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError(
            "not an ONNX file, or a truncated one: it does not parse as an ONNX ModelProto",
            where=where,
            hint="export or download it again",
        ) from None
    return model


def _checked(model: ModelProto, where: str) -> ModelProto:
    if not model.HasField("graph"):
        raise ModelError("not an ONNX model, or a truncated one: it holds no graph", where=where)
    if not model.graph.output:
        raise ModelError("the graph has no outputs: the file is truncated or empty", where=where)
    opsets(model)
    return model


def opsets(holder: ModelProto | FunctionProto) -> dict[str, int]:
    """Operator set version by domain; the standard domain is ''."""
    result = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in holder.opset_import}
    if isinstance(holder, ModelProto):
        if "" not in result:
            if any(n.domain in ("", "ai.onnx") for n in holder.graph.node):
                raise ModelError("the model does not say which operator set it uses (opset_import)")
            return result
        newest = onnx.defs.onnx_opset_version()
        if not 1 <= result[""] <= newest:
            raise UnsupportedError(
                f"operator set {result['']} is outside 1..{newest}, which the installed onnx knows",
                hint="install a newer onnx",
            )
    return result


def describe(node: NodeProto, index: int) -> str:
    """How errors and provenance name a node."""
    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    if node.name:
        return f"onnx:{domain}{node.op_type} {node.name!r}"
    outputs = ", ".join(repr(o) for o in node.output if o)
    return f"onnx:{domain}{node.op_type} #{index} -> {outputs}"


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _captured(graph: GraphProto) -> set[str]:
    """Names that a subgraph takes from the graphs around it."""
    own = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    own |= {i.values.name for i in graph.sparse_initializer}
    for node in graph.node:
        own.update(node.output)
    used = {o.name for o in graph.output}
    for node in graph.node:
        used.update(_reads(node))
    return used - own


def _reads(node: NodeProto) -> set[str]:
    names = set(node.input)
    for graph in subgraphs(node):
        names |= _captured(graph)
    names.discard("")
    return names


@dataclass(frozen=True)
class Body:
    """A graph or function ready to import: nodes in order with their descriptions, tensors by name."""

    nodes: tuple[tuple[NodeProto, str], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: dict[str, TensorProto | SparseTensorProto]
    # Whether outputs may be left undefined.
    partial: bool = False

    @staticmethod
    def of_graph(graph: GraphProto) -> Body:
        """Raises ModelError for a cycle or a name that is defined twice."""
        tensors: dict[str, TensorProto | SparseTensorProto] = {}
        for name, tensor in [
            *((t.name, t) for t in graph.initializer),
            *((s.values.name, s) for s in graph.sparse_initializer),
        ]:
            if name in tensors:
                raise ModelError(f"two initializers have the name {name!r}")
            tensors[name] = tensor
        inputs = tuple(i.name for i in graph.input)
        outputs = tuple(o.name for o in graph.output)
        return Body(_ordered(list(graph.node), {*inputs, *tensors}, inputs), inputs, outputs, tensors)

    @staticmethod
    def of_function(function: FunctionProto) -> Body:
        inputs = tuple(function.input)
        return Body(
            _ordered(list(function.node), set(inputs), inputs),
            inputs,
            tuple(function.output),
            {},
            partial=True,
        )


def _ordered(
    nodes: list[NodeProto], defined: set[str], inputs: tuple[str, ...]
) -> tuple[tuple[NodeProto, str], ...]:
    """The nodes with their descriptions, each after those it reads; ModelError where there is a cycle."""
    if len(set(inputs)) != len(inputs):
        raise ModelError(f"an input name repeats: {', '.join(inputs)}")
    labels = [describe(node, i) for i, node in enumerate(nodes)]
    producer: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.output:
            if not name:
                continue
            if name in producer or name in defined:
                other = labels[producer[name]] if name in producer else "an input or initializer"
                raise ModelError(
                    f"the name {name!r} is defined twice: by {other} and {labels[i]}", where=labels[i]
                )
            producer[name] = i
    needs = [sorted({producer[n] for n in _reads(node) if n in producer}) for node in nodes]
    if all(not need or need[-1] < i for i, need in enumerate(needs)):
        return tuple(zip(nodes, labels, strict=True))
    waiting = [len(need) for need in needs]
    users: list[list[int]] = [[] for _ in nodes]
    for i, need in enumerate(needs):
        for j in need:
            users[j].append(i)
    ready = [i for i in range(len(nodes) - 1, -1, -1) if not waiting[i]]
    order: list[int] = []
    while ready:
        i = ready.pop()
        order.append(i)
        for user in reversed(users[i]):
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    if len(order) < len(nodes):
        raise ModelError(f"the graph has a cycle: {_cycle(needs, set(order), labels)}")
    return tuple((nodes[i], labels[i]) for i in order)


def _cycle(needs: list[list[int]], done: set[int], labels: list[str]) -> str:
    """One cycle among the nodes that could not be ordered, in the direction of the data."""
    at = next(i for i in range(len(needs)) if i not in done)
    seen: dict[int, int] = {}
    path: list[int] = []
    while at not in seen:
        seen[at] = len(path)
        path.append(at)
        at = next(j for j in needs[at] if j not in done)
    loop = path[seen[at] :][::-1]
    shown = loop if len(loop) <= 8 else [*loop[:7], loop[-1]]
    return " -> ".join(labels[i] for i in [*shown, shown[0]])
