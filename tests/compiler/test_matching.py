"""What patterns match."""

from __future__ import annotations

import pytest
import torch

from hardy.compiler.ir import Builder, Graph, Value
from hardy.compiler.ops.activation import Softmax
from hardy.compiler.ops.elementwise import Add, Cast, Div, Mul, Neg, Sub
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.shape import Concat, Transpose
from hardy.compiler.ops.transcendental import Tanh
from hardy.compiler.rewrite import Match, Pattern, Rule, Term, apply_rules
from hardy.compiler.types import DType, TensorType
from tests.compiler.rules import F32, AddToSub
from tests.rewriting import body, ops, read


@pytest.mark.parametrize("first", ["%0, %x", "%x, %0"])
def test_commutative_ops_match_in_both_orders(first: str) -> None:
    graph = read(f"""
    graph main(%x: f32[2], %y: f32[2]) {{
      %0: f32[2] = neg(%y)
      %1: f32[2] = add({first})
      return %1 as z
    }}""")
    assert body(apply_rules(graph, [AddToSub()])) == "%0: f32[2] = sub(%x, %y)\nreturn %0 as z"


def test_other_ops_match_in_their_own_order_only() -> None:
    class OneOver(Rule):
        def pattern(self, p: Pattern, x: Term) -> Term:
            return p(Div, 1, x)

        def rewrite(self, b: Builder, m: Match) -> Value:
            return b(Neg(), m["x"])

    b = Builder()
    x = b.input("x", F32)
    graph = b.finish({"y": b(Div(), x, b.scalar(1, DType.f32))})
    assert apply_rules(graph, [OneOver()]) is graph


def test_a_node_that_is_needed_elsewhere_is_not_swallowed() -> None:
    text = """
    graph main(%x: f32[2], %y: f32[2]) {{
      %0: f32[2] = neg(%y)
      %1: f32[2] = add(%x, %0)
      return %1 as z, {0} as other
    }}"""
    graph = read(text.format("%0"))
    assert apply_rules(graph, [AddToSub()]) is graph
    assert ops(apply_rules(read(text.format("%x")), [AddToSub()])) == ["sub"]


def test_a_rule_may_say_that_it_shares() -> None:
    class Sharing(AddToSub):
        shares = True

    graph = read("""
    graph main(%x: f32[2], %y: f32[2]) {
      %0: f32[2] = neg(%y)
      %1: f32[2] = add(%x, %0)
      return %1 as z, %0 as other
    }""")
    assert ops(apply_rules(graph, [Sharing()])) == ["neg", "sub"]


def test_uses_inside_the_match_do_not_count_as_elsewhere() -> None:
    class Square(Rule):
        def pattern(self, p: Pattern, x: Term, y: Term) -> Term:
            difference = p(Sub, x, y)
            return p(Mul, difference, difference)

        def rewrite(self, b: Builder, m: Match) -> Value:
            return b(Neg(), m["x"])

    b = Builder()
    x, y = b.input("x", F32), b.input("y", F32)
    d = b(Sub(), x, y)
    assert ops(apply_rules(b.finish({"z": b(Mul(), d, d)}), [Square()])) == ["neg"]


def test_a_variable_stands_for_one_value() -> None:
    class Twice(Rule):
        def pattern(self, p: Pattern, x: Term) -> Term:
            return p(Add, x, x)

        def rewrite(self, b: Builder, m: Match) -> Value:
            return b(Neg(), m["x"])

    for operands, expected in (("%x, %y", ["add"]), ("%x, %x", ["neg"])):
        graph = read(f"""
        graph main(%x: f32[2], %y: f32[2]) {{
          %0: f32[2] = add({operands})
          return %0 as z
        }}""")
        assert ops(apply_rules(graph, [Twice()])) == expected


def test_a_product_matches_in_any_order_and_association() -> None:
    class Product(Rule):
        def pattern(self, p: Pattern, x: Term) -> Term:
            return p.product(x, p(Tanh, x), 0.5)

        def rewrite(self, b: Builder, m: Match) -> Value:
            return b(Neg(), m["x"])

    def graph(order: str) -> Graph:
        b = Builder()
        x = b.input("x", F32)
        parts = {"x": x, "t": b(Tanh(), x), "h": b.scalar(0.5, DType.f32)}
        first, second, third = (parts[c] for c in order[:3])
        if order.endswith("left"):
            return b.finish({"y": b(Mul(), b(Mul(), first, second), third)})
        return b.finish({"y": b(Mul(), first, b(Mul(), second, third))})

    for order in ("xth", "xht", "txh", "thx", "hxt", "htx"):
        for side in ("left", "right"):
            assert ops(apply_rules(graph(order + side), [Product()])) == ["neg"], (order, side)


