"""Identities: what disappears, case by case. What must stay is in test_refusals.py."""

# Printed nodes are as long as they are.
# ruff: noqa: E501

from __future__ import annotations

import pytest
import torch

from hardy.compiler.interpret import evaluate
from hardy.compiler.pipeline import Pipeline
from hardy.passes import DEFAULT, Decompose, Simplify
from tests.rewriting import apply, expect, ops, read

# Lines from %x: f32[2,3] (and %c: bool[2,3], %i: i32[4]) to the result %r, and the ops that are left.
CASES = {
    "x + 0": ("%r: f32[2,3] = add(%x, %zero)", []),
    "0 + x": ("%r: f32[2,3] = add(%zero, %x)", []),
    "x - 0": ("%r: f32[2,3] = sub(%x, %zero)", []),
    "x * 1": ("%r: f32[2,3] = mul(%one, %x)", []),
    "x / 1": ("%r: f32[2,3] = div(%x, %one)", []),
    "x ** 1": ("%r: f32[2,3] = pow(%x, %one)", []),
    "x ** 2": ("%r: f32[2,3] = pow(%x, %two)", ["mul"]),
    "x ** 3": ("%k: f32[] = constant(3.0)\n%r: f32[2,3] = pow(%x, %k)", ["mul", "mul"]),
    "x ** -1": ("%r: f32[2,3] = pow(%x, %minus)", ["div"]),
    "x / 2": ("%r: f32[2,3] = div(%x, %two)", ["mul"]),
    "x * -1": ("%r: f32[2,3] = mul(%x, %minus)", ["neg"]),
    "-(-x)": ("%0: f32[2,3] = neg(%x)\n%r: f32[2,3] = neg(%0)", []),
    "|-x|": ("%0: f32[2,3] = neg(%x)\n%r: f32[2,3] = abs(%0)", ["abs"]),
    "x + (-x)": ("%0: f32[2,3] = neg(%x)\n%r: f32[2,3] = add(%0, %x)", ["sub"]),
    "x - (-x)": ("%0: f32[2,3] = neg(%x)\n%r: f32[2,3] = sub(%x, %0)", ["add"]),
    "not not c": ("%0: bool[2,3] = not(%c)\n%r: bool[2,3] = not(%0)", []),
    "c and true": ("%t: bool[] = constant(True)\n%r: bool[2,3] = and(%c, %t)", []),
    "c or false": ("%t: bool[] = constant(False)\n%r: bool[2,3] = or(%t, %c)", []),
    "max of max": ("%0: f32[2,3] = max(%x, %one)\n%r: f32[2,3] = max(%two, %0)", ["max"]),
    "min of min": ("%0: f32[2,3] = min(%x, %one)\n%r: f32[2,3] = min(%0, %two)", ["min"]),
    "relu of relu": ("%0: f32[2,3] = relu(%x)\n%r: f32[2,3] = relu(%0)", ["relu"]),
    "clamp of relu": ("%0: f32[2,3] = relu(%x)\n%r: f32[2,3] = clamp(%0, low=-1.0, high=6.0)", ["clamp"]),
    "open clamp": ("%r: f32[2,3] = clamp(%x, low=-inf, high=inf)", []),
    "clamp from 0": ("%r: f32[2,3] = clamp(%x, low=0.0, high=inf)", ["relu"]),
    "same cast": ("%r: f32[2,3] = cast(%x, dtype=f32)", []),
    "cast there and back": ("%0: f64[2,3] = cast(%x, dtype=f64)\n%r: f32[2,3] = cast(%0, dtype=f32)", []),
    "cast by a wider type": ("%0: i64[4] = cast(%i, dtype=i64)\n%r: f32[4] = cast(%0, dtype=f32)", ["cast"]),
    "select between equals": ("%r: f32[2,3] = where(%c, %x, %x)", []),
    "select by not c": ("%0: bool[2,3] = not(%c)\n%r: f32[2,3] = where(%0, %x, %one)", ["where"]),
    "select by true": ("%t: bool[3] = constant([True, True, True])\n%r: f32[2,3] = where(%t, %x, %one)", []),
    "same reshape": ("%r: f32[2,3] = reshape(%x, shape=(2, 3))", []),
    "reshape twice": ("%0: f32[6] = reshape(%x, shape=(6,))\n%r: f32[3,2] = reshape(%0, shape=(3, 2))", ["reshape"]),
    "reshape back": ("%0: f32[6] = reshape(%x, shape=(6,))\n%r: f32[2,3] = reshape(%0, shape=(2, 3))", []),
    "transpose twice": (
        "%0: f32[3,2] = transpose(%x, permutation=(1, 0))\n%r: f32[2,3] = transpose(%0, permutation=(1, 0))",
        [],
    ),
    "transpose ones": (
        "%0: f32[1,2,3] = reshape(%x, shape=(1, 2, 3))\n%r: f32[2,1,3] = transpose(%0, permutation=(1, 0, 2))",
        ["reshape"],
    ),
    "broadcast twice": (
        "%0: f32[2,2,3] = broadcast_to(%x, shape=(2, 2, 3))\n"
        "%r: f32[4,2,2,3] = broadcast_to(%0, shape=(4, 2, 2, 3))",
        ["broadcast_to"],
    ),
    "broadcast before add": (
        "%v: f32[3] = constant([1.0, 2.0, 3.0])\n%0: f32[2,3] = broadcast_to(%v, shape=(2, 3))\n"
        "%r: f32[2,3] = add(%x, %0)",
        ["add"],
    ),
    "reverse twice": ("%0: f32[2,3] = reverse(%x, axes=(0, 1))\n%r: f32[2,3] = reverse(%0, axes=(1,))", ["reverse"]),
    "reduce nothing": ("%r: f32[2,3] = reduce_sum(%x, axes=())", []),
    "reduce ones": (
        "%0: f32[2,1,3] = reshape(%x, shape=(2, 1, 3))\n%r: f32[2,3] = reduce_mean(%0, axes=(1,))",
        [],
    ),
    "whole slice": ("%r: f32[2,3] = slice(%x, starts=(0, 0), stops=(2, 3), steps=(1, 1))", []),
    "slice of slice": (
        "%0: f32[2,2] = slice(%x, starts=(0, 0), stops=(2, 3), steps=(1, 2))\n"
        "%r: f32[1,1] = slice(%0, starts=(1, 1), stops=(2, 2), steps=(1, 1))",
        ["slice"],
    ),
    "slice of concat": (
        "%0: f32[6,3] = concat(%x, %x, %x, axis=0)\n"
        "%r: f32[2,3] = slice(%0, starts=(2, 0), stops=(4, 3), steps=(1, 1))",
        [],
    ),
    "concat of slices": (
        "%0: f32[2,1] = slice(%x, starts=(0, 0), stops=(2, 1), steps=(1, 1))\n"
        "%1: f32[2,2] = slice(%x, starts=(0, 1), stops=(2, 3), steps=(1, 1))\n"
        "%r: f32[2,3] = concat(%0, %1, axis=1)",
        [],
    ),
    "concat of concat": (
        "%0: f32[4,3] = concat(%x, %x, axis=0)\n%r: f32[6,3] = concat(%0, %x, axis=0)",
        ["concat"],
    ),
    "concat of one": ("%r: f32[2,3] = concat(%x, axis=0)", []),
    "pad by nothing": ("%r: f32[2,3] = pad(%x, low=(0, 0), high=(0, 0))", []),
    "pad twice": (
        "%0: f32[3,3] = pad(%x, low=(1, 0), high=(0, 0))\n%r: f32[3,5] = pad(%0, low=(0, 2), high=(0, 0))",
        ["pad"],
    ),
    "gather a range": (
        "%v: i64[2] = constant([1, 2])\n%r: f32[2,2] = gather(%x, %v, axis=1)",
        ["slice"],
    ),
    "gather one from the end": ("%v: i64[] = constant(-1)\n%r: f32[3] = gather(%x, %v, axis=0)", ["slice", "reshape"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_identity(name: str) -> None:
    lines, left = CASES[name]
    kind = lines.rsplit("%r: ", 1)[1].split(" = ")[0]
    text = "\n".join(
        [
            "graph main(%x: f32[2,3], %c: bool[2,3], %i: i32[4]) {",
            "%zero: f32[] = constant(0.0)",
            "%one: f32[] = constant(1.0)",
            "%two: f32[] = constant(2.0)",
            "%minus: f32[] = constant(-1.0)",
            lines,
            "return %r as y",
            "}",
        ]
    )
    graph = read(text)
    after = apply(Simplify(), graph)
    assert str(after.outputs[0].type) == kind
    assert ops(after) == left


def test_limits_that_no_float_holds_stay_exact() -> None:
    graph = read(
        """
        graph main(%x: i64[4]) {
          %low: i64[] = constant(-9007199254740993)
          %high: i64[] = constant(9007199254740993)
          %more: i64[] = constant(9007199254740995)
          %0: i64[4] = max(%x, %low)
          %1: i64[4] = min(%0, %more)
          %2: i64[4] = min(%1, %high)
          return %2 as y
        }"""
    )
    after = Pipeline((*DEFAULT, Decompose())).run(graph).graph
    for g in (graph, after):
        (y,) = evaluate(g, [torch.tensor([-(2**60), -1, 2**53 + 1, 2**60])])
        assert y.tolist() == [-(2**53) - 1, -1, 2**53 + 1, 2**53 + 1]
    assert ops(Pipeline(DEFAULT).run(graph).graph) == ["clamp"]


def test_rectifier_and_clamp_of_integers_are_one_clamp() -> None:
    expect(
        Simplify(),
        """
        graph main(%x: i8[4]) {
          %0: i8[4] = relu(%x)
          %1: i8[4] = clamp(%0, low=-4, high=5)
          return %1 as y
        }""",
        """
        %0: i8[4] = clamp(%x, low=0.0, high=5)
        return %0 as y
        """,
    )


def test_padding_moves_into_the_window() -> None:
    expect(
        Simplify(),
        """
        graph main(%x: f32[1,2,3,3], %w: f32[2,2,3,3]) {
          %0: f32[1,2,5,5] = pad(%x, low=(0, 0, 1, 1), high=(0, 0, 1, 1))
          %1: f32[1,2,3,3] = conv(%0, %w, strides=(1, 1), padding=((0, 0), (0, 0)), dilations=(1, 1))
          %2: f32[1,2,4,4] = pad(%1, low=(0, 0, 1, 0), high=(0, 0, 0, 1), value=-inf)
          %3: f32[1,2,3,3] = max_pool(%2, kernel=(2, 2), strides=(1, 1), padding=((0, 0), (0, 0)), dilations=(1, 1))
          %4: f32[1,2,4,4] = pad(%3, low=(0, 0, 1, 1), high=(0, 0, 0, 0))
          %5: f32[1,2,2,2] = avg_pool(%4, kernel=(2, 2), strides=(2, 2), padding=((0, 0), (0, 0)), dilations=(1, 1))
          return %5 as y
        }""",
        """
        %0: f32[1,2,3,3] = conv(%x, %w, strides=(1, 1), padding=((1, 1), (1, 1)), dilations=(1, 1))
        %1: f32[1,2,3,3] = max_pool(%0, kernel=(2, 2), strides=(1, 1), padding=((1, 0), (0, 1)), dilations=(1, 1))
        %2: f32[1,2,2,2] = avg_pool(%1, kernel=(2, 2), strides=(2, 2), padding=((1, 0), (1, 0)), dilations=(1, 1), count_padding=True)
        return %2 as y
        """,
    )
