"""Activations from their pieces, as exporters and hardy's own decompositions write them."""

from __future__ import annotations

import math

from hardy.compiler.ir import Builder, Value
from hardy.compiler.ops.activation import (
    Clamp,
    Elu,
    Gelu,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    LogSoftmax,
    Mish,
    Mod,
    Relu,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
)
from hardy.compiler.ops.binary import Binarize
from hardy.compiler.ops.elementwise import (
    Add,
    Div,
    Equal,
    Less,
    LessEqual,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    Or,
    Pow,
    Rem,
    Sub,
    Where,
    Xor,
)
from hardy.compiler.ops.reduce import ReduceMax, ReduceSum
from hardy.compiler.ops.transcendental import Erf, Exp, Expm1, Log, Log1p, Tanh
from hardy.compiler.rewrite import Match, Pattern, Rule, Term
from hardy.compiler.types import DType


def bound(number: float, dtype: DType) -> float:
    """A limit as a number of the type's kind."""
    return number if dtype.is_float or math.isinf(number) else int(number)


def is_number(dtype: DType) -> bool | str:
    """The answer of a rule whose result exists for numbers only."""
    return dtype is not DType.boolean or "booleans have no such function"


def near(expected: float) -> object:
    """A predicate for attributes that files hold with few digits."""
    return lambda actual: math.isclose(actual, expected, rel_tol=1e-6)


class FindRelu(Rule):
    """max(x, 0)."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Max, x, 0)

    def check(self, m: Match) -> bool | str:
        return is_number(m.type.dtype)

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Relu(), m["x"])


class FindClamp(Rule):
    """min(max(x, low), high), or with the two the other way round."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        low, high = p.scalar("low"), p.scalar("high")
        return p.either(
            p(Min, p(Max, x, low), high),
            p(Min, p(Relu, x), high),
            p(Max, p(Min, x, high), low),
            p(Relu, p(Min, x, high)),
        )

    def check(self, m: Match) -> bool | str:
        low = m.number("low") if "low" in m.attributes else 0.0
        if low > m.number("high"):
            return "the range is empty"
        return is_number(m.type.dtype)

    def rewrite(self, b: Builder, m: Match) -> Value:
        low = m.number("low") if "low" in m.attributes else 0.0
        dtype = m.type.dtype
        return b(Clamp(bound(low, dtype), bound(m.number("high"), dtype)), m["x"])


def one_plus_exp_of_neg(p: Pattern, x: Term) -> Term:
    return p(Add, p(Exp, p(Neg, x)), 1)


class FindSigmoid(Rule):
    """1 / (1 + exp(-x))."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Div, 1, one_plus_exp_of_neg(p, x))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Sigmoid(), m["x"])


class FindSilu(Rule):
    """x sigmoid(x), x / (1 + exp(-x))."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p.either(p(Mul, x, p(Sigmoid, x)), p(Div, x, one_plus_exp_of_neg(p, x)))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Silu(), m["x"])


def relu6_of_x_plus_3(p: Pattern, x: Term) -> Term:
    return p(Clamp, p(Add, x, 3), low=0, high=6)


class FindHardSigmoid(Rule):
    """clamp(alpha x + beta, 0, 1), clamp(x + 3, 0, 6) / 6."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        beta = p.scalar("beta")
        return p.either(
            p(Clamp, p(Add, p(Mul, x, p.scalar("alpha")), beta), low=0, high=1),
            p(Clamp, p(Add, p(Div, x, p.scalar("divisor")), beta), low=0, high=1),
            p(Div, relu6_of_x_plus_3(p, x), 6),
            p(Mul, relu6_of_x_plus_3(p, x), 1 / 6),
        )

    def check(self, m: Match) -> bool | str:
        return m.type.dtype.is_float or "x is not a float"

    def rewrite(self, b: Builder, m: Match) -> Value:
        found = m.attributes
        if "beta" not in found:
            return b(HardSigmoid(), m["x"])
        alpha = found["alpha"] if "alpha" in found else 1 / found["divisor"]
        return b(HardSigmoid(alpha, found["beta"]), m["x"])


class FindHardSwish(Rule):
    """x clamp(x + 3, 0, 6) / 6."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        gate = relu6_of_x_plus_3(p, x)
        return p.either(
            p(Div, p(Mul, x, gate), 6),
            p.product(x, gate, 1 / 6),
            p(Mul, x, p(HardSigmoid, x, alpha=near(1 / 6), beta=near(0.5))),
        )

    def check(self, m: Match) -> bool | str:
        return m.type.dtype.is_float or "x is not a float"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(HardSwish(), m["x"])


