"""What passes must leave alone: rewrites that would be wrong, repeat work, or grow the graph."""

# Printed nodes are as long as they are.
# ruff: noqa: E501

from __future__ import annotations

import pytest

from hardy.compiler.pipeline import Pass, Pipeline
from hardy.passes import (
    DEFAULT,
    AbsorbTransposes,
    CleanReshapes,
    CleanTransposes,
    EliminateCommonSubexpressions,
    FoldBatchNorm,
    FoldConstants,
    FusePatterns,
    Simplify,
)
from tests.rewriting import expect_unchanged, read

HEAD = "graph main(%x: f32[2,3], %y: f32[2,3], %c: bool[2,3], %i: i32[4], %m: f32[1,2,4,4]) {\n"

SIMPLIFY = {
    "x * 0 is NaN for infinities": "%k: f32[] = constant(0.0)\n%r: f32[2,3] = mul(%x, %k)",
    "x - x is NaN for infinities": "%r: f32[2,3] = sub(%x, %x)",
    "x / x is NaN for zero": "%r: f32[2,3] = div(%x, %x)",
    "0 - x is not x": "%k: f32[] = constant(0.0)\n%r: f32[2,3] = sub(%k, %x)",
    "1 / x is not x": "%k: f32[] = constant(1.0)\n%r: f32[2,3] = div(%k, %x)",
    "x / 3 rounds otherwise than x * (1/3)": "%k: f32[] = constant(3.0)\n%r: f32[2,3] = div(%x, %k)",
    "integers do not divide by multiplying": "%k: i32[] = constant(2)\n%r: i32[4] = div(%i, %k)",
    "a zero of higher rank changes the shape": "%k: f32[1,1,1] = constant([[[0.0]]])\n%r: f32[1,2,3] = add(%x, %k)",
    "i32 does not fit f32": "%0: f32[4] = cast(%i, dtype=f32)\n%r: i32[4] = cast(%0, dtype=i32)",
    "a cast to bool forgets": "%0: bool[4] = cast(%i, dtype=bool)\n%r: i32[4] = cast(%0, dtype=i32)",
    "a cast to i8 wraps": "%0: i8[4] = cast(%i, dtype=i8)\n%r: i32[4] = cast(%0, dtype=i32)",
    "f16 rounds": "%0: f16[2,3] = cast(%x, dtype=f16)\n%r: f32[2,3] = cast(%0, dtype=f32)",
    "clamps that do not overlap": (
        "%0: f32[2,3] = clamp(%x, low=0.0, high=1.0)\n%r: f32[2,3] = clamp(%0, low=2.0, high=3.0)"
    ),
    "a condition that varies": "%t: bool[3] = constant([True, False, True])\n%r: f32[2,3] = where(%t, %x, %y)",
    "a choice that broadcasts": "%t: bool[] = constant(True)\n%k: f32[3] = constant([1.0, 2.0, 3.0])\n"
    "%r: f32[2,3] = where(%t, %k, %x)",
    "a slice across pieces": "%0: f32[4,3] = concat(%x, %y, axis=0)\n"
    "%r: f32[2,3] = slice(%0, starts=(1, 0), stops=(3, 3), steps=(1, 1))",
    "slices out of order": "%0: f32[2,1] = slice(%x, starts=(0, 0), stops=(2, 1), steps=(1, 1))\n"
    "%1: f32[2,2] = slice(%x, starts=(0, 1), stops=(2, 3), steps=(1, 1))\n%r: f32[2,3] = concat(%1, %0, axis=1)",
    "slices of two tensors": "%0: f32[2,1] = slice(%x, starts=(0, 0), stops=(2, 1), steps=(1, 1))\n"
    "%1: f32[2,2] = slice(%y, starts=(0, 1), stops=(2, 3), steps=(1, 1))\n%r: f32[2,3] = concat(%0, %1, axis=1)",
    "positions out of order": "%v: i64[2] = constant([2, 1])\n%r: f32[2,2] = gather(%x, %v, axis=1)",
    "paddings of two values": "%0: f32[3,3] = pad(%x, low=(1, 0), high=(0, 0))\n"
    "%r: f32[3,5] = pad(%0, low=(0, 2), high=(0, 0), value=1.0)",
    "padding that max_pool does not use": "%0: f32[1,2,5,4] = pad(%m, low=(0, 0, 1, 0), high=(0, 0, 0, 0))\n"
    "%r: f32[1,2,4,4] = max_pool(%0, kernel=(2, 1), strides=(1, 1), padding=((0, 0), (0, 0)), dilations=(1, 1))",
    "padding of channels": "%w: f32[1,3,1,1] = constant([[[[1.0]], [[2.0]], [[3.0]]]])\n"
    "%0: f32[1,3,4,4] = pad(%m, low=(0, 1, 0, 0), high=(0, 0, 0, 0))\n"
    "%r: f32[1,1,4,4] = conv(%0, %w, strides=(1, 1), padding=((0, 0), (0, 0)), dilations=(1, 1))",
    "a broadcast that makes the shape": "%k: f32[] = constant(1.0)\n"
    "%0: f32[4,2,3] = broadcast_to(%x, shape=(4, 2, 3))\n%r: f32[4,2,3] = add(%0, %k)",
    "mean of several": "%r: f32[2] = reduce_mean(%x, axes=(1,))",
}

