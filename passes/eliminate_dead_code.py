"""Removes nodes whose results nobody uses."""

from __future__ import annotations

from dataclasses import dataclass

from hardy.compiler.ir import Graph, Input, Node
from hardy.compiler.pipeline import Pass


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Remove nodes whose results nobody uses; the graph's inputs stay."""

    def run(self, graph: Graph) -> Graph:
        alive: set[Node] = {v.node for v in graph.outputs}
        for node in reversed(graph.nodes):
            if node in alive:
                alive.update([v.node for v in node.operands])
        nodes = [n for n in graph.nodes if n in alive or isinstance(n.op, Input)]
        return graph if len(nodes) == len(graph.nodes) else graph.with_nodes(nodes, graph.outputs)
