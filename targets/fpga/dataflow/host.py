"""Which nodes of a graph the accelerator computes, and what is left for the host before and after it."""

from __future__ import annotations

from dataclasses import dataclass

from hardy.compiler.errors import Refusal, UnsupportedError
from hardy.compiler.ir import Constant, Graph, Input, Node, Value
from hardy.targets.fpga.dataflow.chains import Chain, find_chains
from hardy.targets.fpga.dataflow.table import TABLE, supports
from hardy.targets.target import YES


@dataclass(frozen=True, eq=False)
class Split:
    """Nodes by who computes them, and the values that cross: `feeds` to the accelerator, `results` back.

    The host only converts: quantizes or packs what comes in, dequantizes what comes out and does the float
    ops after that. It multiplies no matrices, so that nothing falls back to it unseen.
    """

    before: tuple[Node, ...]
    core: tuple[Node, ...]
    after: tuple[Node, ...]
    feeds: tuple[Value, ...]
    results: tuple[Value, ...]
    chains: dict[Node, Chain]

    @property
    def on_host(self) -> list[str]:
        """The ops that the host computes, in order."""
        return [n.op.name for n in (*self.before, *self.after)]


def split(graph: Graph) -> Split:
    """Assign every node; UnsupportedError lists those that neither side takes, with reasons."""
    side: dict[Node, str] = {}
    refused: list[Refusal] = []
    chains = find_chains(graph)
    chained = {n for c in chains.values() for n in (*c.nodes, c.packing)}
    for node in graph.nodes:
        if isinstance(node.op, Input | Constant):
            continue
        above = {side[v.node] for v in node.operands if v.node in side}
        support = YES if node in chained else supports(node)
        if support and "after" not in above:
            side[node] = "core"
            continue
        side[node] = "after" if above & {"core", "after"} else "before"
        reason = "" if support else _reason_to_refuse(node, support.reason)
        if support:
            first = next(v.node for v in node.operands if side.get(v.node) == "after")
            why = supports(first).reason
            # What follows from a refusal above is not listed again.
            reason = f"it reads {first.op.name}, which the accelerator does not compute: {why}" if why else ""
        if reason:
            refused.append(Refusal(node.op.name, node.source, reason))
    if refused:
        raise UnsupportedError("a dataflow accelerator cannot be made of this graph", refusals=refused)
    parts = {s: tuple(n for n in graph.nodes if side.get(n) == s) for s in ("before", "core", "after")}
    if not parts["core"]:
        raise UnsupportedError(
            "there is nothing for a dataflow accelerator to compute",
            hint="quantize the model first: a scheme with power-of-two scales and zero points of 0",
        )
    core = set(parts["core"])
    feeds = dict.fromkeys(
        v for n in parts["core"] for v in n.operands if v.node not in core and v.literal is None
    )
    needed = [v for n in parts["after"] for v in n.operands] + list(graph.outputs)
    results = dict.fromkeys(v for v in needed if v.node in core)
    return Split(parts["before"], parts["core"], parts["after"], tuple(feeds), tuple(results), chains)


def _reason_to_refuse(node: Node, reason: str) -> str:
    """Why the host may not compute a node either; empty where it may."""
    types = (*(v.type for v in node.operands if v.literal is None), *node.types)
    integer = all(t.dtype.is_integer for t in types)
    if node.op.macs(*[v.type for v in node.operands]) or (type(node.op) in TABLE and integer):
        return reason
    return reason if node.op.name == "requantize" else ""
