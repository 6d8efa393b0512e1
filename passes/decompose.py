"""Expands composites into what a target takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hardy.compiler.errors import HardyError, Refusal, UnsupportedError
from hardy.compiler.ir import Builder, Constant, Graph, Input, Node, Op, Value, decompose, remap, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.pipeline import Pass

# Answers true for a node that is taken; what is false may carry a `reason`.
Predicate = Callable[[Node], Any]


@dataclass(frozen=True)
class Decompose(Pass):
    """Expand composites, again and again, until every node is taken.

    `supports` is a predicate, such as a target's `supports`, or the names of ops that are kept
    whole beside the core ops; by default all composites are expanded. Core ops have nothing to
    expand into: what is refused of them raises UnsupportedError with op, source and reason.
    """

    supports: Predicate | frozenset[str] | tuple[str, ...] = ()

    def run(self, graph: Graph) -> Graph:
        takes = self.supports if callable(self.supports) else self._by_name(frozenset(self.supports))
        refused: list[Refusal] = []
        book = ledger()

        def expand(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            if isinstance(node.op, Constant):
                return None
            if operands != node.operands:
                node = Node(node.op, operands, node.types, node.name, node.source)
                return self._expand(b, node, takes, refused, book.take) or b.append(node)
            return self._expand(b, node, takes, refused, book.take)

        result = transform(graph, expand)
        if refused:
            raise UnsupportedError("not every node is supported", refusals=refused)
        return result

    @staticmethod
    def _by_name(names: frozenset[str]) -> Predicate:
        return lambda node: node.op.is_core() or node.op.name in names

    def _expand(
        self,
        b: Builder,
        node: Node,
        takes: Predicate,
        refused: list[Refusal],
        allowed: Callable[[str], bool],
    ) -> Sequence[Value] | None:
        answer = takes(node)
        if answer:
            return None
        reason = getattr(answer, "reason", "") or "the target does not take it"
        op = node.op
        if op.is_core():
            refused.append(Refusal(op.name, node.source, reason))
            return None
        if not allowed(f"expand {op.name}"):
            return None
        scratch, results = expansion(node)
        mapping: dict[Value, Value] = {}
        for part in scratch:
            part_on = remap(part, mapping)
            new = None
            if not isinstance(part.op, Constant):
                new = self._expand(b, part_on, takes, refused, allowed)
            if new is None:
                new = b.append(part_on)
            for old, value in zip(part.values, new, strict=True):
                if old != value:
                    mapping[old] = value
        return [mapping.get(v, v) for v in results]


def expansion(node: Node) -> tuple[list[Node], tuple[Value, ...]]:
    """A composite's decomposition: its nodes and the values that stand for its results."""
    b = Builder()
    op: Op = node.op
    try:
        with b.at(node.source):
            values = decompose(b, node, node.operands)
    except HardyError as error:
        raise UnsupportedError(
            f"{op.name} does not decompose: {error.message}",
            where=error.where or node.source,
            hint=error.hint,
        ) from error
    if any(isinstance(n.op, Input) for n in b._nodes):
        raise UnsupportedError(f"the decomposition of {op.name} declares inputs", where=node.source)
    return b._nodes, values