FUSE = {
    "softmax over other elements than it sums": "%0: f32[2,1] = reduce_max(%x, axes=(1,), keepdims=True)\n"
    "%1: f32[2,3] = sub(%x, %0)\n%2: f32[2,3] = exp(%1)\n%3: f32[1,3] = reduce_sum(%2, axes=(0,), keepdims=True)\n"
    "%r: f32[2,3] = div(%2, %3)",
    "a sum over another count": "%k: f32[] = constant(4.0)\n%0: f32[2] = reduce_sum(%x, axes=(1,))\n"
    "%r: f32[2] = div(%0, %k)",
    "sigmoid times something else": "%0: f32[2,3] = sigmoid(%x)\n%r: f32[2,3] = mul(%y, %0)",
    "an empty range": "%a: f32[] = constant(3.0)\n%b: f32[] = constant(1.0)\n%0: f32[2,3] = max(%x, %a)\n"
    "%r: f32[2,3] = min(%0, %b)",
    "gelu with another constant": "%h: f32[] = constant(0.5)\n%k: f32[] = constant(0.7)\n%1: f32[] = constant(1.0)\n"
    "%2: f32[2,3] = mul(%x, %k)\n%3: f32[2,3] = erf(%2)\n%4: f32[2,3] = add(%3, %1)\n%5: f32[2,3] = mul(%x, %4)\n"
    "%r: f32[2,3] = mul(%5, %h)",
    "a normalization of the first axis": "%0: f32[1,3] = reduce_mean(%x, axes=(0,), keepdims=True)\n"
    "%1: f32[2,3] = sub(%x, %0)\n%2: f32[2,3] = mul(%1, %1)\n%3: f32[1,3] = reduce_mean(%2, axes=(0,), keepdims=True)\n"
    "%e: f32[] = constant(0.01)\n%4: f32[1,3] = add(%3, %e)\n%5: f32[1,3] = sqrt(%4)\n%r: f32[2,3] = div(%1, %5)",
    "a weight of another shape": "%k: f32[2,1] = constant([[1.0], [2.0]])\n%0: f32[2,3] = layer_norm(%x, axis=1)\n"
    "%r: f32[2,3] = mul(%0, %k)",
}

FOLD = {
    "a convolution that is needed as it is": (
        FoldBatchNorm(),
        "%w: f32[1,2,1,1] = constant([[[[1.0]], [[2.0]]]])\n%k: f32[] = constant(3.0)\n"
        "%0: f32[1,1,4,4] = conv(%m, %w, strides=(1, 1), padding=((0, 0), (0, 0)), dilations=(1, 1))\n"
        "%1: f32[1,1,4,4] = mul(%0, %k)\n%r: f32[1,1,4,4] = add(%0, %1)",
    ),
    "a factor that varies over the image": (
        FoldBatchNorm(),
        "%w: f32[1,2,1,1] = constant([[[[1.0]], [[2.0]]]])\n%k: f32[4] = constant([1.0, 2.0, 3.0, 4.0])\n"
        "%0: f32[1,1,4,4] = conv(%m, %w, strides=(1, 1), padding=((0, 0), (0, 0)), dilations=(1, 1))\n"
        "%r: f32[1,1,4,4] = mul(%0, %k)",
    ),
    "a quotient by the convolution": (
        FoldBatchNorm(),
        "%w: f32[1,2,1,1] = constant([[[[1.0]], [[2.0]]]])\n%k: f32[] = constant(3.0)\n"
        "%0: f32[1,1,4,4] = conv(%m, %w, strides=(1, 1), padding=((0, 0), (0, 0)), dilations=(1, 1))\n"
        "%r: f32[1,1,4,4] = div(%k, %0)",
    ),
    "a batch norm with parameters at run time": (
        FoldBatchNorm(),
        "%k: f32[3] = constant([1.0, 2.0, 3.0])\n%v: f32[3] = reduce_sum(%x, axes=(0,))\n"
        "%r: f32[2,3] = batch_norm(%x, %k, %v, %k, %k)",
    ),
    "a product that stays a product with an offset": (
        FoldBatchNorm(),
        "%w: f32[3,2] = constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])\n%b: f32[2] = constant([1.0, 2.0])\n"
        "%0: f32[2,2] = matmul(%x, %w)\n%r: f32[2,2] = add(%0, %b)",
    ),
    "a broadcast of a constant": (
        FoldConstants(),
        "%k: f32[] = constant(1.0)\n%r: f32[1024,1024] = broadcast_to(%k, shape=(1024, 1024))",
    ),
    "growth beyond the limit": (
        FoldConstants(growth=64),
        "%k: f32[8,1] = constant([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0], [8.0]])\n"
        "%r: f32[8,8] = matmul(%k, %k, transpose_b=True)",
    ),
    "an integer division by zero": (
        FoldConstants(),
        "%a: i32[] = constant(1)\n%b: i32[] = constant(0)\n%r: i32[] = div(%a, %b)",
    ),
    "a shift by more than the type has": (
        FoldConstants(),
        "%a: i32[] = constant(1)\n%b: i32[] = constant(40)\n%r: i32[] = shift_left(%a, %b)",
    ),
    "zeros of two signs": (
        EliminateCommonSubexpressions(),
        "%0: f32[3,3] = pad(%x, low=(1, 0), high=(0, 0))\n"
        "%1: f32[3,3] = pad(%x, low=(1, 0), high=(0, 0), value=-0.0)\n%r: f32[3,3] = div(%0, %1)",
    ),
    "operands in another order": (
        EliminateCommonSubexpressions(),
        "%0: f32[2,3] = sub(%x, %y)\n%1: f32[2,3] = sub(%y, %x)\n%r: f32[2,3] = add(%0, %1)",
    ),
}

