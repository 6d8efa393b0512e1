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
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from hardy.compiler.errors import GraphError
from hardy.compiler.ir import Builder, Constant, Graph, Input, Node, Op, Value
from hardy.compiler.ops.elementwise import Add, And, Equal, Max, Min, Mul, Or, Xor
from hardy.compiler.types import DType, TensorType

COMMUTATIVE: frozenset[type[Op]] = frozenset({Add, Mul, Max, Min, Equal, And, Or, Xor})

# A rule set that still finds work after so many sweeps rewrites in circles.
MAX_SWEEPS = 64
MAX_REPEATS = 256


# Counting


@dataclass
class Ledger:
    """Counts rewrites by label. After `limit` of them none is allowed any more, which is how a bad
    rewrite is found by bisection."""

    limit: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    total: int = 0

    def take(self, label: str) -> bool:
        """Count one rewrite; False, counting nothing, where the limit is reached."""
        if self.limit is not None and self.total >= self.limit:
            return False
        self.total += 1
        self.counts[label] = self.counts.get(label, 0) + 1
        return True


_current: ContextVar[Ledger | None] = ContextVar("ledger", default=None)


def ledger() -> Ledger:
    """The ledger that rewrites are counted in here; outside `recording`, a new one without a limit."""
    return _current.get() or Ledger()


@contextmanager
def recording(book: Ledger) -> Iterator[Ledger]:
    """Rewrites made inside are counted in `book`."""
    token = _current.set(book)
    try:
        yield book
    finally:
        _current.reset(token)


# Patterns


class Term(ABC):
    """A part of a pattern: matches some values."""

    # Terms that exclude most values are tried first.
    rank: ClassVar[int] = 1

    @abstractmethod
    def match(self, search: Search, value: Value, rest: Goals) -> bool:
        """Whether this term matches `value` and then `rest` can be solved."""


Goals = tuple[Term, Value, "Goals"] | None


@dataclass(frozen=True, eq=False)
class Variable(Term):
    """Any value; the same one wherever the variable occurs."""

    name: str
    rank: ClassVar[int] = 2

    def match(self, search: Search, value: Value, rest: Goals) -> bool:
        bound = search.values.get(self.name)
        if bound is not None:
            return bound == value and search.solve(rest) or (
                bound != value and search.fail(f"{self.name} stands for two different values", value)
            )
        search.values[self.name] = value
        if search.solve(rest):
            return True
        del search.values[self.name]
        return False


@dataclass(frozen=True, eq=False)
class AnyConstant(Term):
    """Any constant, under a name."""

    name: str
    rank: ClassVar[int] = 0

    def match(self, search: Search, value: Value, rest: Goals) -> bool:
        if not isinstance(value.node.op, Constant):
            return search.fail(f"{self.name} must be a constant", value)
        return Variable(self.name).match(search, value, rest)


@dataclass(frozen=True, eq=False)
class Scalar(Term):
    """A constant of one element: of a given value within rounding, or any, captured under a name."""

    value: float | None = None
    name: str = ""
    rank: ClassVar[int] = 0

    def match(self, search: Search, value: Value, rest: Goals) -> bool:
        literal = value.literal
        if literal is None or literal.type.size != 1:
            wanted = "a constant scalar" if self.value is None else f"the constant {self.value:g}"
            return search.fail(f"expected {wanted}", value)
        number = literal.item()
        if self.value is not None and not same_number(number, self.value, literal.type.dtype):
            return search.fail(f"expected the constant {self.value:g}, got {number:g}", value)
        if not self.name:
            return search.solve(rest)
        return search.bind(self.name, float(number), value, rest)


@dataclass(frozen=True, eq=False)
class Capture:
    """Stands for an attribute's value: takes it under a name where `predicate` holds."""

    name: str
    predicate: Callable[[Any], bool] | None = None


