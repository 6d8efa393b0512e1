"""What graphs and nodes amount to: sizes, multiply-accumulates, bytes moved."""

from __future__ import annotations

from dataclasses import dataclass

from hardy.compiler.ir import Constant, Graph, Input, Node, Op
from hardy.compiler.literal import Literal


@dataclass(frozen=True)
class Statistics:
    """A graph in numbers.

    `nodes` leaves out inputs and constants and counts the nodes inside groups; `parameters` and
    `bytes` are of the distinct constants; `macs` are multiply-accumulates of one run.
    """

    nodes: int
    constants: int
    parameters: int
    bytes: int
    macs: int


@dataclass(frozen=True)
class NodeCost:
    """One run of one node: multiply-accumulates, elements computed, bytes read and written."""

    macs: int
    elements: int
    bytes_read: int
    bytes_written: int


def node_cost(node: Node) -> NodeCost:
    """The cost of a node by itself; inputs and constants cost nothing to run."""
    if isinstance(node.op, Input | Constant):
        return NodeCost(0, 0, 0, 0)
    return NodeCost(
        macs=node_macs(node),
        elements=sum(t.size for t in node.types),
        bytes_read=sum(v.type.nbytes for v in dict.fromkeys(node.operands)),
        bytes_written=sum(t.nbytes for t in node.types),
    )


def node_macs(node: Node) -> int:
    """Multiply-accumulates of one node; 0 for ops that multiply nothing."""
    if type(node.op).macs is Op.macs:
        return 0
    return node.op.macs(*[v.type for v in node.operands])


def statistics(graph: Graph) -> Statistics:
    """Count a graph, in time linear in its nodes; constant data is not read."""
    # Literals are told apart by identity: their digest would read all weights.
    literals: dict[int, Literal] = {}
    nodes, macs = _count(graph, literals)
    return Statistics(
        nodes=nodes,
        constants=len(literals),
        parameters=sum(c.type.size for c in literals.values()),
        bytes=sum(c.type.nbytes for c in literals.values()),
        macs=macs,
    )


def _count(graph: Graph, literals: dict[int, Literal]) -> tuple[int, int]:
    nodes = macs = 0
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Constant):
            literals[id(op.literal)] = op.literal
        elif not isinstance(op, Input):
            inner = 0
            for attribute in vars(op).values():
                if isinstance(attribute, Graph):
                    inner += _count(attribute, literals)[0]
            nodes += inner or 1
            macs += node_macs(node)
    return nodes, macs
