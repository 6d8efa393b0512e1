"""Means and normalizations from their pieces."""

from __future__ import annotations

import math

from hardy.compiler.ir import Builder, Value
from hardy.compiler.literal import Literal
from hardy.compiler.matching.rounding import same_number
from hardy.compiler.ops.elementwise import Add, Div, Mul, Pow, Sqrt, Sub
from hardy.compiler.ops.norm import GroupNorm, LayerNorm, ReduceMean, RmsNorm
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.shape import Reshape
from hardy.compiler.rewrite import Match, Pattern, Rule, Term
from hardy.compiler.types import TensorType


class FindMean(Rule):
    """sum(x) / count."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        total = p(ReduceSum, x, name="sum")
        return p.either(p(Div, total, p.scalar("count")), p(Mul, total, p.scalar("inverse")))

    def check(self, m: Match) -> bool | str:
        if not m.type.dtype.is_float:
            return "an integer division truncates"
        shape = m["x"].type.shape
        count = math.prod(shape[a] for a in m.op(ReduceSum, "sum").axes)
        name, expected = ("count", count) if "count" in m.attributes else ("inverse", 1 / max(count, 1))
        right = count > 0 and same_number(m.number(name), expected, m.type.dtype)
        return right or f"the sum is of {count} elements"

    def rewrite(self, b: Builder, m: Match) -> Value:
        total = m.op(ReduceSum, "sum")
        return b(ReduceMean(total.axes, total.keepdims), m["x"])


def over_root(p: Pattern, x: Term, variance: Term) -> Term:
    """x / sqrt(variance + epsilon) in the ways it is written."""
    shifted = p(Add, variance, p.scalar("epsilon"))
    root = p.either(p(Sqrt, shifted), p(Pow, shifted, 0.5))
    return p.either(
        p(Div, x, root),
        p(Mul, x, p.either(p(Div, 1, root), p(Pow, shifted, -0.5), p(Pow, root, -1))),
    )


def _axis(m: Match) -> int | None:
    """The axis from which on all axes are reduced; None for any other set of axes."""
    axes, rank = m.attribute("axes"), m["x"].type.rank
    axis = rank - len(axes)
    return axis if axes and sorted(axes) == list(range(axis, rank)) else None


class FindLayerNorm(Rule):
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon)."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        axes = p.attribute("axes")
        centred = p(Sub, x, p(ReduceMean, x, axes=axes, keepdims=True))
        square = p.either(p(Mul, centred, centred), p(Pow, centred, 2))
        return over_root(p, centred, p(ReduceMean, square, axes=axes, keepdims=True))

    def check(self, m: Match) -> bool | str:
        return _axis(m) is not None or "the axes are not the last ones"

    def rewrite(self, b: Builder, m: Match) -> Value:
        axis = _axis(m)
        assert axis is not None
        return b(LayerNorm(axis, m.number("epsilon")), m["x"])


class FindRmsNorm(Rule):
    """x / sqrt(mean(x^2) + epsilon)."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        square = p.either(p(Mul, x, x), p(Pow, x, 2))
        return over_root(p, x, p(ReduceMean, square, axes=p.attribute("axes"), keepdims=True))

    def check(self, m: Match) -> bool | str:
        return _axis(m) is not None or "the axes are not the last ones"

    def rewrite(self, b: Builder, m: Match) -> Value:
        axis = _axis(m)
        assert axis is not None
        return b(RmsNorm(axis, m.number("epsilon")), m["x"])


def fits(v: Value, expected: TensorType) -> bool:
    """Whether a value has this type but for ones in front."""
    extra = v.type.rank - expected.rank
    return (
        v.type.dtype is expected.dtype
        and extra >= 0
        and v.type.shape == (1,) * extra + expected.shape
        and v.type.size > 0
    )


def shaped(b: Builder, v: Value, expected: TensorType) -> Value:
    return v if v.type == expected else b(Reshape(expected.shape), v)


class NormWeight(Rule):
    """A normalization, multiplied by a tensor of the normalized shape."""

    def pattern(self, p: Pattern, x: Term, weight: Term) -> Term:
        return p(Mul, p((LayerNorm, RmsNorm), x, name="norm"), weight)

    def check(self, m: Match) -> bool | str:
        if m.type != m["x"].type:
            return "the weight broadcasts the result"
        return fits(m["weight"], _normalized(m)) or "the weight has another shape than what is normalized"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(m.node("norm").op, m["x"], shaped(b, m["weight"], _normalized(m)))