@dataclass(frozen=True, eq=False)
class Apply(Term):
    """A node: one of some ops, with attributes, on operands.

    An attribute matches a value by equality, a callable by its answer, a `Capture` always.
    """

    ops: tuple[type[Op], ...]
    operands: tuple[Term, ...]
    exactly: Op | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    rank: ClassVar[int] = 1

    def match(self, search: Search, value: Value, rest: Goals) -> bool:
        known = search.terms.get(self)
        if known is not None:
            if known == value:
                return search.solve(rest)
            return search.fail(f"two different {self.describe()} where the pattern has one", value)
        node = value.node
        op = node.op
        if type(op) not in self.ops:
            return search.fail(f"expected {self.describe()}", value)
        if value.index != 0:
            return search.fail(f"expected the first result of {op.name}", value)
        if self.exactly is not None and op != self.exactly:
            return search.fail(f"expected {self.exactly}, got {op}", value)
        if len(node.operands) != len(self.operands):
            return search.fail(f"expected {len(self.operands)} operands", value)
        if not self._keeps_shape(node):
            return search.fail("the scalar changes the shape", value)
        search.terms[self] = value
        if search.bind_attributes(tuple(self.attributes.items()), value, lambda: self._operands(search, node, rest)):
            return True
        del search.terms[self]
        return False

    def _operands(self, search: Search, node: Node, rest: Goals) -> bool:
        if search.solve(self._goals(node.operands, rest)):
            return True
        swaps = type(node.op) in COMMUTATIVE and node.operands[0] != node.operands[1]
        return swaps and search.solve(self._goals(node.operands[::-1], rest))

    def _goals(self, operands: Sequence[Value], rest: Goals) -> Goals:
        for i in self._order:
            rest = (self.operands[i], operands[i], rest)
        return rest

    @functools.cached_property
    def _order(self) -> tuple[int, ...]:
        """Operand positions, the most telling last, because goals are stacked."""
        return tuple(sorted(range(len(self.operands)), key=lambda i: -self.operands[i].rank))

    @functools.cached_property
    def _has_scalar(self) -> bool:
        return len(self.operands) > 1 and any(isinstance(t, Scalar) for t in self.operands)

    def _keeps_shape(self, node: Node) -> bool:
        """With a scalar for an operand, another operand must have the whole shape of the result."""
        if not self._has_scalar:
            return True
        shape = node.types[0].shape
        return any(v.type.shape == shape and (v.literal is None or not v.type.rank) for v in node.operands)

    def describe(self) -> str:
        return " or ".join(op.name for op in self.ops)


@dataclass(frozen=True, eq=False)
class Either(Term):
    """The first of several terms that matches."""

    terms: tuple[Term, ...]

    def match(self, search: Search, value: Value, rest: Goals) -> bool:
        return any(search.solve((term, value, rest)) for term in self.terms)


Operand = Term | float


