"""Lowers small graphs that a rule builds while it lowers a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hardy.compiler.ir import Constant, Graph, Input, Node, Value
from hardy.passes.decompose import Decompose
from hardy.passes.fold_constants import FoldConstants
from hardy.targets.cpu.lower.cluster import Cluster, leaves, live
from hardy.targets.cpu.program import Ref
from hardy.targets.cpu.select import Selector
from hardy.targets.target import Support

LowerCluster = Callable[[Selector, Cluster], None]
Supports = Callable[[Node], Support]


def lower_graph(
    selector: Selector,
    graph: Graph,
    places: Mapping[Value, Ref],
    targets: Sequence[Ref],
    supports: Supports,
    lower_cluster: LowerCluster,
) -> None:
    """Append the calls of a graph whose inputs lie at `places`, with its outputs at `targets`."""
    graph = Decompose(supports).run(FoldConstants().run(graph))
    for value, place in places.items():
        selector.view(value, place)
    for value, place in zip(graph.outputs, targets, strict=True):
        selector.view(value, place)
    nodes = live([n for n in graph.nodes if not isinstance(n.op, Input | Constant)], graph.outputs)
    outputs = tuple(dict.fromkeys(graph.outputs))
    lower_cluster(selector, Cluster(nodes, leaves(nodes, outputs), outputs, outputs, {}))
