"""Cuts a graph into parts that run one after another, each a graph of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from hardy.compiler.ir import Builder, Constant, Graph, Input, Node, Value, remap


@dataclass(frozen=True)
class Part:
    """A piece of a graph. Its inputs are `takes` and its outputs `gives`, in order: values of the whole
    graph, under names that all parts share. Constants are the whole graph's own nodes."""

    graph: Graph
    takes: tuple[Value, ...]
    gives: tuple[Value, ...]
    names: Mapping[Value, str]


def cut(graph: Graph, ends: Sequence[Sequence[Value]]) -> list[Part]:
    """One part for each of `ends`: what its values need and no earlier part computes.

    A part gives what later parts take, its own ends and the graph's outputs. What no end needs is left
    out, so the last ends are usually the graph's outputs. Ends that are inputs or constants are passed
    over.
    """
    return _parts(graph, _owners(ends), len(ends), {v for values in ends for v in values})


def split(graph: Graph, members: Sequence[Sequence[Node]]) -> list[Part]:
    """One part for each list of nodes, none of which needs a later one. Inputs and constants are nobody's.

    A part gives what later parts take and the graph's outputs.
    """
    owner = {node: part for part, nodes in enumerate(members) for node in nodes}
    return _parts(graph, owner, len(members), set())


def _parts(graph: Graph, owner: Mapping[Node, int], count: int, ends: Set[Value]) -> list[Part]:
    needed: list[set[Value]] = [set() for _ in range(count)]
    given = set(graph.outputs) | ends
    for node, part in owner.items():
        for value in node.operands:
            if not isinstance(value.op, Constant) and owner.get(value.node) != part:
                needed[part].add(value)
                given.add(value)
    names: dict[Value, str] = {}
    for node in graph.nodes:
        for value in node.values:
            if value in given or isinstance(node.op, Input):
                names[value] = node.op.label if isinstance(node.op, Input) else f"value {len(names)}"
    members: list[list[Node]] = [[] for _ in range(count)]
    for node in graph.nodes:
        if node in owner:
            members[owner[node]].append(node)
    return [_part(f"{graph.name} {i}", members[i], needed[i], given, names) for i in range(count)]


def _owners(ends: Sequence[Sequence[Value]]) -> dict[Node, int]:
    """The first part that needs each node."""
    owner: dict[Node, int] = {}
    for part, values in enumerate(ends):
        open_nodes = [v.node for v in values]
        while open_nodes:
            node = open_nodes.pop()
            if node in owner or isinstance(node.op, Input | Constant):
                continue
            owner[node] = part
            open_nodes.extend(v.node for v in node.operands)
    return owner


def _part(
    name: str, members: Sequence[Node], needed: set[Value], given: set[Value], names: Mapping[Value, str]
) -> Part:
    b = Builder(name)
    takes = tuple(v for v in names if v in needed)
    mapping = {v: b.input(names[v], v.type, source=v.node.source) for v in takes}
    constants: set[Node] = set()
    gives: list[Value] = []
    for node in members:
        for operand in node.operands:
            if isinstance(operand.op, Constant) and operand.node not in constants:
                constants.add(operand.node)
                b.append(operand.node)
        mapping |= zip(node.values, b.append(remap(node, mapping)), strict=True)
        gives.extend(v for v in node.values if v in given)
    return Part(b.finish({names[v]: mapping[v] for v in gives}), takes, tuple(gives), names)