class Pattern:
    """Builds the terms of a pattern; stands where a graph's builder would."""

    def __call__(
        self, op: Op | type[Op] | tuple[type[Op], ...], *operands: Operand, name: str = "", **attributes: Any
    ) -> Term:
        """A node with one result. An op instance must match exactly; a class may state attributes."""
        terms = tuple(map(self._term, operands))
        if isinstance(op, Op):
            return Apply((type(op),), terms, exactly=op, name=name)
        return Apply(op if isinstance(op, tuple) else (op,), terms, attributes=attributes, name=name)

    @staticmethod
    def _term(operand: Operand) -> Term:
        return operand if isinstance(operand, Term) else Scalar(float(operand))

    def scalar(self, name: str) -> Term:
        """Any constant of one element; `Match.attribute(name)` is its value."""
        return Scalar(name=name)

    def constant(self, name: str) -> Term:
        """Any constant; `match[name]` is its value in the graph."""
        return AnyConstant(name)

    def attribute(self, name: str, predicate: Callable[[Any], bool] | None = None) -> Capture:
        """Captures an attribute; `Match.attribute(name)` is its value."""
        return Capture(name, predicate)

    def either(self, *terms: Operand) -> Term:
        """The first of several terms that matches."""
        return Either(tuple(map(self._term, terms)))

    def maybe(self, op: type[Op] | tuple[type[Op], ...], term: Operand, **attributes: Any) -> Term:
        """`term`, with or without a unary op around it."""
        return self.either(self(op, term, **attributes), term)

    def product(self, *factors: Operand) -> Term:
        """A product of these factors in any order and association."""
        return self._chain(Mul, tuple(map(self._term, factors)))

    def sum(self, *terms: Operand) -> Term:
        """A sum of these terms in any order and association."""
        return self._chain(Add, tuple(map(self._term, terms)))

    def _chain(self, op: type[Op], terms: tuple[Term, ...]) -> Term:
        if len(terms) == 1:
            return terms[0]
        if len(terms) == 2:
            return Apply((op,), terms)
        first, others = terms[0], terms[1:]
        splits = []
        for count in range(len(others)):
            for chosen in itertools.combinations(range(len(others)), count):
                left = (first, *[others[i] for i in chosen])
                right = tuple(t for i, t in enumerate(others) if i not in chosen)
                splits.append(Apply((op,), (self._chain(op, left), self._chain(op, right))))
        return Either(tuple(splits))


def same_number(a: float, b: float, dtype: DType) -> bool:
    """Equal but for the rounding of constants in a file or in the type itself."""
    if not dtype.is_float or a == b:
        return a == b
    near = max(4 * torch.finfo(dtype.torch).eps, 1e-8)
    return math.isclose(a, b, rel_tol=near)


# Matching


class Search:
    """One attempt to match: a depth-first search over the orders of commutative operands."""

    def __init__(self, rule: Rule, root: Node, uses: Mapping[Value, int], explain: bool = False) -> None:
        self.rule = rule
        self.root = root
        self.uses = uses
        self.values: dict[str, Value] = {}
        self.attributes: dict[str, Any] = {}
        self.terms: dict[Apply, Value] = {}
        self.explain = explain
        self.deepest = (-1, "", root)
        self.found: Match | None = None

    def run(self, term: Term) -> Match | None:
        return self.found if self.solve((term, Value(self.root, 0), None)) else None

    def solve(self, goals: Goals) -> bool:
        if goals is None:
            return self._accept()
        term, value, rest = goals
        return term.match(self, value, rest)

    def fail(self, reason: str, value: Value) -> bool:
        if self.explain and len(self.terms) + len(self.values) > self.deepest[0]:
            self.deepest = (len(self.terms) + len(self.values), reason, value.node)
        return False

    def bind(self, name: str, attribute: Any, value: Value, rest: Goals) -> bool:
        return self.bind_attributes(((name, Capture(name)),), value, lambda: self.solve(rest), {name: attribute})

    def bind_attributes(
        self,
        wanted: tuple[tuple[str, Any], ...],
        value: Value,
        then: Callable[[], bool],
        given: Mapping[str, Any] | None = None,
    ) -> bool:
        """Check and capture attributes, then go on; undo what was captured where that fails."""
        captured: list[str] = []
        if self._check_attributes(wanted, value, given, captured) and then():
            return True
        for name in captured:
            del self.attributes[name]
        return False

    def _check_attributes(
        self,
        wanted: tuple[tuple[str, Any], ...],
        value: Value,
        given: Mapping[str, Any] | None,
        captured: list[str],
    ) -> bool:
        for key, expected in wanted:
            actual = given[key] if given else getattr(value.node.op, key)
            predicate = expected.predicate if isinstance(expected, Capture) else expected
            if callable(predicate):
                if not predicate(actual):
                    return self.fail(f"{key}={actual!r} does not fit", value)
            elif not isinstance(expected, Capture) and actual != expected:
                return self.fail(f"expected {key}={expected!r}, got {actual!r}", value)
            if isinstance(expected, Capture):
                if expected.name not in self.attributes:
                    self.attributes[expected.name] = actual
                    captured.append(expected.name)
                elif self.attributes[expected.name] != actual:
                    before = self.attributes[expected.name]
                    return self.fail(f"{expected.name} is both {before!r} and {actual!r}", value)
        return True

    def _accept(self) -> bool:
        nodes = {v.node for v in self.terms.values()}
        if not self.rule.shares:
            inside: dict[Value, int] = {}
            for node in nodes:
                for v in node.operands:
                    inside[v] = inside.get(v, 0) + 1
            for node in nodes:
                if node is self.root:
                    continue
                for v in node.values:
                    if self.uses.get(v, 0) != inside.get(v, 0):
                        return self.fail(f"the result of {node.op.name} is needed outside of the pattern", v)
        match = Match(
            self.root,
            dict(self.values),
            dict(self.attributes),
            {t.name: v.node for t, v in self.terms.items() if t.name},
        )
        verdict = self.rule.check(match)
        if verdict is not True:
            return self.fail(verdict or "the rule's own check refuses", Value(self.root, 0))
        self.found = match
        return True