MOVE = {
    "one transposition for two uses would become two": (
        CleanTransposes(),
        "%0: f32[3,2] = transpose(%x, permutation=(1, 0))\n%1: f32[3,2] = neg(%0)\n%2: f32[3,2] = abs(%0)\n"
        "%w: f32[2,1] = constant([[1.0], [2.0]])\n%3: f32[3,1] = matmul(%1, %w)\n%4: f32[3,1] = matmul(%2, %w)\n"
        "%r: f32[3,1] = add(%3, %4)",
    ),
    "a transposition that would grow": (
        CleanTransposes(),
        "%0: i8[2,3] = cast(%x, dtype=i8)\n%1: i8[3,2] = transpose(%0, permutation=(1, 0))\n"
        "%r: f32[3,2] = cast(%1, dtype=f32)",
    ),
    "a normalization of a moved axis": (
        CleanTransposes(),
        "%0: f32[3,2] = transpose(%x, permutation=(1, 0))\n%r: f32[3,2] = layer_norm(%0, axis=1)",
    ),
    "a reshape that merges axes which were not neighbours": (
        CleanTransposes(),
        "%0: f32[3,2] = transpose(%x, permutation=(1, 0))\n%r: f32[6] = reshape(%0, shape=(6,))",
    ),
    "a reshape that merges neighbours in the wrong order": (
        CleanTransposes(),
        "%0: f32[1,4,4,2] = transpose(%m, permutation=(0, 3, 2, 1))\n%r: f32[1,16,2] = reshape(%0, shape=(1, 16, 2))",
    ),
    "a vector across merged axes": (
        CleanReshapes(),
        "%k: f32[2] = constant([1.0, 2.0])\n%0: f32[3,2] = reshape(%x, shape=(3, 2))\n%r: f32[3,2] = add(%0, %k)",
    ),
    "a product along a split axis": (
        CleanReshapes(),
        "%w: f32[2,2] = constant([[1.0, 2.0], [3.0, 4.0]])\n%0: f32[3,2] = reshape(%x, shape=(3, 2))\n"
        "%r: f32[3,2] = matmul(%0, %w)",
    ),
    "a transposition of batches": (
        AbsorbTransposes(),
        "%0: f32[2,1,4,4] = transpose(%m, permutation=(1, 0, 2, 3))\n%r: f32[2,2,4,4] = matmul(%0, %m)",
    ),
}

ALL: dict[str, tuple[Pass, str]] = {
    **{name: (Simplify(), text) for name, text in SIMPLIFY.items()},
    **{name: (FusePatterns(), text) for name, text in FUSE.items()},
    **FOLD,
    **MOVE,
}


@pytest.mark.parametrize("name", ALL)
def test_left_alone(name: str) -> None:
    pass_, lines = ALL[name]
    expect_unchanged(pass_, f"{HEAD}{lines}\nreturn %r as y\n}}")


@pytest.mark.parametrize(
    ("dtype", "lines"),
    [
        ("u8", "%n: u8[9] = neg(%x)\n%r: u8[9] = abs(%n)"),
        ("u4", "%n: u4[9] = neg(%x)\n%r: u4[9] = abs(%n)"),
        ("i64", "%r: i64[9] = clamp(%x, low=-9007199254740993, high=9007199254740993)"),
        ("bool", "%c: bool[] = constant(False)\n%r: bool[9] = max(%x, %c)"),
    ],
)
def test_what_holds_for_other_types_alone_is_not_done(dtype: str, lines: str) -> None:
    graph = read(f"graph main(%x: {dtype}[9]) {{\n{lines}\nreturn %r as y\n}}")
    assert Pipeline(DEFAULT).run(graph).graph is graph
