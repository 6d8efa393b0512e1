"""Which values of two versions of a graph stand for the same thing."""

from __future__ import annotations

from hardy.compiler.ir import Constant, Graph, Input, Node, Value
from hardy.compiler.types import TensorType


def paired(graph: Graph, original: Graph) -> dict[Value, Value]:
    """For values of a graph those of the original that they stand for: results of the same op with
    the same name and source, of the same float type, in order where several agree in these."""
    ours, theirs = _keyed(graph), _keyed(original)
    return {
        mine: other
        for key, nodes in ours.items()
        if len(nodes) == len(theirs.get(key, ()))
        for a, b in zip(nodes, theirs[key], strict=True)
        for mine, other in zip(a.values, b.values, strict=True)
        if mine.type == other.type and mine.type.dtype.is_float
    }


def _keyed(graph: Graph) -> dict[tuple[str, str, str], list[Node]]:
    result: dict[tuple[str, str, str], list[Node]] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Input | Constant):
            result.setdefault((node.op.name, node.name, node.source), []).append(node)
    return result


def paired_loosely(graph: Graph, original: Graph) -> dict[Value, Value]:
    """`paired`, and where passes took nodes apart or fused them, the last float values of a source and
    type, and the outputs."""
    pairs = paired(graph, original)
    taken = set(pairs.values())
    ours, theirs = _last_by_source(graph), _last_by_source(original)
    candidates = [(v, theirs.get(key)) for key, v in ours.items()]
    candidates += zip(graph.outputs, original.outputs, strict=True)
    for mine, other in candidates:
        if mine in pairs or other is None or other in taken or not (_is_float(mine) and _is_float(other)):
            continue
        pairs[mine] = other
        taken.add(other)
    return pairs


def computed(graph: Graph) -> list[Value]:
    """The float values that a graph computes, in order."""
    return [v for node in graph.nodes for v in node.values if _is_float(v)]


def _is_float(value: Value) -> bool:
    return value.type.dtype.is_float and not isinstance(value.op, Constant | Input)


def _last_by_source(graph: Graph) -> dict[tuple[str, TensorType], Value]:
    return {(v.node.source, v.type): v for v in computed(graph) if v.node.source}
