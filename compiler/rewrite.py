"""Rewriting: patterns written the way graphs are built, rules over them, and the driver.

    class MulByOne(Rule):
        def pattern(self, p, x):
            return p(Mul, x, 1)

        def rewrite(self, b, m):
            return m["x"]

    graph = apply_rules(graph, [MulByOne()])

The matcher tries both orders of a commutative op's operands. A node inside a match must not be
needed outside of it, or the work it does would be repeated; a rule that loses nothing by that says
`shares = True`. `explain` says why a rule does not match at a node.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from hardy.compiler.errors import GraphError
from hardy.compiler.ir import Builder, Constant, Graph, Input, Node, Op, Value
from hardy.compiler.ledger import Ledger, ledger
from hardy.compiler.matching.match import Match
from hardy.compiler.matching.pattern import Pattern
from hardy.compiler.matching.search import Search
from hardy.compiler.matching.terms import AnyConstant, Apply, Either, Scalar, Term, Variable

__all__ = ["Match", "Pattern", "Rule", "Term", "apply_rules", "count_uses", "explain", "settle"]

# A rule set that still finds work after so many sweeps rewrites in circles.
MAX_SWEEPS = 64
MAX_REPEATS = 256


class Rule(ABC):
    """Replaces what a pattern matches. The parameters of `pattern` after `p` are its variables."""

    # Whether nodes inside the match may be needed elsewhere.
    shares: ClassVar[bool] = False

    @abstractmethod
    def pattern(self, p: Pattern, *variables: Any, **unused: Any) -> Term:
        """What to look for; the root is the node to replace."""

    def check(self, m: Match) -> bool | str:
        """True to go on; False, or better the reason, to refuse."""
        return True

    @abstractmethod
    def rewrite(self, b: Builder, m: Match) -> Value | tuple[Value, ...]:
        """The values that replace the root's results, of the same types."""

    @property
    def label(self) -> str:
        return type(self).__name__

    @functools.cached_property
    def term(self) -> Term:
        names = list(inspect.signature(self.pattern).parameters)[1:]
        return self.pattern(Pattern(), *map(Variable, names))

    def roots(self) -> tuple[type[Op], ...]:
        """The ops that the root can be."""
        return _roots(self.term, self.label)

    def needs(self, op: type[Op]) -> Needs:
        """What the operands of a root of this op must be for the rule to have a chance."""
        return _needs(self.term, op)

    def match(self, node: Node, uses: Mapping[Value, int]) -> Match | None:
        return Search(node, uses, self.shares, self.check).run(self.term)


def _roots(term: Term, label: str) -> tuple[type[Op], ...]:
    if isinstance(term, Apply):
        return term.ops
    if isinstance(term, Either):
        return tuple(op for t in term.terms for op in _roots(t, label))
    raise GraphError(f"the pattern of {label} has no op at its root")


# Ways to match; for each, the ops of which one operand must be, for every telling operand.
Needs = tuple[tuple[frozenset[type[Op]], ...], ...]


def _needs(term: Term, op: type[Op]) -> Needs:
    if isinstance(term, Either):
        return tuple(way for t in term.terms for way in _needs(t, op))
    assert isinstance(term, Apply)
    if op not in term.ops:
        return ()
    return (tuple(ops for t in term.operands or () if (ops := _ops_of(t))),)


def _ops_of(term: Term) -> frozenset[type[Op]]:
    """The ops whose results a term can match; empty for any."""
    if isinstance(term, Apply):
        return frozenset(term.ops)
    if isinstance(term, Scalar | AnyConstant):
        return frozenset((Constant,))
    if isinstance(term, Either):
        parts = [_ops_of(t) for t in term.terms]
        return frozenset().union(*parts) if all(parts) else frozenset()
    return frozenset()


def count_uses(graph: Graph) -> dict[Value, int]:
    """How often each value is used, by nodes and as an output."""
    uses: dict[Value, int] = {}
    for node in graph.nodes:
        for v in node.operands:
            uses[v] = uses.get(v, 0) + 1
    for v in graph.outputs:
        uses[v] = uses.get(v, 0) + 1
    return uses


def explain(rule: Rule, graph: Graph, node: Node) -> str:
    """Why the rule does not match at this node, from the attempt that got furthest; "" where it does."""
    search = Search(node, count_uses(graph), rule.shares, rule.check, explain=True)
    if search.run(rule.term):
        return ""
    _, reason, at = search.deepest
    where = f"{at.op.name}{f' {at.name}' if at.name else ''}: {at.type}"
    return f"{rule.label}: {reason}, at {where}" + (f" ({at.source})" if at.source else "")


def apply_rules(graph: Graph, rules: Iterable[Rule]) -> Graph:
    """Apply rules until none matches, in sweeps of linear time; the same object where none does.

    Earlier rules win. Raises GraphError where a rule changes a type, or rules chase each other.
    """
    index: dict[type[Op], list[tuple[Rule, Needs]]] = {}
    for rule in rules:
        for op in dict.fromkeys(rule.roots()):
            index.setdefault(op, []).append((rule, rule.needs(op)))
    book = ledger()
    for _ in range(MAX_SWEEPS):
        after = _Sweep(graph, index, book).run()
        if after is graph:
            return graph
        graph = after
    raise GraphError(f"the rules do not come to rest; applied: {', '.join(book.counts)}")


