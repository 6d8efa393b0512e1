"""Identities of elementwise ops.

They hold for NaN and infinities too; only the sign of a zero may change. So there is no x * 0 = 0
and no x - x = 0 for floats.
"""

from __future__ import annotations

import math

import torch

from hardy.compiler.ir import Builder, Value
from hardy.compiler.ops.activation import Clamp, Relu
from hardy.compiler.ops.elementwise import (
    Abs,
    Add,
    And,
    Cast,
    Div,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    Or,
    Pow,
    Sub,
    Where,
    Xor,
)
from hardy.compiler.rewrite import Match, Pattern, Rule, Term
from hardy.compiler.types import DType


class Neutral(Rule):
    """x + 0, x - 0, x * 1, x / 1, x ** 1 and their like for bits are x."""

    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p.either(
            p((Add, Sub, Xor), x, 0),
            p((Mul, Div, Pow), x, 1),
        )

    def rewrite(self, b: Builder, m: Match) -> Value:
        return m["x"]


class NeutralBool(Rule):
    """x and true, x or false are x."""

    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p.either(p(And, x, 1), p(Or, x, 0))

    def check(self, m: Match) -> bool | str:
        return m.type.dtype is DType.boolean or isinstance(m.root.op, Or) or "1 is neutral for bool only"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return m["x"]


class Involution(Rule):
    """-(-x), not not x."""

    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p.either(p(Neg, p(Neg, x)), p(Not, p(Not, x)))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return m["x"]


class AbsOfNeg(Rule):
    """|-x| and ||x|| are |x|."""

    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Abs, p((Neg, Abs), x, name="inner"))

    def check(self, m: Match) -> bool | str:
        dtype = m.type.dtype
        signed = dtype.is_float or dtype.range[0] < 0
        return signed or isinstance(m.node("inner").op, Abs) or "-x of unsigned integers wraps"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Abs(), m["x"])


class MulByMinusOne(Rule):
    def pattern(self, p: Pattern, x: Term) -> Term:
        return p((Mul, Div), x, -1)

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Neg(), m["x"])


class AddOfNeg(Rule):
    """x + (-y) is x - y."""

    def pattern(self, p: Pattern, x: Term, y: Term) -> Term:
        return p(Add, x, p(Neg, y))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Sub(), m["x"], m["y"])


class SubOfNeg(Rule):
    """x - (-y) is x + y."""

    def pattern(self, p: Pattern, x: Term, y: Term) -> Term:
        return p(Sub, x, p(Neg, y))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Add(), m["x"], m["y"])


class SmallPower(Rule):
    """x ** 2 and x ** 3 are products; x ** -1 is a quotient."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Pow, x, p.scalar("exponent"))

    def check(self, m: Match) -> bool | str:
        whole = m.number("exponent") in (2.0, 3.0) or (m.number("exponent") == -1.0 and m.type.dtype.is_float)
        return whole or "the exponent is not 2, 3 or -1"

    def rewrite(self, b: Builder, m: Match) -> Value:
        x = m["x"]
        if m.number("exponent") == -1.0:
            return b(Div(), b.scalar(1, x.type.dtype), x)
        square = b(Mul(), x, x)
        return square if m.number("exponent") == 2.0 else b(Mul(), square, x)


class DivByPowerOfTwo(Rule):
    """x / 2^n is x * 2^-n, exactly."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Div, x, p.scalar("divisor"))

    def check(self, m: Match) -> bool | str:
        if not m.type.dtype.is_float:
            return "integer division truncates"
        mantissa, exponent = math.frexp(m.number("divisor"))
        exact = abs(mantissa) == 0.5 and abs(exponent) <= 8
        return exact or "the divisor is not a small power of two"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Mul(), m["x"], b.scalar(1 / m.number("divisor"), m.type.dtype))