class FindGelu(Rule):
    """x / 2 (1 + erf(x / sqrt 2)) in any association."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        erf = p(Erf, p.either(p(Mul, x, math.sqrt(0.5)), p(Div, x, math.sqrt(2))))
        return p.either(
            p.product(x, 0.5, p(Add, erf, 1)),
            p(Mul, x, p(Add, p(Mul, erf, 0.5), 0.5)),
            p(Div, p(Mul, x, p(Add, erf, 1)), 2),
            p(Mul, p(Div, x, 2), p(Add, erf, 1)),
        )

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Gelu(), m["x"])


class FindTanhGelu(Rule):
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) in any association."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        root, cubic = math.sqrt(2 / math.pi), 0.044715
        inner = p.either(
            p.product(root, p(Add, x, p.either(p.product(cubic, x, x, x), p(Mul, p(Pow, x, 3), cubic)))),
            p.product(root, x, p(Add, p.product(cubic, x, x), 1)),
        )
        return p.product(x, 0.5, p(Add, p(Tanh, inner), 1))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Gelu("tanh"), m["x"])


class FindSoftplus(Rule):
    """max(x, 0) + log1p(exp(-|x|)), or x where it is above 20 and else log1p(exp(x))."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        minus_abs = p(Min, x, p(Neg, x))
        return p.either(
            p(Add, p.either(p(Relu, x), p(Max, x, 0)), p(Log1p, p(Exp, minus_abs))),
            p(Where, p(Less, 20, x), x, p(Log1p, p(Exp, x))),
        )

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Softplus(), m["x"])


class FindMish(Rule):
    """x tanh(softplus(x))."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Mul, x, p(Tanh, p(Softplus, x)))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Mish(), m["x"])


class FindLeakyRelu(Rule):
    """x where it is positive, else slope x."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        scaled = p(Mul, x, p.scalar("slope"))
        return p.either(
            p(Where, p((Less, LessEqual), x, 0), scaled, x),
            p(Where, p((Less, LessEqual), 0, x), x, scaled),
        )

    def check(self, m: Match) -> bool | str:
        return m.type.dtype.is_float or "x is not a float"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(LeakyRelu(m.number("slope")), m["x"])


class FindElu(Rule):
    """x where it is positive, else alpha (exp(x) - 1)."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        below = p.either(p(Min, x, 0), x)
        curve = p.either(p(Expm1, below), p(Sub, p(Exp, below), 1))
        scaled = p.either(p(Mul, curve, p.scalar("alpha")), curve)
        return p.either(p(Where, p(Less, 0, x), x, scaled), p(Where, p(LessEqual, x, 0), scaled, x))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Elu(m.attributes.get("alpha", 1.0)), m["x"])


class FindBinarize(Rule):
    """1 where x >= 0, else -1."""

    shares = True  # the comparison is as much work as the result

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Where, p(LessEqual, 0, x), 1, -1)

    def check(self, m: Match) -> bool | str:
        return (m.type.dtype is m["x"].type.dtype and m.type == m["x"].type) or "the signs have another type"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Binarize(), m["x"])


class FindMod(Rule):
    """The remainder of the truncating division, moved to the divisor's sign."""

    def pattern(self, p: Pattern, x: Term, y: Term) -> Term:
        r = p(Rem, x, y)
        other_sign = p(Xor, p(Less, r, 0), p(Less, y, 0))
        return p(Where, p(Or, p(Equal, r, 0), p(Not, other_sign)), r, p(Add, r, y))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Mod(), m["x"], m["y"])


def _one_axis(axes: tuple[int, ...]) -> bool:
    return len(axes) == 1


class FindSoftmax(Rule):
    """exp(x - max(x)) / sum(exp(x - max(x))) along an axis."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        axes = p.attribute("axes", _one_axis)
        e = p(Exp, p(Sub, x, p(ReduceMax, x, axes=axes, keepdims=True)))
        return p(Div, e, p(ReduceSum, e, axes=axes, keepdims=True))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Softmax(*m.attribute("axes")), m["x"])


class FindLogSoftmax(Rule):
    """y - log(sum(exp(y))) with y = x - max(x) along an axis."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        axes = p.attribute("axes", _one_axis)
        y = p(Sub, x, p(ReduceMax, x, axes=axes, keepdims=True))
        return p(Sub, y, p(Log, p(ReduceSum, p(Exp, y), axes=axes, keepdims=True)))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(LogSoftmax(*m.attribute("axes")), m["x"])


RULES: tuple[Rule, ...] = (
    FindRelu(),
    FindClamp(),
    FindSigmoid(),
    FindSilu(),
    FindHardSwish(),
    FindHardSigmoid(),
    FindGelu(),
    FindTanhGelu(),
    FindSoftplus(),
    FindMish(),
    FindLeakyRelu(),
    FindElu(),
    FindBinarize(),
    FindMod(),
    FindSoftmax(),
    FindLogSoftmax(),
)