@dataclass(frozen=True)
class Match:
    """What a pattern's names stand for. `root` is the node that gets replaced."""

    root: Node
    values: Mapping[str, Value]
    attributes: Mapping[str, Any]
    nodes: Mapping[str, Node]

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def attribute(self, name: str) -> Any:
        """A captured attribute, or the number of a captured scalar."""
        return self.attributes[name]

    def number(self, name: str) -> float:
        return float(self.attributes[name])

    def node(self, name: str) -> Node:
        """The node of the term that was given this `name`."""
        return self.nodes[name]

    @property
    def type(self) -> TensorType:
        return self.root.type


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

    def match(self, node: Node, uses: Mapping[Value, int]) -> Match | None:
        return Search(self, node, uses).run(self.term)


def _roots(term: Term, label: str) -> tuple[type[Op], ...]:
    if isinstance(term, Apply):
        return term.ops
    if isinstance(term, Either):
        return tuple(op for t in term.terms for op in _roots(t, label))
    raise GraphError(f"the pattern of {label} has no op at its root")


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
    search = Search(rule, node, count_uses(graph), explain=True)
    if search.run(rule.term):
        return ""
    _, reason, at = search.deepest
    where = f"{at.op.name}{f' {at.name}' if at.name else ''}: {at.type}"
    return f"{rule.label}: {reason}, at {where}" + (f" ({at.source})" if at.source else "")


# Driving


def apply_rules(graph: Graph, rules: Iterable[Rule]) -> Graph:
    """Apply rules until none matches, in sweeps of linear time; the same object where none does.

    Earlier rules win. Raises GraphError where a rule changes a type, or rules chase each other.
    """
    index: dict[type[Op], list[Rule]] = {}
    for rule in rules:
        for op in dict.fromkeys(rule.roots()):
            index.setdefault(op, []).append(rule)
    book = ledger()
    for _ in range(MAX_SWEEPS):
        after = _Sweep(graph, index, book).run()
        if after is graph:
            return graph
        graph = after
    raise GraphError(f"the rules do not come to rest; applied: {', '.join(book.counts)}")


class _Sweep:
    """One pass over a graph in order. Use counts are kept exact throughout, so that a match knows
    whether the nodes it would swallow are needed elsewhere."""

    def __init__(self, graph: Graph, index: Mapping[type[Op], Sequence[Rule]], book: Ledger) -> None:
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
        raise GraphError(
            f"{rule.label} does not come to rest at {original.op.name}", where=original.source
        )

    def _first_match(self, node: Node) -> tuple[Rule, Match] | None:
        for rule in self.index.get(type(node.op), ()):
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