class RepeatedExtremum(Rule):
    """max(max(x, a), b) is max(x, max(a, b)), and so for min."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        a, b = p.scalar("a"), p.scalar("b")
        return p.either(p(Max, p(Max, x, a), b), p(Min, p(Min, x, a), b))

    def check(self, m: Match) -> bool | str:
        numbers = m.number("a"), m.number("b")
        return not any(map(math.isnan, numbers)) or "a constant is NaN"

    def rewrite(self, b: Builder, m: Match) -> Value:
        pick = max if isinstance(m.root.op, Max) else min
        return b(m.root.op, m["x"], b.scalar(pick(m.number("a"), m.number("b")), m.type.dtype))


class RepeatedClamp(Rule):
    """Clamps and rectifiers one after the other are one clamp, where their ranges overlap."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p((Clamp, Relu), p((Clamp, Relu), x, name="inner"))

    def check(self, m: Match) -> bool | str:
        (low, high), (a, b) = limits(m.root.op), limits(m.node("inner").op)
        return max(low, a) <= min(high, b) or "the ranges do not overlap"

    def rewrite(self, b: Builder, m: Match) -> Value:
        (low, high), (inner_low, inner_high) = limits(m.root.op), limits(m.node("inner").op)
        low, high = max(low, inner_low), min(high, inner_high)
        return b(Relu() if (low, high) == (0, math.inf) else Clamp(low, high), m["x"])


def limits(op: object) -> tuple[float, float]:
    """The range of a clamp or rectifier."""
    return (op.low, op.high) if isinstance(op, Clamp) else (0.0, math.inf)


class OpenClamp(Rule):
    """A clamp from -inf to inf does nothing; one from 0 to inf is a rectifier."""

    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Clamp, x)

    def check(self, m: Match) -> bool | str:
        return limits(m.root.op) in ((-math.inf, math.inf), (0, math.inf)) or "the range has ends"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Relu(), m["x"]) if limits(m.root.op)[0] == 0 else m["x"]


class SameCast(Rule):
    """A cast to the type that x has is x."""

    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Cast, x, dtype=p.attribute("dtype"))

    def check(self, m: Match) -> bool | str:
        return m["x"].type.dtype is m.attribute("dtype") or "the type changes"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return m["x"]


class CastOfCast(Rule):
    """A cast of a cast that lost nothing is one cast."""

    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Cast, p(Cast, x, dtype=p.attribute("middle")), name="outer")

    def check(self, m: Match) -> bool | str:
        first, middle = m["x"].type.dtype, m.attribute("middle")
        return holds(first, middle) or f"{middle} does not hold all {first}"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(m.root.op, m["x"])


def holds(narrow: DType, wide: DType) -> bool:
    """Whether every value of one type is a value of the other and casts alike from there."""
    if narrow is wide:
        return True
    if narrow is DType.boolean:
        return wide.is_integer or wide.is_float
    if wide is DType.boolean:
        return False
    if narrow.is_integer and wide.is_integer:
        return wide.range[0] <= narrow.range[0] and narrow.range[1] <= wide.range[1]
    if narrow.is_float and wide.is_float:
        a, c = torch.finfo(narrow.torch), torch.finfo(wide.torch)
        return bool(c.max >= a.max and c.eps <= a.eps and c.tiny <= a.tiny) and wide.bits > 8
    # An integer held as a float casts on as a float does: saturation and rounding differ.
    return False


class WhereConstant(Rule):
    """A selection by a condition that is the same everywhere."""

    shares = True

    def pattern(self, p: Pattern, x: Term, y: Term) -> Term:
        return p(Where, p.constant("condition"), x, y)

    def check(self, m: Match) -> bool | str:
        literal = m.literal("condition")
        if not (bool(literal.tensor.all()) or not bool(literal.tensor.any())):
            return "the condition varies"
        chosen = m["x"] if bool(literal.tensor.all()) else m["y"]
        return chosen.type == m.type or "the choice has another shape"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return m["x"] if bool(m.literal("condition").tensor.all()) else m["y"]


class WhereSame(Rule):
    """A selection between x and x."""

    shares = True

    def pattern(self, p: Pattern, c: Term, x: Term) -> Term:
        return p(Where, c, x, x)

    def check(self, m: Match) -> bool | str:
        return m["x"].type == m.type or "the condition broadcasts x"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return m["x"]


class WhereNot(Rule):
    """A selection by the contrary of a condition."""

    shares = True

    def pattern(self, p: Pattern, c: Term, x: Term, y: Term) -> Term:
        return p(Where, p(Not, c), x, y)

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Where(), m["c"], m["y"], m["x"])


RULES: tuple[Rule, ...] = (
    Neutral(),
    NeutralBool(),
    Involution(),
    AbsOfNeg(),
    MulByMinusOne(),
    AddOfNeg(),
    SubOfNeg(),
    SmallPower(),
    DivByPowerOfTwo(),
    RepeatedExtremum(),
    RepeatedClamp(),
    OpenClamp(),
    SameCast(),
    CastOfCast(),
    WhereConstant(),
    WhereSame(),
    WhereNot(),
)
