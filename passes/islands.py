"""Where a graph is quantized: the values that become integers around its products, and who reads them.

Products read integers. What only moves elements, or picks some of them, does so with integers, so
that a value is quantized where it is computed. Elementwise ops run in f32 between a product and the
quantization of what they give, where kernels hold them in registers; of the values that come from
elsewhere, such as the other side of a residual add, they read the quantized form where there is one.
Pools read integers where they give them. What ends in a float op, such as a normalization, stays float.

A device without floats holds one sum in i32 while it computes a tensor, and stores tensors of narrow
integers. For it (`narrow`) every operand of an elementwise op is quantized, but for the sum that an
addition is made in, and so is a sum that is read twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from hardy.compiler.ir import Constant, Graph, Node, Value
from hardy.compiler.ops.elementwise import Add, Div, Mul, Sub
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.resize import Resize
from hardy.compiler.ops.shape import BroadcastTo, Concat, Pad, Reshape, Reverse, Slice, Transpose
from hardy.compiler.types import DType
from hardy.passes.properties import is_elementwise


class Place(NamedTuple):
    """A value that is quantized. `right`: as the second operand of a product of two activations."""

    value: Value
    right: bool = False


@dataclass(frozen=True)
class Islands:
    """What is quantized, and which operand of which node reads it."""

    # The places that share one scale, by any of them.
    ties: Mapping[Place, Place]
    reads: Mapping[tuple[Node, int], Place]

    def watched(self) -> dict[Place, list[Value]]:
        """For each scale, the values that tell its range: those not moved from others that share it."""
        result: dict[Place, list[Value]] = {}
        for place, scale in self.ties.items():
            node = place.value.node
            sources = [self.reads.get((node, i)) for i in range(len(node.operands))]
            moved = _carries(node) and all(s is not None and self.ties[s] == scale for s in sources)
            if not moved:
                result.setdefault(scale, []).append(place.value)
        return result


def find_islands(graph: Graph, products: Mapping[Node, tuple[int, ...]], narrow: bool = False) -> Islands:
    """The islands around `products`, each with the operands that are activations."""
    return _Search(graph, products, narrow).run()


def _carries(node: Node) -> bool:
    """Whether every result element is an element of the first operand, or zero."""
    op = node.op
    if isinstance(op, Resize):
        return op.mode == "nearest" and op.extrapolation == 0
    if isinstance(op, Pad):
        return op.value == 0
    return isinstance(op, MaxPool | Reshape | Transpose | Slice | Concat | Reverse | BroadcastTo)


def _averages(node: Node) -> bool:
    return isinstance(node.op, AvgPool | ReduceMean)


def _is_unit(value: Value) -> bool:
    """Whether a value is no constant, or one power of two."""
    literal = value.literal
    if literal is None:
        return True
    mantissa, _ = torch.frexp(literal.tensor)
    return literal.tensor.numel() == 1 and float(mantissa) == 0.5


@dataclass
class _Search:
    graph: Graph
    products: Mapping[Node, tuple[int, ...]]
    narrow: bool
    parents: dict[Place, Place] = field(default_factory=dict)
    reads: dict[tuple[Node, int], Place] = field(default_factory=dict)
    # Nodes between a product and a quantization, and values that come from a product this way.
    inside: set[Node] = field(default_factory=set)
    computed: set[Value] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._order = {node: i for i, node in enumerate(self.graph.nodes)}

    def run(self) -> Islands:
        self._find_computed()
        users: dict[Value, list[tuple[Node, int]]] = {}
        for node in self.graph.nodes:
            for i, operand in enumerate(node.operands):
                users.setdefault(operand, []).append((node, i))
        outputs = set(self.graph.outputs)
        for node in reversed(self.graph.nodes):
            if isinstance(node.op, Constant):
                continue
            for value in node.values:
                for right in (False, True):
                    self._decide(Place(value, right), users.get(value, []), value in outputs)
            self._enter(node, users)
        for value, readers in users.items():
            if Place(value) in self.parents:
                for node, i in readers:
                    if node in self.inside:
                        self.reads[node, i] = Place(value)
        return Islands({place: self._root(place) for place in self.parents}, self.reads)

    def _find_computed(self) -> None:
        for node in self.graph.nodes:
            known = [v for v in node.operands if v in self.computed]
            if (
                node in self.products
                or (_carries(node) and known)
                or (is_elementwise(node.op) and any(v.type.shape == node.type.shape for v in known))
            ):
                self.computed.update(node.values)

    def _decide(self, place: Place, users: list[tuple[Node, int]], is_output: bool) -> None:
        """Quantize a value where a product reads it, or where all who use it can do with integers."""
        value = place.value
        if value.type.dtype is not DType.f32:
            return
        needed = [(n, i) for n, i in users if n in self.products and self._reads_as(n, i, place.right)]
        if self.narrow and not place.right:
            within = [(n, i) for n, i in users if n in self.inside]
            shared = len(within) > 1 and value in self.computed
            needed += [(n, i) for n, i in within if shared or self._takes_integers(n, i)]
        moved = [(n, i) for n, i in users if _carries(n) and Place(n.values[0], place.right) in self.parents]
        averaged = [(n, i) for n, i in users if not place.right and _averages(n) and n in self.inside]
        kept = len(users) - len(needed) - len(moved) - len(averaged)
        inside = 0 if place.right else sum(is_elementwise(n.op) and n in self.inside for n, _ in users)
        wanted = moved or (averaged and value in self.computed)
        if not needed and (not wanted or kept > inside or is_output):
            return
        self.parents[place] = place
        for node, i in (*needed, *moved, *averaged):
            self.reads[node, i] = place
        for node, _ in moved:
            self.parents[self._root(place)] = self._root(Place(node.values[0], place.right))

    def _takes_integers(self, node: Node, i: int) -> bool:
        """Whether a node between quantizations cannot take this operand as a sum in i32."""
        if _averages(node):
            return True
        flowing = [v for v in node.operands if not isinstance(v.op, Constant)]
        if isinstance(node.operands[i].op, Constant):
            return False
        if len(flowing) == 1:
            # A sum in i32 has no room for a factor, unless that is part of its unit.
            return isinstance(node.op, Mul | Div) and not all(map(_is_unit, node.operands))
        if not isinstance(node.op, Add | Sub):
            return True
        # An addition is made in the sum that is computed last.
        sums = [v for v in flowing if v in self.computed]
        last = max(sums, key=lambda v: self._order[v.node], default=None)
        return node.operands[i] != last or sums.count(last) > 1

    def _reads_as(self, node: Node, i: int, right: bool) -> bool:
        places = self.products[node]
        return i in places and right == (i == 1 and len(places) == 2)

    def _enter(self, node: Node, users: Mapping[Value, list[tuple[Node, int]]]) -> None:
        """Note whether what an elementwise op or a pool gives is quantized, now or further on."""
        if not (is_elementwise(node.op) or _averages(node)):
            return
        for value in node.values:
            if Place(value) in self.parents or any(n in self.inside for n, _ in users.get(value, [])):
                self.inside.add(node)

    def _root(self, place: Place) -> Place:
        while self.parents[place] != place:
            place = self.parents[place]
        return place