@pytest.mark.parametrize(
    ("value", "dtype", "matches"),
    [
        (0.1, DType.f32, True),
        (0.1, DType.f16, True),
        (0.10001, DType.f32, False),
        (0.100000001, DType.f64, True),
        (0.1001, DType.f64, False),
    ],
)
def test_scalars_match_within_rounding(value: float, dtype: DType, matches: bool) -> None:
    class Tenth(Rule):
        def pattern(self, p: Pattern, x: Term) -> Term:
            return p(Mul, x, 0.1)

        def rewrite(self, b: Builder, m: Match) -> Value:
            return m["x"]

    b = Builder()
    x = b.input("x", TensorType(dtype, (2,)))
    after = apply_rules(b.finish({"y": b(Mul(), x, b.scalar(value, dtype))}), [Tenth()])
    assert (ops(after) == []) is matches


def test_a_scalar_that_changes_the_shape_does_not_match() -> None:
    class AddZero(Rule):
        def pattern(self, p: Pattern, x: Term) -> Term:
            return p(Add, x, 0)

        def rewrite(self, b: Builder, m: Match) -> Value:
            return m["x"]

    b = Builder()
    x = b.input("x", TensorType(DType.f32, (3,)))
    graph = b.finish({"y": b(Add(), x, b.constant(torch.zeros(1, 1)))})
    assert apply_rules(graph, [AddZero()]) is graph


def test_attributes_match_by_value_by_predicate_and_by_capture() -> None:
    class Swap(Rule):
        def pattern(self, p: Pattern, x: Term) -> Term:
            wanted = p.attribute("perm", lambda perm: perm[0] == 1)
            return p(Transpose, p(Cast, x, dtype=DType.f32), permutation=wanted)

        def rewrite(self, b: Builder, m: Match) -> Value:
            return b(Cast(DType.f32), b(Transpose(m.attribute("perm")), m["x"]))

    def graph(dtype: DType, perm: tuple[int, ...]) -> Graph:
        b = Builder()
        x = b.input("x", TensorType(DType.i32, (2, 3)))
        return b.finish({"y": b(Transpose(perm), b(Cast(dtype), x))})

    assert ops(apply_rules(graph(DType.f32, (1, 0)), [Swap()])) == ["transpose", "cast"]
    assert ops(apply_rules(graph(DType.f32, (0, 1)), [Swap()])) == ["cast", "transpose"]
    assert ops(apply_rules(graph(DType.f64, (1, 0)), [Swap()])) == ["cast", "transpose"]


def test_an_attribute_captured_twice_must_agree() -> None:
    class Same(Rule):
        def pattern(self, p: Pattern, x: Term) -> Term:
            axis = p.attribute("axis")
            return p(Softmax, p(Softmax, x, axis=axis), axis=axis)

        def rewrite(self, b: Builder, m: Match) -> Value:
            return b(Neg(), m["x"])

    for axis, expected in ((1, ["softmax", "softmax"]), (0, ["neg"])):
        b = Builder()
        once = b(Softmax(0), b.input("x", F32))
        assert ops(apply_rules(b.finish({"y": b(Softmax(axis), once)}), [Same()])) == expected


def test_an_op_instance_matches_exactly() -> None:
    class Exactly(Rule):
        def pattern(self, p: Pattern, a: Term, c: Term) -> Term:
            return p(Matmul(transpose_b=True), a, c)

        def rewrite(self, b: Builder, m: Match) -> Value:
            return b(Matmul(), m["a"], b(Transpose((1, 0)), m["c"]))

    for op, expected in ((Matmul(), ["matmul"]), (Matmul(transpose_b=True), ["transpose", "matmul"])):
        b = Builder()
        x = b.input("x", TensorType(DType.f32, (2, 2)))
        assert ops(apply_rules(b.finish({"y": b(op, x, x)}), [Exactly()])) == expected


def test_a_node_term_takes_any_operands() -> None:
    class Drop(Rule):
        def pattern(self, p: Pattern) -> Term:
            return p(Neg, p.node(Concat, name="concat"))

        def rewrite(self, b: Builder, m: Match) -> Value:
            return b(m.node("concat").op, *[b(Neg(), v) for v in m.node("concat").operands])

    b = Builder()
    x = b.input("x", F32)
    graph = b.finish({"y": b(Neg(), b(Concat(0), x, x, x))})
    assert ops(apply_rules(graph, [Drop()])) == ["neg"] * 3 + ["concat"]
