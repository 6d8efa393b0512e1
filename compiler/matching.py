"""Patterns over graphs, and the search that matches them.

A pattern is a tree of terms, built by `Pattern` in the way that graphs are built. Commutative ops
match in both orders of their operands.
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from hardy.compiler.ir import Constant, Node, Op, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.elementwise import Add, And, Equal, Max, Min, Mul, Or, Xor
from hardy.compiler.types import DType, TensorType

OpType = TypeVar("OpType", bound=Op)

COMMUTATIVE: frozenset[type[Op]] = frozenset({Add, Mul, Max, Min, Equal, And, Or, Xor})


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
            return (bound == value and search.solve(rest)) or (
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
        return search.bind(self.name, shortest(float(number), literal.type.dtype), value, rest)


@dataclass(frozen=True, eq=False)
class Capture:
    """Stands for an attribute's value: takes it under a name where `predicate` holds."""

    name: str
    predicate: Callable[[Any], bool] | None = None


@dataclass(frozen=True, eq=False)
class Apply(Term):
    """A node: one of some ops, with attributes, on operands.

    An attribute matches a value by equality, a callable by its answer, a `Capture` always. Operands
    of None stand for any, however many.
    """

    ops: tuple[type[Op], ...]
    operands: tuple[Term, ...] | None
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
        if self.operands is not None and len(node.operands) != len(self.operands):
            return search.fail(f"expected {len(self.operands)} operands", value)
        if not self._keeps_shape(node):
            return search.fail("the scalar changes the shape", value)
        search.terms[self] = value
        if search.bind_attributes(
            tuple(self.attributes.items()), value, lambda: self._operands(search, node, rest)
        ):
            return True
        del search.terms[self]
        return False

    def _operands(self, search: Search, node: Node, rest: Goals) -> bool:
        if self.operands is None:
            return search.solve(rest)
        if search.solve(self._goals(node.operands, rest)):
            return True
        swaps = type(node.op) in COMMUTATIVE and node.operands[0] != node.operands[1]
        return swaps and search.solve(self._goals(node.operands[::-1], rest))

    def _goals(self, operands: Sequence[Value], rest: Goals) -> Goals:
        for i, term in self._order:
            rest = (term, operands[i], rest)
        return rest

    @functools.cached_property
    def _order(self) -> tuple[tuple[int, Term], ...]:
        """Operand positions and terms, the most telling last, because goals are stacked."""
        return tuple(sorted(enumerate(self.operands or ()), key=lambda item: -item[1].rank))

    @functools.cached_property
    def _has_scalar(self) -> bool:
        terms = self.operands or ()
        return len(terms) > 1 and any(isinstance(t, Scalar) for t in terms)

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

    def node(self, op: type[Op] | tuple[type[Op], ...], name: str = "", **attributes: Any) -> Term:
        """A node of an op, whatever its operands."""
        return Apply(op if isinstance(op, tuple) else (op,), None, attributes=attributes, name=name)

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


def shortest(number: float, dtype: DType) -> float:
    """The number with the fewest digits that rounds to this one in the type: 1e-5 for 9.99999974e-6."""
    kind = {DType.f32: np.float32, DType.f16: np.float16}.get(dtype)
    return number if kind is None else float(str(kind(number)))


class Search:
    """One attempt to match: a depth-first search over the orders of commutative operands."""

    def __init__(
        self,
        root: Node,
        uses: Mapping[Value, int],
        shares: bool,
        check: Callable[[Match], bool | str],
        explain: bool = False,
    ) -> None:
        self.shares = shares
        self.check = check
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
        return self.bind_attributes(
            ((name, Capture(name)),), value, lambda: self.solve(rest), {name: attribute}
        )

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
        if not self.shares:
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
            self.uses,
        )
        verdict = self.check(match)
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
    uses: Mapping[Value, int]

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

    def op(self, kind: type[OpType], name: str = "") -> OpType:
        """The op of a named node, or of the root; it must be of this kind."""
        op = (self.nodes[name] if name else self.root).op
        if not isinstance(op, kind):
            raise TypeError(f"{name or 'the root'} is {op.name}, not {kind.name}")
        return op

    def literal(self, name: str) -> Literal:
        """The data of a value that matched a constant."""
        literal = self.values[name].literal
        if literal is None:
            raise TypeError(f"{name} is not a constant")
        return literal

    def only_use(self, value: Value) -> bool:
        """Whether a value is used once in the whole graph."""
        return self.uses.get(value, 0) == 1

    @property
    def type(self) -> TensorType:
        """The type of the root's first result."""
        return self.root.type
