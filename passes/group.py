"""Groups nodes into what a target compiles to one kernel."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from hardy.compiler.ir import Builder, Constant, Graph, Node, Op, Value, remap
from hardy.compiler.ledger import ledger
from hardy.compiler.ops.group import Group
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import TensorType
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.properties import along_axis, is_elementwise


@dataclass(frozen=True)
class Anchor:
    """What may join the kernel of one op.

    `kind` is the group's; `producers` and `consumers` say whether elementwise nodes before and
    after it may join; `chain` lists further anchor ops that may follow inside the same group.
    """

    kind: str
    producers: bool = False
    consumers: bool = True
    chain: frozenset[type[Op]] = frozenset()


def accept_all(anchor: Node, member: Node) -> bool:
    return True


@dataclass(frozen=True)
class GroupPolicy:
    """What a target can compile to one kernel.

    `anchors` maps ops to how groups form around them. `elementwise` are the ops that may join an
    anchor or form groups of their own, of kind "elementwise"; None stands for all elementwise ops.
    `widening` are those that may also join as what computes an operand of a node after the anchor: ops
    whose own operand is smaller than their result, such as dequantize.
    A group has at most `nodes` nodes (constants not counted), `operands` operands and `outputs`
    results. The operands of nodes that follow an anchor have the shape of its result ("same"), one
    element ("scalar"), or are a vector along the last axis ("last") or axis 1 ("channel"), or one over all
    axes but the last ("row"): `shapes` lists those allowed. `accept(anchor, member)` has the last word;
    without an anchor it gets the group's first node. With `singles` off, a node that nothing joins stays
    as it is.
    """

    anchors: Mapping[type[Op], Anchor] = field(default_factory=dict)
    elementwise: frozenset[type[Op]] | None = None
    widening: frozenset[type[Op]] = frozenset()
    nodes: int = 32
    operands: int = 16
    outputs: int = 1
    shapes: frozenset[str] = frozenset({"same", "scalar", "last", "channel"})
    accept: Callable[[Node, Node], bool] = accept_all
    singles: bool = True

    def joins(self, node: Node) -> bool:
        """Whether the node is elementwise and of an op that may be grouped."""
        if len(node.types) != 1 or not is_elementwise(node.op):
            return False
        return self.elementwise is None or type(node.op) in self.elementwise


@dataclass(frozen=True)
class FormGroups(Pass):
    """Put nodes that a target can compile to one kernel into group nodes.

    A group starts at an anchor, or at an elementwise node that no anchor took, and grows by the
    earliest node that uses its results, as long as that node may join. So nothing outside that
    depends on a group runs before the group's last node, and no order of groups has a cycle. No
    node is in two groups; only constants of one element are copied.
    """

    name: ClassVar[str] = "group"

    policy: GroupPolicy = field(default_factory=GroupPolicy)

    def run(self, graph: Graph) -> Graph:
        return _Grouper(graph, self.policy).run()


class _Grouper:
    def __init__(self, graph: Graph, policy: GroupPolicy) -> None:
        self.graph = graph
        self.policy = policy
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        self.users = graph.users()
        self.outputs = set(graph.outputs)
        self.owner: dict[Node, int] = {}
        self.groups: list[tuple[str, list[Node]]] = []

    def run(self) -> Graph:
        policy = self.policy
        # Nodes that are groups already stay; they are nobody's anchor.
        for node in self.graph.nodes:
            anchor = policy.anchors.get(type(node.op))
            if anchor is not None and node not in self.owner:
                self._form(anchor.kind, _Growth(self, node, anchor))
        for node in self.graph.nodes:
            if node not in self.owner and policy.joins(node):
                self._form("elementwise", _Growth(self, node, None))
        if not self.groups:
            return self.graph
        # Constants of one element now live inside the groups.
        return EliminateDeadCode().run(self._build())

    def _form(self, kind: str, growth: _Growth) -> None:
        members = growth.run()
        if len(members) == 1 and not self.policy.singles:
            return
        if not ledger().take(f"group {kind}"):
            return
        for node in members:
            self.owner[node] = len(self.groups)
        self.groups.append((kind, sorted(members, key=self.position.__getitem__)))

    def _build(self) -> Graph:
        """Each group stands where its last node stood."""
        b = Builder(self.graph.name)
        mapping: dict[Value, Value] = {}
        for node in self.graph.nodes:
            owner = self.owner.get(node)
            if owner is None:
                copied = remap(node, mapping)
                b.append(copied)
                if copied is not node:
                    mapping.update(zip(node.values, copied.values, strict=True))
                continue
            kind, members = self.groups[owner]
            if node is members[-1]:
                self._append_group(b, kind, members, mapping)
        return self.graph.with_nodes(b._nodes, [mapping.get(v, v) for v in self.graph.outputs])

    def _append_group(
        self, b: Builder, kind: str, members: Sequence[Node], mapping: dict[Value, Value]
    ) -> None:
        body = Builder(kind)
        inner: dict[Value, Value] = {}
        operands: list[Value] = []
        for v in self.external(members):
            if _is_scalar_constant(v):
                inner[v] = body.append(v.node)[v.index]
            else:
                inner[v] = body.input(f"x{len(operands)}", v.type)
                operands.append(mapping.get(v, v))
        for node in members:
            copied = Node(node.op, tuple(inner[v] for v in node.operands), node.types, node.name, node.source)
            inner.update(zip(node.values, body.append(copied), strict=True))
        results = self.open_values(members)
        graph = body.finish({f"y{i}": inner[v] for i, v in enumerate(results)})
        sources = dict.fromkeys(s for n in members for s in n.source.split(" + ") if s)
        group = Node(
            Group(kind, graph),
            tuple(operands),
            tuple(v.type for v in results),
            members[-1].name,
            " + ".join(sources),
        )
        mapping.update(zip(results, b.append(group), strict=True))

    def external(self, members: Sequence[Node]) -> list[Value]:
        """What the members use and do not compute, once each, in order of use."""
        inside = set(members)
        return list(dict.fromkeys(v for n in members for v in n.operands if v.node not in inside))

    def open_values(self, members: Sequence[Node]) -> list[Value]:
        """The members' results that are needed outside."""
        inside = set(members)
        return [
            v
            for n in members
            for v in n.values
            if v in self.outputs or any(u not in inside for u in self.users.get(v, ()))
        ]


