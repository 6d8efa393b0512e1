"""Moves views (transpositions, reshapes) towards the outputs so that they cancel, in linear time.

In one sweep each value gets what it would lack if it were computed on the operands of views instead
of their results: the view itself. Views that feed one another through ops that can carry them form
a region, which is rewritten as a whole, and only if it costs less then. A view is put back where a
value that lacks one is needed as it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from hardy.compiler.ir import Builder, Graph, Input, Node, Op, Value
from hardy.compiler.ledger import ledger

# What a value lacks: a permutation, or the shape of its base.
Lack = TypeVar("Lack")


@dataclass(frozen=True)
class Price:
    """Bytes that views move, and how many views there are."""

    bytes: int
    count: int


FREE = Price(0, 0)


@dataclass(frozen=True)
class Carried(Generic[Lack]):
    """A node computed on bases: its op, what each operand must lack (None: the operand as it was),
    and what the results then lack."""

    op: Op
    operands: tuple[Lack | None, ...]
    result: Lack | None


class View(ABC, Generic[Lack]):
    """One kind of view: how it composes, what carries it, what it costs."""

    label: str

    @abstractmethod
    def is_view(self, node: Node) -> bool:
        """Whether the node is a view of its one operand."""

    @abstractmethod
    def lack(self, node: Node, before: Lack | None) -> Lack | None:
        """What a view's result lacks, given what its operand does; None where the two cancel."""

    @abstractmethod
    def carry(self, node: Node, lacks: tuple[Lack | None, ...]) -> Carried[Lack] | None:
        """The node on bases; None where it needs its operands as they are."""

    @abstractmethod
    def price(self, value: Value, lack: Lack) -> Price:
        """The cost of a view that gives the value from its base."""

    @abstractmethod
    def price_of_base(self, value: Value, lack: Lack) -> Price:
        """The cost of computing the base from a value that lacks something else or nothing."""

    @abstractmethod
    def put_back(self, b: Builder, base: Value, value: Value, lack: Lack) -> Value:
        """Build the old graph's `value` from its base."""

    @abstractmethod
    def base(self, b: Builder, x: Value, value: Value, lack: Lack) -> Value:
        """Build the base of the old graph's `value` from `x`, which is what stands for it: the value
        itself, or its base where it lacks something else."""


@dataclass
class _Cost:
    """Of one region, before and after."""

    bytes_before: int = 0
    bytes_after: int = 0
    count_before: int = 0
    count_after: int = 0
    moved: bool = False
    inserted: bool = False

    def add(self, other: _Cost) -> None:
        self.bytes_before += other.bytes_before
        self.bytes_after += other.bytes_after
        self.count_before += other.count_before
        self.count_after += other.count_after
        self.moved |= other.moved
        self.inserted |= other.inserted

    @property
    def pays(self) -> bool:
        if self.bytes_after != self.bytes_before:
            return self.bytes_after < self.bytes_before
        if self.count_after != self.count_before:
            return self.count_after < self.count_before
        return self.moved and not self.inserted


def sink(graph: Graph, view: View[Lack]) -> Graph:
    """Move one kind of view; the same graph where nothing pays."""
    return _Sinking(graph, view).run()


