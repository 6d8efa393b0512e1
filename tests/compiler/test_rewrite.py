"""Rules, the driver, and why a rule does not match."""

from __future__ import annotations

import pytest

from hardy.compiler.errors import GraphError
from hardy.compiler.ir import Builder, Graph, Value
from hardy.compiler.ledger import Ledger, recording
from hardy.compiler.ops.activation import Relu, Silu
from hardy.compiler.ops.elementwise import Add, Div, Mul, Neg, Sub
from hardy.compiler.ops.shape import Reshape
from hardy.compiler.ops.transcendental import Erf
from hardy.compiler.rewrite import Match, Pattern, Rule, Term, apply_rules, explain
from hardy.compiler.types import DType
from tests.compiler.rules import F32, AddToSub, DoubleNegation
from tests.rewriting import body, ops, read


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