class _Growth:
    """One group while it grows."""

    def __init__(self, grouper: _Grouper, start: Node, anchor: Anchor | None) -> None:
        self.g = grouper
        self.policy = grouper.policy
        self.start = start
        self.anchor = anchor
        self.shape = start.types[0].shape
        self.members: dict[Node, None] = {}
        self.queue: list[tuple[int, Node]] = []
        # How often results of members are used outside; graph outputs count.
        self.pending: dict[Value, int] = {}

    def run(self) -> list[Node]:
        self._add(self.start)
        if self.anchor is None or self.anchor.producers:
            self._absorb_producers(self.start)
        best = list(self.members)
        if self.anchor is not None and not self.anchor.consumers and not self.anchor.chain:
            return best
        while self.queue and len(self.members) < self.policy.nodes:
            node = heapq.heappop(self.queue)[1]
            if node in self.members:
                continue
            if not self._may_follow(node):
                break
            self._add(node)
            if self.anchor is None or type(node.op) in self.anchor.chain:
                self._absorb_producers(node)
            elif self.policy.widening:
                self._absorb_widening(node)
            if len(self.pending) <= self.policy.outputs:
                if self._operand_count() > self.policy.operands:
                    break
                best = list(self.members)
        return best

    def _add(self, node: Node) -> None:
        g = self.g
        self.members[node] = None
        for v in node.operands:
            if v in self.pending:
                self.pending[v] -= 1
                if not self.pending[v]:
                    del self.pending[v]
        for v in node.values:
            users = g.users.get(v, ())
            count = sum(u not in self.members for u in users) + (v in g.outputs)
            if count:
                self.pending[v] = count
            for user in users:
                if user not in self.members:
                    heapq.heappush(self.queue, (g.position[user], user))

    def _operand_count(self, *more: Node) -> int:
        return sum(not _is_scalar_constant(v) for v in self.g.external([*more, *self.members]))

    def _may_follow(self, node: Node) -> bool:
        if node in self.g.owner or not self.policy.accept(self.start, node):
            return False
        if self.anchor is None:
            return self.policy.joins(node) and node.types[0].shape == self.shape
        if type(node.op) in self.anchor.chain:
            self.shape = node.types[0].shape
            return True
        if not self.anchor.consumers or not self.policy.joins(node) or node.types[0].shape != self.shape:
            return False
        return all(v.node in self.members or self._allows(node, v) for v in node.operands)

    def _allows(self, node: Node, operand: Value) -> bool:
        """Whether an outside operand of a node after the anchor has a shape that is allowed."""
        if along_axis(type(node.op)):
            axis: int = getattr(node.op, "axis", 0)
            return bool(operand_shapes_along(node.types[0], operand.type, axis) & self.policy.shapes)
        return bool(operand_shapes(node.types[0], operand.type) & self.policy.shapes)

    def _absorb_producers(self, node: Node) -> None:
        """Take elementwise nodes that compute operands for members only."""
        stack = [node]
        while stack and len(self.members) < self.policy.nodes:
            user = stack.pop()
            for v in user.operands:
                if self._may_precede(v, user):
                    self._add(v.node)
                    stack.append(v.node)

    def _absorb_widening(self, node: Node) -> None:
        for v in node.operands:
            if type(v.op) in self.policy.widening and self._may_precede(v, node):
                self._add(v.node)

    def _may_precede(self, v: Value, user: Node) -> bool:
        node = v.node
        if node in self.members or node in self.g.owner or v in self.g.outputs or not self.policy.joins(node):
            return False
        shape = self.shape if self.anchor is None else user.operands[0].type.shape
        return (
            v.type.shape == shape
            and len(self.members) < self.policy.nodes
            and all(u in self.members for u in self.g.users[v])
            and self._operand_count(node) <= self.policy.operands
            and self.policy.accept(self.start, node)
        )


def operand_shapes(result: TensorType, operand: TensorType) -> set[str]:
    """How an operand that broadcasts lies in a result: some of same, scalar, last, channel, row."""
    found = set()
    if operand.shape == result.shape:
        found.add("same")
    if operand.size == 1:
        found.add("scalar")
    wide = (1,) * (result.rank - operand.rank) + operand.shape
    axes = [i for i, n in enumerate(wide) if n != 1]
    if result.rank and wide == (*result.shape[:-1], 1):
        found.add("row")
    if len(axes) <= 1:
        if axes == [result.rank - 1]:
            found.add("last")
        if axes == [1]:
            found.add("channel")
    return found


def operand_shapes_along(result: TensorType, operand: TensorType, axis: int) -> set[str]:
    """The same for a vector, or scalar, that an op applies along an axis."""
    if operand.shape == result.shape:
        return {"same"}
    if operand.size == 1:
        return {"scalar"}
    # Of a matrix, both.
    return {name for name, a in (("last", result.rank - 1), ("channel", 1)) if a == axis}


def _is_scalar_constant(v: Value) -> bool:
    return isinstance(v.node.op, Constant) and v.type.size == 1