def settle(graph: Graph, *steps: Callable[[Graph], Graph]) -> Graph:
    """Repeat steps in order until none changes the graph, at most `MAX_SWEEPS` times."""
    for _ in range(MAX_SWEEPS):
        before = graph
        for step in steps:
            graph = step(graph)
        if graph is before:
            break
    return graph


Index = Mapping[type[Op], Sequence[tuple[Rule, Needs]]]


class _Sweep:
    """One pass over a graph in order. Use counts are kept exact throughout, so that a match knows
    whether the nodes it would swallow are needed elsewhere."""

    def __init__(self, graph: Graph, index: Index, book: Ledger) -> None:
        self.graph = graph
        self.index = index
        self.book = book
        self.uses = count_uses(graph)
        self.b = Builder(graph.name)
        self.nodes = self.b._nodes
        self.dead: set[Node] = set()
        self.mapping: dict[Value, Value] = {}

    def run(self) -> Graph:
        get, index = self.mapping.get, self.index
        applied = False
        for node in self.graph.nodes:
            current = node
            if self.mapping:
                operands = tuple([get(v, v) for v in node.operands])
                if operands != node.operands:
                    current = Node(node.op, operands, node.types, node.name, node.source)
                    for old, new in zip(node.values, current.values, strict=True):
                        self.uses[new] = self.uses.get(old, 0)
                        self.mapping[old] = new
            self.nodes.append(current)
            if type(node.op) in index:
                applied |= self._rewrite(node, current)
        if not applied:
            return self.graph
        nodes = [n for n in self.nodes if n not in self.dead]
        return self.graph.with_nodes(nodes, [get(v, v) for v in self.graph.outputs])

    def _rewrite(self, original: Node, current: Node) -> bool:
        """Rewrite the node, and what it becomes, until no rule matches."""
        for repeat in range(MAX_REPEATS):
            if not any(self.uses.get(v) for v in current.values):
                return repeat > 0  # dead already
            found = self._first_match(current)
            if found is None:
                return repeat > 0
            rule, match = found
            if not self.book.take(rule.label):
                return repeat > 0
            new = self._replace(rule, match, current)
            for old, value in zip(original.values, new, strict=True):
                self.mapping[old] = value
            if len(new) != 1 or new[0].node is not self.nodes[-1] or new[0].index:
                return True
            current = new[0].node
        raise GraphError(f"{rule.label} does not come to rest at {original.op.name}", where=original.source)

    def _first_match(self, node: Node) -> tuple[Rule, Match] | None:
        rules = self.index.get(type(node.op))
        if not rules:
            return None
        around = {type(v.node.op) for v in node.operands}
        for rule, needs in rules:
            if not any(all(not around.isdisjoint(ops) for ops in way) for way in needs):
                continue
            match = rule.match(node, self.uses)
            if match is not None:
                return rule, match
        return None

    def _replace(self, rule: Rule, match: Match, current: Node) -> tuple[Value, ...]:
        start = len(self.nodes)
        with self.b.at(current.source):
            result = rule.rewrite(self.b, match)
        new = (result,) if isinstance(result, Value) else result
        for value, expected in zip(new, current.types, strict=True):
            if value.type != expected:
                raise GraphError(
                    f"{rule.label} replaces a result of type {expected} by one of {value.type}",
                    where=f"{current.op.name}, {current.source}",
                )
        self._keep_name(start, current, new)
        new = tuple(self._renamed.get(v, v) for v in new)
        created = self.nodes[start:]
        for node in created:
            for v in node.operands:
                self.uses[v] = self.uses.get(v, 0) + 1
        for old, value in zip(current.values, new, strict=True):
            self.uses[value] = self.uses.get(value, 0) + self.uses.pop(old, 0)
        self._kill(current)
        for node in reversed(created):
            if not any(self.uses.get(v) for v in node.values) and node not in self.dead:
                self._kill(node)
        return new

    def _keep_name(self, start: int, current: Node, new: tuple[Value, ...]) -> None:
        """A new last node without a name takes the name of what it replaces."""
        self._renamed: dict[Value, Value] = {}
        last = self.nodes[-1]
        if len(self.nodes) > start and current.name and not last.name and new[0].node is last:
            named = Node(last.op, last.operands, last.types, current.name, last.source)
            self.nodes[-1] = named
            self._renamed = dict(zip(last.values, named.values, strict=True))

    def _kill(self, node: Node) -> None:
        """Drop a node, and the operands that nobody else uses."""
        stack = [node]
        while stack:
            gone = stack.pop()
            self.dead.add(gone)
            for v in gone.operands:
                self.uses[v] -= 1
                unused = not any(self.uses.get(o) for o in v.node.values)
                if unused and v.node not in self.dead and not isinstance(v.node.op, Input):
                    stack.append(v.node)
