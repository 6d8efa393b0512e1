"""What graphs and nodes amount to: sizes, multiply-accumulates, bytes moved, and the time they may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardy.compiler.ir import Constant, Graph, Input, Node, Op
from hardy.compiler.literal import Literal
from hardy.compiler.types import DType

if TYPE_CHECKING:
    from hardy.targets.target import Device


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


def estimate_seconds(
    graph: Graph,
    device: Device,
    cost: Callable[[Node], float | None] | None = None,
    done: Mapping[Node, float] | None = None,
) -> float | None:
    """Expected seconds of one run: the sum over nodes of what `cost` says, else of their rooflines.

    The roofline of a node is the longer of its operations at the device's peak and its bytes at the
    bandwidth of the smallest memory that holds them (Williams et al., 2009). `done` gives the share of
    a node's multiplications that the device does not skip. None where the device states no peak.
    """
    if not device.peak:
        return None
    total = 0.0
    for node in graph.nodes:
        known = cost(node) if cost is not None else None
        total += _roofline(node, device, (done or {}).get(node, 1.0)) if known is None else known
    return total


def _roofline(node: Node, device: Device, done: float) -> float:
    moved = node_cost(node)
    operations = 2 * moved.macs * done if moved.macs else moved.elements
    # Types without a rate of their own are computed in f32 where there is one.
    dtype = node.types[0].dtype
    peak = device.peak.get(dtype) or device.peak.get(DType.f32) or max(device.peak.values())
    size = moved.bytes_read + moved.bytes_written
    fitting = [m for m in device.memories if size <= m.capacity] or list(device.memories[-1:])
    memory = min(fitting, key=lambda m: m.capacity, default=None)
    return max(operations / peak, size / memory.bandwidth if memory else 0.0)
