"""The terms that patterns are made of: each matches some values."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from hardy.compiler.ir import Constant, Node, Op, Value
from hardy.compiler.matching.rounding import same_number, shortest
from hardy.compiler.ops.elementwise import Add, And, Equal, Max, Min, Mul, Or, Xor

if TYPE_CHECKING:
    from hardy.compiler.matching.search import Search

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
        dtype = literal.type.dtype
        # Integers stay integers: a float holds only those up to 2^53.
        found = number if dtype.is_integer else shortest(float(number), dtype)
        return search.bind(self.name, found, value, rest)


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
