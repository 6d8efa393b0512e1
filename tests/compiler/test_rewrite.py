"""Patterns, rules and the driver."""

from __future__ import annotations

import pytest
import torch

from hardy.compiler.errors import GraphError
from hardy.compiler.ir import Builder, Graph, Value
from hardy.compiler.ledger import Ledger, recording
from hardy.compiler.ops.activation import Relu, Silu, Softmax
from hardy.compiler.ops.elementwise import Add, Cast, Div, Mul, Neg, Sub
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.shape import Concat, Reshape, Transpose
from hardy.compiler.ops.transcendental import Erf, Tanh
from hardy.compiler.rewrite import Match, Pattern, Rule, Term, apply_rules, explain
from hardy.compiler.types import DType, TensorType
from tests.rewriting import body, ops, read

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


def test_a_rule_replaces_what_its_pattern_matches() -> None:
    graph = read("""
    graph main(%x: f32[2]) {
      %0: f32[2] = neg(%x)
      %1: f32[2] = neg(%0)
      %2: f32[2] = tanh(%1)
      return %2 as y
    }""")
    assert body(apply_rules(graph, [DoubleNegation()])) == "%0: f32[2] = tanh(%x)\nreturn %0 as y"


def test_a_graph_without_a_match_is_the_same_object() -> None:
    graph = read("graph main(%x: f32[2]) {\n  %0: f32[2] = neg(%x)\n  return %0 as y\n}")
    assert apply_rules(graph, [DoubleNegation()]) is graph


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


def test_new_nodes_keep_the_source_and_the_name() -> None:
    b = Builder()
    x, y = b.input("x", F32), b.input("y", F32)
    with b.at("model.py:7"):
        z = b(Add(), x, b(Neg(), y), name="sum")
    node = apply_rules(b.finish({"z": z}), [AddToSub()]).outputs[0].node
    assert (node.op, node.name, node.source) == (Sub(), "sum", "model.py:7")


def test_what_a_rewrite_makes_is_rewritten_again() -> None:
    graph = read("""
    graph main(%x: f32[2]) {
      %0: f32[2] = neg(%x)
      %1: f32[2] = neg(%0)
      %2: f32[2] = neg(%1)
      %3: f32[2] = neg(%2)
      %4: f32[2] = neg(%3)
      return %4 as y
    }""")
    assert ops(apply_rules(graph, [DoubleNegation()])) == ["neg"]


def test_uses_that_a_rewrite_takes_away_count_at_once() -> None:
    # The first add uses the negation too; once it is gone, the second may swallow it.
    class ToFirst(Rule):
        def pattern(self, p: Pattern, x: Term, y: Term) -> Term:
            return p(Div, x, y)

        def rewrite(self, b: Builder, m: Match) -> Value:
            return m["x"]

    b = Builder()
    x, y = b.input("x", F32), b.input("y", F32)
    n = b(Neg(), y)
    q = b(Div(), x, n)
    z = b(Add(), q, n)
    assert ops(apply_rules(b.finish({"z": z}), [ToFirst(), AddToSub()])) == ["sub"]


def test_rules_that_chase_each_other_are_refused() -> None:
    class Flip(Rule):
        def __init__(self, old: Relu | Silu, new: Relu | Silu) -> None:
            self.old, self.new = old, new

        def pattern(self, p: Pattern, x: Term) -> Term:
            return p(self.old, x)

        def rewrite(self, b: Builder, m: Match) -> Value:
            return b(self.new, m["x"])

    b = Builder()
    x = b.input("x", F32)
    graph = b.finish({"y": b(Relu(), x)})
    with pytest.raises(GraphError, match="does not come to rest"):
        apply_rules(graph, [Flip(Relu(), Silu()), Flip(Silu(), Relu())])


def test_a_rule_that_changes_a_type_is_refused() -> None:
    class Wrong(Rule):
        def pattern(self, p: Pattern, x: Term) -> Term:
            return p(Reshape, x)

        def rewrite(self, b: Builder, m: Match) -> Value:
            return m["x"]

    b = Builder()
    x = b.input("x", F32)
    with pytest.raises(GraphError, match=r"Wrong replaces a result of type f32\[6\] by one of f32\[2,3\]"):
        apply_rules(b.finish({"y": b(Reshape((6,)), x)}), [Wrong()])


def test_rewrites_are_counted_by_label_and_stop_at_a_limit() -> None:
    b = Builder()
    x, y = b.input("x", F32), b.input("y", F32)
    outputs = {f"o{i}": b(Add(), x, b(Neg(), y)) for i in range(5)}
    graph = b.finish(outputs)
    with recording(Ledger()) as book:
        apply_rules(graph, [AddToSub()])
    assert book.counts == {"AddToSub": 5}
    with recording(Ledger(limit=2)) as book:
        after = apply_rules(graph, [AddToSub()])
    assert (book.total, ops(after).count("sub")) == (2, 2)


class Gelu(Rule):
    def pattern(self, p: Pattern, x: Term) -> Term:
        return p.product(x, 0.5, p(Add, p(Erf, p(Mul, x, 0.5**0.5)), 1))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Silu(), m["x"])


def _gelu(inside: float, keep_erf: bool = False) -> Graph:
    b = Builder()
    x = b.input("x", F32)
    with b.at("model.py:3"):
        scaled = b(Mul(), x, b.scalar(inside, DType.f32), name="scaled")
        erf = b(Erf(), scaled, name="erf")
        one_plus = b(Add(), erf, b.scalar(1, DType.f32))
        y = b(Mul(), b(Mul(), x, b.scalar(0.5, DType.f32)), one_plus)
    return b.finish({"y": y, "erf": erf} if keep_erf else {"y": y})


def test_explain_is_empty_where_the_rule_matches() -> None:
    graph = _gelu(0.5**0.5)
    assert explain(Gelu(), graph, graph.outputs[0].node) == ""


def test_explain_names_the_constant_that_differs() -> None:
    graph = _gelu(0.7)
    assert explain(Gelu(), graph, graph.outputs[0].node) == (
        "Gelu: expected the constant 0.707107, got 0.7, at constant: f32[] (model.py:3)"
    )


def test_explain_names_a_result_that_is_needed_elsewhere() -> None:
    graph = _gelu(0.5**0.5, keep_erf=True)
    assert explain(Gelu(), graph, graph.outputs[0].node) == (
        "Gelu: the result of erf is needed outside of the pattern, at erf erf: f32[2,3] (model.py:3)"
    )


def test_explain_gives_the_reason_of_the_rule_s_own_check() -> None:
    class Checked(AddToSub):
        def check(self, m: Match) -> bool | str:
            return "it is a bad day"

    b = Builder()
    x, y = b.input("x", F32), b.input("y", F32)
    graph = b.finish({"z": b(Add(), x, b(Neg(), y))})
    assert apply_rules(graph, [Checked()]) is graph
    assert "it is a bad day" in explain(Checked(), graph, graph.outputs[0].node)


def test_long_chains_take_one_sweep() -> None:
    b = Builder()
    x = b.input("x", F32)
    y = x
    for _ in range(3001):
        y = b(Neg(), y)
    assert ops(apply_rules(b.finish({"y": y}), [DoubleNegation()])) == ["neg"]


def test_dead_nodes_are_left_alone_and_take_nothing_with_them() -> None:
    graph = read("""
    graph main(%x: f32[2]) {
      %0: f32[2] = neg(%x)
      %1: f32[2] = neg(%0)
      %2: f32[2] = neg(%1)
      %3: f32[2] = tanh(%0)
      return %3 as y
    }""")
    assert apply_rules(graph, [DoubleNegation()]) is graph
