"""Builds patterns in the way that graphs are built."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from hardy.compiler.ir import Op
from hardy.compiler.matching.terms import AnyConstant, Apply, Capture, Either, Scalar, Term
from hardy.compiler.ops.elementwise import Add, Mul

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
