"""Where two versions of a network can be compared, and the blocks between such places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hardy.compiler.cost import node_macs
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph, Node, Value
from hardy.compiler.pairing import paired
from hardy.compiler.training.trainable import trainable

# Whether a block ends where all data flows through one value, or after every layer.
By = Literal["blocks", "layers"]


@dataclass(frozen=True)
class End:
    """Where a block ends: values of the graph and those of the original that they stand for."""

    ours: tuple[Value, ...]
    theirs: tuple[Value, ...]


def block_ends(graph: Graph, original: Graph, by: By = "blocks") -> list[End]:
    """The ends of a graph's blocks, in order; each block has a layer that can be trained. The last ends
    are the outputs of both graphs.

    "blocks": values that all data flows through, such as the results of residual blocks; "layers":
    the results of all layers as well. Only values that stand for one of the original are ends.
    """
    outputs = [
        (a, b)
        for a, b in zip(graph.outputs, original.outputs, strict=True)
        if a.type == b.type and a.type.dtype.is_float
    ]
    if not outputs:
        raise UsageError("no float output has the type that it has in the original")
    pairs = paired(graph, original)
    flow = _Flow(graph)
    candidates = {v for v in flow.cuts() if v in pairs}
    if by == "layers":
        candidates |= {v for v in flow.layers() if v in pairs}
    ends: list[Value] = []
    waiting: Value | None = None
    learns = False
    for node in graph.nodes:
        if node in flow.learners and node_macs(node):
            # A block ends at the last candidate before the next layer, behind its bias and activation.
            if waiting is not None:
                ends.append(waiting)
                waiting = None
            learns = True
        for value in node.values:
            if learns and value in candidates:
                waiting = value
    ours, theirs = zip(*outputs, strict=True)
    return [End((v,), (pairs[v],)) for v in ends] + [End(ours, theirs)]


class _Flow:
    """What depends on the graph's inputs and on weights that can be trained.

    `learners` are nodes where such a weight meets data; `learned` are the values after them.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        weights, data = set(trainable(graph)), set(graph.inputs)
        self.learners: set[Node] = set()
        self.learned: set[Value] = set()
        for node in graph.nodes:
            operands = set(node.operands)
            learns = bool(operands & weights)
            if not operands & data:
                weights.update(node.values if learns else ())
                continue
            data.update(node.values)
            if learns:
                self.learners.add(node)
            if learns or operands & self.learned:
                self.learned.update(node.values)

    def cuts(self) -> Iterator[Value]:
        """Values through which everything learned so far flows on."""
        last: dict[Value, int] = {}
        for place, node in enumerate(self.graph.nodes):
            last |= dict.fromkeys(node.operands, place)
        last |= dict.fromkeys(self.graph.outputs, len(self.graph.nodes))
        live: set[Value] = set()
        for place, node in enumerate(self.graph.nodes):
            live -= {v for v in node.operands if last[v] == place}
            live |= {v for v in node.values if v in self.learned and v in last}
            if len(live) == 1 and node.values[0] in live:
                yield node.values[0]

    def layers(self) -> Iterator[Value]:
        """The results of learning nodes that multiply."""
        for node in self.graph.nodes:
            if node in self.learners and node_macs(node):
                yield node.values[0]