class _Sinking(Generic[Lack]):
    def __init__(self, graph: Graph, view: View[Lack]) -> None:
        self.graph = graph
        self.view = view
        self.lacks: dict[Value, Lack] = {}
        self.carried: dict[Node, Carried[Lack]] = {}
        # Union-find over the nodes that stand or fall together.
        self.parent: dict[Node, Node] = {}
        self.cost: dict[Node, _Cost] = {}

    def run(self) -> Graph:
        for node in self.graph.nodes:
            if self.view.is_view(node):
                self._analyse_view(node)
            elif self.lacks:
                self._analyse_other(node)
        self._add_ends()
        if not any(cost.pays for cost in self.cost.values()):
            return self.graph
        return self._rebuild()

    def _analyse_view(self, node: Node) -> None:
        (x,) = node.operands
        result = Value(node, 0)
        cost = self._join(node)
        alone = self.view.lack(node, None)
        price = Price(0, 1) if alone is None else self.view.price(result, alone)
        cost.bytes_before += price.bytes
        cost.count_before += price.count
        lack = alone
        if x in self.lacks:
            lack = self.view.lack(node, self.lacks[x])
            self._join(node, x.node)
        if lack is not None:
            self.lacks[result] = lack

    def _analyse_other(self, node: Node) -> None:
        lacks = tuple([self.lacks.get(v) for v in node.operands])
        if not any(lack is not None for lack in lacks):
            return
        carried = self.view.carry(node, lacks)
        if carried is None:
            return
        cost = _Cost(moved=True)
        tied = []
        for v, have, wanted in zip(node.operands, lacks, carried.operands, strict=True):
            if wanted is None:
                continue
            if have == wanted:
                tied.append(v.node)
                continue
            price = self.view.price_of_base(v, wanted)
            cost.bytes_after += price.bytes
            cost.count_after += price.count
            cost.inserted |= price != FREE
        if not tied:
            return
        self._join(node, *tied).add(cost)
        self.carried[node] = carried
        if carried.result is not None:
            for v in node.values:
                self.lacks[v] = carried.result

    def _find(self, node: Node) -> Node:
        root = node
        while self.parent[root] is not root:
            root = self.parent[root]
        while self.parent[node] is not root:
            self.parent[node], node = root, self.parent[node]
        return root

    def _join(self, node: Node, *others: Node) -> _Cost:
        """Put nodes into one region; its cost."""
        if node not in self.parent:
            self.parent[node] = node
            self.cost[node] = _Cost()
        root = self._find(node)
        for other in others:
            joined = self._find(other)
            if joined is not root:
                self.parent[root] = joined
                self.cost[joined].add(self.cost.pop(root))
                root = joined
        return self.cost[root]

    def _add_ends(self) -> None:
        """A view stays where a value that lacks one is needed as it was."""
        ends = {v: None for v in self.graph.outputs if v in self.lacks}
        for node in self.graph.nodes:
            if self.view.is_view(node):
                continue
            carried = self.carried.get(node)
            for i, v in enumerate(node.operands):
                if v in self.lacks and (carried is None or carried.operands[i] is None):
                    ends[v] = None
        for v in ends:
            cost = self.cost[self._find(v.node)]
            price = self.view.price(v, self.lacks[v])
            cost.bytes_after += price.bytes
            cost.count_after += price.count

    def _rebuild(self) -> Graph:
        self.b = Builder(self.graph.name)
        # What stands for a value of the old graph: itself, or its base where it lacks something.
        self.new: dict[Value, Value] = {}
        self.whole: dict[Value, Value] = {}
        self.bases: dict[tuple[Value, Lack], Value] = {}
        book = ledger()
        allowed: dict[Node, bool] = {}
        for node in self.graph.nodes:
            if isinstance(node.op, Input):
                self.b.append(node)
                continue
            if node in self.parent:
                root = self._find(node)
                if root not in allowed:
                    allowed[root] = self.cost[root].pays and book.take(self.view.label)
                if allowed[root]:
                    with self.b.at(node.source):
                        self._build(node)
                    continue
                for v in node.values:
                    self.lacks.pop(v, None)
            operands = tuple([self._whole(v) for v in node.operands])
            if operands == node.operands:
                self.b.append(node)
                continue
            copied = Node(node.op, operands, node.types, node.name, node.source)
            self.new.update(zip(node.values, self.b.append(copied), strict=True))
        outputs = [self._whole(v) for v in self.graph.outputs]
        return self.graph.with_nodes(self.b._nodes, outputs)

    def _build(self, node: Node) -> None:
        carried = self.carried.get(node)
        if carried is None:
            # A view: its base is what it was applied to, or the base of that.
            (x,) = node.operands
            self.new[Value(node, 0)] = self.new.get(x, x)
            return
        operands = [
            self._whole(v) if wanted is None else self._base(v, wanted)
            for v, wanted in zip(node.operands, carried.operands, strict=True)
        ]
        self.new.update(zip(node.values, self.b.multi(carried.op, *operands, name=node.name), strict=True))

    def _whole(self, v: Value) -> Value:
        new = self.new.get(v, v)
        lack = self.lacks.get(v)
        if lack is None:
            return new
        if v not in self.whole:
            with self.b.at(v.node.source):
                self.whole[v] = self.view.put_back(self.b, new, v, lack)
        return self.whole[v]

    def _base(self, v: Value, wanted: Lack) -> Value:
        new = self.new.get(v, v)
        if self.lacks.get(v) == wanted:
            return new
        if (v, wanted) not in self.bases:
            with self.b.at(v.node.source):
                self.bases[v, wanted] = self.view.base(self.b, new, v, wanted)
        return self.bases[v, wanted]