class NormBias(Rule):
    """A weighted layer normalization, plus a tensor of the normalized shape."""

    def pattern(self, p: Pattern, x: Term, weight: Term, bias: Term) -> Term:
        return p(Add, p(LayerNorm, x, weight, name="norm"), bias)

    def check(self, m: Match) -> bool | str:
        if m.type != m["x"].type:
            return "the bias broadcasts the result"
        return fits(m["bias"], _normalized(m)) or "the bias has another shape than what is normalized"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(m.node("norm").op, m["x"], m["weight"], shaped(b, m["bias"], _normalized(m)))


def _normalized(m: Match) -> TensorType:
    op = m.node("norm").op
    assert isinstance(op, LayerNorm | RmsNorm)
    t = m["x"].type
    return t.with_shape(t.shape[op.axis :])


class NormOfNothing(Rule):
    """A normalization times ones plus zeros."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        ones, zeros = p.constant("ones"), p.constant("zeros")
        return p.either(p((LayerNorm, GroupNorm), x, ones, zeros), p(RmsNorm, x, ones))

    def check(self, m: Match) -> bool | str:
        plain = bool((m.literal("ones").tensor == 1).all())
        if "zeros" in m.values:
            plain = plain and bool((m.literal("zeros").tensor == 0).all())
        return plain or "the weight or the bias does something"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(m.root.op, m["x"])


class FindGroupNorm(Rule):
    """A normalization of [batch, groups, rest] between reshapes from and to [batch, channels, ...]."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        flat = p(Reshape, x, name="flat")
        plain = p(LayerNorm, flat, axis=2, epsilon=p.attribute("epsilon"))
        instance = p(GroupNorm, flat, name="instance", epsilon=p.attribute("epsilon"))
        return p(Reshape, p.either(plain, instance), name="back")

    def check(self, m: Match) -> bool | str:
        x, flat = m["x"].type, m.node("flat").type
        if m.type != x or x.rank < 3 or flat.rank != 3 or flat.shape[0] != x.shape[0] or not flat.shape[1]:
            return "the reshapes are not those of group normalization"
        if "instance" in m.nodes and m.op(GroupNorm, "instance").groups != flat.shape[1]:
            return "the inner normalization has groups of its own"
        return x.shape[1] % flat.shape[1] == 0 or "the groups do not divide the channels"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(GroupNorm(m.node("flat").type.shape[1], m.attribute("epsilon")), m["x"])


class GroupNormWeight(Rule):
    """A group normalization, multiplied by a constant along the channels."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Mul, p(GroupNorm, x, name="norm"), p.constant("weight"))

    def check(self, m: Match) -> bool | str:
        return _along_channels(m["weight"], m) or "the weight does not vary along the channels"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(m.node("norm").op, m["x"], _vector(b, m["weight"], m))


class GroupNormBias(Rule):
    """A weighted group normalization, plus a constant along the channels."""

    def pattern(self, p: Pattern, x: Term, weight: Term) -> Term:
        return p(Add, p(GroupNorm, x, weight, name="norm"), p.constant("bias"))

    def check(self, m: Match) -> bool | str:
        return _along_channels(m["bias"], m) or "the bias does not vary along the channels"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(m.node("norm").op, m["x"], m["weight"], _vector(b, m["bias"], m))


def _along_channels(v: Value, m: Match) -> bool:
    x = m["x"].type
    wide = (1,) * (x.rank - v.type.rank) + v.type.shape
    return m.type == x and wide == (1, x.shape[1]) + (1,) * (x.rank - 2)


def _vector(b: Builder, v: Value, m: Match) -> Value:
    assert v.literal is not None
    literal = Literal(v.literal.tensor.reshape(m["x"].type.shape[1]), v.type.dtype)
    return b.constant(literal, name=v.node.name, source=v.node.source)


RULES: tuple[Rule, ...] = (
    FindMean(),
    FindLayerNorm(),
    FindRmsNorm(),
    NormWeight(),
    NormBias(),
    NormOfNothing(),
    FindGroupNorm(),
    GroupNormWeight(),
    GroupNormBias(),
)
