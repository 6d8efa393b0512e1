"""The one checker of graphs: what every frontend and pass must give, and every target may rely on."""

from __future__ import annotations

from hardy.compiler.errors import GraphError
from hardy.compiler.ir import Graph, Input, Node, Value, make_node
from hardy.compiler.text import print_node


def verify(graph: Graph) -> None:
    """Raise GraphError, with the nodes around the fault, unless the graph obeys the IR's rules:

    operands come from earlier nodes, stored types are what the shape rules give, inputs are
    distinct and all there, output names are unique, and graphs inside ops obey the same.
    """
    seen: set[Node] = set()
    for position, node in enumerate(graph.nodes):
        problem = _problem(node, seen)
        if problem:
            raise GraphError(problem, where=node.source or graph.name, hint="\n" + around(graph, position))
        seen.add(node)
        for attribute in vars(node.op).values():
            if isinstance(attribute, Graph):
                verify(attribute)
    _verify_interface(graph, seen)


def _problem(node: Node, seen: set[Node]) -> str:
    if node in seen:
        return f"node {node.op.name} is listed twice"
    for i, operand in enumerate(node.operands):
        if operand.node not in seen:
            return f"operand {i} of {node.op.name} is not computed before it"
        if not 0 <= operand.index < len(operand.node.types):
            return f"operand {i} of {node.op.name} is result {operand.index} of {operand.node.op.name}"
    try:
        types = make_node(node.op, node.operands).types
    except GraphError as error:
        return f"{node.op.name}: {error.message}"
    if types != node.types:
        stored, right = (", ".join(map(str, t)) for t in (node.types, types))
        return f"{node.op.name} is stored with type {stored}, its shape rule gives {right}"
    return ""


def _verify_interface(graph: Graph, seen: set[Node]) -> None:
    declared = [node for node in graph.nodes if isinstance(node.op, Input)]
    listed = [v.node for v in graph.inputs]
    if declared != listed or list(graph.nodes[: len(listed)]) != listed:
        raise GraphError("the graph's inputs are not its first nodes, in order", where=graph.name)
    for what, names in (("input", graph.input_names), ("output", graph.output_names)):
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            raise GraphError(f"two {what}s are called {repeated[0]!r}", where=graph.name)
    if len(graph.outputs) != len(graph.output_names):
        raise GraphError(
            f"{len(graph.outputs)} outputs have {len(graph.output_names)} names", where=graph.name
        )
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        if value.node not in seen:
            raise GraphError(f"output {name!r} is not computed by the graph", where=graph.name)


def around(graph: Graph, position: int, reach: int = 3) -> str:
    """The nodes around a position as text, the one at fault marked; for error messages."""
    names: dict[Value, str] = {}
    for i, node in enumerate(graph.nodes):
        for value in node.values:
            names[value] = f"{i}" if value.index == 0 else f"{i}.{value.index}"
        for operand in node.operands:
            names.setdefault(operand, "undefined")
    lines = []
    for i in range(max(0, position - reach), min(len(graph.nodes), position + reach + 1)):
        mark = ">" if i == position else " "
        node = graph.nodes[i]
        first = (
            f"input {node.op.label}: {node.type}"
            if isinstance(node.op, Input)
            else print_node(node, names)[0]
        )
        lines.append(f"    {mark} {first}")
    return "\n".join(lines)
