"""Two small rules that the tests of patterns and of rewriting share."""

from __future__ import annotations

from hardy.compiler.ir import Builder, Value
from hardy.compiler.ops.elementwise import Add, Neg, Sub
from hardy.compiler.rewrite import Match, Pattern, Rule, Term
from hardy.compiler.types import DType, TensorType

F32 = TensorType(DType.f32, (2, 3))


class DoubleNegation(Rule):
    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Neg, p(Neg, x))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return m["x"]


class AddToSub(Rule):
    """x + (-y)."""

    def pattern(self, p: Pattern, x: Term, y: Term) -> Term:
        return p(Add, x, p(Neg, y))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Sub(), m["x"], m["y"])
