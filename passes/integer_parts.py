"""Which nodes of a graph compute with integers alone, and what stays float around and between them."""

from __future__ import annotations

from dataclasses import dataclass

from hardy.compiler.ir import Constant, Graph, Input, Node, Value
from hardy.compiler.ops.group import Group


def is_integer(node: Node) -> bool:
    """Whether a node takes and gives nothing but integers, also within a group; inputs and constants
    compute nothing."""
    if isinstance(node.op, Input | Constant):
        return False
    if isinstance(node.op, Group):
        return all(is_integer(n) for n in node.op.body.nodes if not isinstance(n.op, Input | Constant))
    return all(v.type.dtype.is_integer for v in (*node.operands, *node.values))


@dataclass(frozen=True)
class IntegerParts:
    """A graph's nodes by what they compute with, each in the graph's order.

    `before`: float nodes that no integer node leads to, such as the quantization of an input. `after`:
    float nodes that lead to no integer node, such as the last dequantize and a softmax. `between`: float
    nodes with integers on both sides, which an accelerator of integers must hand back for. `entries` are the
    values that the integer nodes take from elsewhere, `exits` those of theirs that others read or that are
    outputs.
    """

    integer: tuple[Node, ...]
    before: tuple[Node, ...]
    between: tuple[Node, ...]
    after: tuple[Node, ...]
    entries: tuple[Value, ...]
    exits: tuple[Value, ...]


def integer_parts(graph: Graph) -> IntegerParts:
    """What of a graph is integer, and what is float before, between and after that."""
    computing = [n for n in graph.nodes if not isinstance(n.op, Input | Constant)]
    integer = [n for n in computing if is_integer(n)]
    behind: set[Node] = set()
    for node in graph.nodes:
        if any(v.node in behind or is_integer(v.node) for v in node.operands):
            behind.add(node)
    ahead: set[Node] = set()
    for node in reversed(graph.nodes):
        if is_integer(node) or node in ahead:
            ahead.update(v.node for v in node.operands)
    floats = [n for n in computing if not is_integer(n)]
    inside = set(integer)
    taken = [v for n in integer for v in n.operands]
    read = {v for n in graph.nodes if n not in inside for v in n.operands} | set(graph.outputs)
    return IntegerParts(
        integer=tuple(integer),
        before=tuple(n for n in floats if n not in behind),
        between=tuple(n for n in floats if n in behind and n in ahead),
        after=tuple(n for n in floats if n in behind and n not in ahead),
        entries=tuple(
            dict.fromkeys(v for v in taken if v.node not in inside and not isinstance(v.op, Constant))
        ),
        exits=tuple(v for n in integer for v in n.values if v in read),
    )
