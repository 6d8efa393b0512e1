"""Dead code, common subexpressions, constants, transpositions and reshapes: text before and after."""

# Printed nodes are as long as they are.
# ruff: noqa: E501

from __future__ import annotations

import textwrap

import torch

from hardy.compiler.ir import Builder
from hardy.compiler.literal import Literal
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.shape import BroadcastTo, Transpose
from hardy.compiler.types import DType, TensorType
from hardy.passes import (
    AbsorbTransposes,
    CleanReshapes,
    CleanTransposes,
    EliminateCommonSubexpressions,
    EliminateDeadCode,
    FoldConstants,
    WidenConvolutions,
)
from tests.rewriting import apply, body, expect, ops, read


def test_dead_code_goes_and_inputs_stay() -> None:
    expect(
        EliminateDeadCode(),
        """
        graph main(%x: f32[2], %unused: f32[2]) {
          %0: f32[2] = neg(%x)
          %1: f32[2] = exp(%0)
          %2: f32[2] = exp(%1)
          %3: f32[2], %4: i64[2] = top_k(%0, k=2, axis=0)
          return %3 as y
        }""",
        """
        %0: f32[2] = neg(%x)
        %1: f32[2], %2: i64[2] = top_k(%0, k=2, axis=0)
        return %1 as y
        """,
    )


def test_equal_nodes_merge_whatever_the_order_of_commutative_operands() -> None:
    graph = apply(
        EliminateCommonSubexpressions(),
        EliminateDeadCode().run(
            read("""
            graph main(%x: f32[2], %y: f32[2]) {
              %a: f32[2] = constant([1.0, 2.0])
              %b: f32[2] = constant([1.0, 2.0])
              %0: f32[2] = add(%x, %a)
              %1: f32[2] = add(%b, %x)
              %2: f32[2] = exp(%0)
              %3: f32[2] = exp(%1)
              %4: f32[2] = mul(%2, %3)
              return %4 as y
            }""")
        ),
    )
    expected = """
    %a: f32[2] = constant([1.0, 2.0])
    %0: f32[2] = add(%x, %a)
    %1: f32[2] = exp(%0)
    %2: f32[2] = mul(%1, %1)
    return %2 as y
    """
    assert body(graph) == textwrap.dedent(expected).strip()


def test_large_constants_that_differ_are_told_apart_without_reading_them() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (1000,)))
    a, c, same = torch.zeros(1000), torch.ones(1000), torch.zeros(1000)
    y = b(Add(), b(Add(), b(Add(), x, b.constant(a)), b.constant(c)), b.constant(same))
    graph = b.finish({"y": y})
    after = EliminateCommonSubexpressions().run(graph)
    literals = list(after.constants())
    assert len(literals) == 2
    assert literals[1]._digest is None, "a sample was enough for the ones"


def test_constants_fold() -> None:
    expect(
        FoldConstants(),
        """
        graph main(%x: f32[2]) {
          %a: f32[2] = constant([1.0, 2.0])
          %0: f32[2] = neg(%a)
          %sum: f32[2] = add(%0, %a)  # model.py:3
          %1: f32[2] = add(%x, %sum)
          return %1 as y
        }""",
        """
        %a: f32[2] = constant([1.0, 2.0])
        %0: f32[2] = constant([-1.0, -2.0])
        %sum: f32[2] = constant([0.0, 0.0])  # model.py:3
        %1: f32[2] = add(%x, %sum)
        return %1 as y
        """,
    )


def test_what_follows_a_broadcast_folds_though_the_broadcast_stays() -> None:
    b = Builder()
    wide = b(BroadcastTo((64, 64)), b.constant(torch.arange(64.0)))
    graph = b.finish({"y": b(Add(), wide, wide)})
    after = EliminateDeadCode().run(FoldConstants().run(graph))
    assert ops(after) == []
    assert torch.equal(next(iter(after.constants())).tensor[5], 2 * torch.arange(64.0))


def test_folding_stops_at_a_total() -> None:
    b = Builder()
    column = b.constant(torch.ones(16, 1))
    row = b.constant(torch.ones(1, 16))
    graph = b.finish({f"y{i}": b(Add(), column, row) for i in range(4)})
    assert ops(FoldConstants(total=2000).run(graph)) == ["add"] * 2
    assert ops(FoldConstants().run(graph)) == []


def test_literals_that_no_pass_changes_are_not_copied() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (4, 4)))
    literal = Literal(torch.randn(4, 4))
    graph = b.finish({"y": b(Add(), b(Transpose((1, 0)), b(Transpose((1, 0)), x)), b.constant(literal))})
    (after,) = CleanTransposes().run(graph).constants()
    assert after is literal


def test_transpositions_move_past_what_commutes_and_cancel() -> None:
    expect(
        CleanTransposes(),
        """
        graph main(%x: f32[1,2,3,4], %y: f32[1,2,3,4]) {
          %c: f32[4,1,1] = constant([[[1.0]], [[2.0]], [[3.0]], [[4.0]]])
          %0: f32[1,4,2,3] = transpose(%x, permutation=(0, 3, 1, 2))
          %1: f32[1,4,2,3] = transpose(%y, permutation=(0, 3, 1, 2))
          %2: f32[1,4,2,3] = relu(%0)
          %3: f32[1,4,2,3] = add(%2, %1)
          %4: f32[1,4,2,3] = mul(%3, %c)
          %5: f32[1,8,2,3] = concat(%4, %1, axis=1)
          %6: f32[1,8,2,3] = softmax(%5, axis=2)
          %7: f32[1,8,1,3] = slice(%6, starts=(0, 0, 1, 0), stops=(1, 8, 2, 3), steps=(1, 1, 1, 1))
          %8: f32[1,9,1,3] = pad(%7, low=(0, 1, 0, 0), high=(0, 0, 0, 0))
          %9: f32[1,1,3,9] = transpose(%8, permutation=(0, 2, 3, 1))
          return %9 as y
        }""",
        """
        %c: f32[4,1,1] = constant([[[1.0]], [[2.0]], [[3.0]], [[4.0]]])
        %0: f32[1,2,3,4] = relu(%x)
        %1: f32[1,2,3,4] = add(%0, %y)
        %c~1: f32[1,1,1,4] = constant([[[[1.0, 2.0, 3.0, 4.0]]]])
        %2: f32[1,2,3,4] = mul(%1, %c~1)
        %3: f32[1,2,3,8] = concat(%2, %y, axis=3)
        %4: f32[1,2,3,8] = softmax(%3, axis=1)
        %5: f32[1,1,3,8] = slice(%4, starts=(0, 1, 0, 0), stops=(1, 2, 3, 8), steps=(1, 1, 1, 1))
        %6: f32[1,1,3,9] = pad(%5, low=(0, 0, 0, 1), high=(0, 0, 0, 0))
        return %6 as y
        """,
    )


def test_a_transposition_that_cannot_cancel_moves_behind_elementwise_ops() -> None:
    expect(
        CleanTransposes(),
        """
        graph main(%x: f32[2,3]) {
          %0: f32[3,2] = transpose(%x, permutation=(1, 0))
          %1: f32[3,2] = tanh(%0)
          %2: f32[2] = reduce_sum(%1, axes=(0,))
          return %1 as y, %2 as z
        }""",
        """
        %0: f32[2,3] = tanh(%x)
        %1: f32[2] = reduce_sum(%0, axes=(1,))
        %2: f32[3,2] = transpose(%0, permutation=(1, 0))
        return %2 as y, %1 as z
        """,
    )


def test_an_operand_is_transposed_where_that_frees_a_larger_one() -> None:
    expect(
        CleanTransposes(),
        """
        graph main(%x: f32[2,3], %s: f32[3,1]) {
          %0: f32[3,2] = transpose(%x, permutation=(1, 0))
          %1: f32[3,2] = mul(%0, %s)
          %2: f32[2,3] = transpose(%1, permutation=(1, 0))
          return %2 as y
        }""",
        """
        %0: f32[1,3] = reshape(%s, shape=(1, 3))
        %1: f32[2,3] = mul(%x, %0)
        return %1 as y
        """,
    )


def test_transpositions_pass_reshapes_that_keep_neighbours_together() -> None:
    expect(
        CleanTransposes(),
        """
        graph main(%x: f32[2,4,5,3]) {
          %0: f32[2,3,4,5] = transpose(%x, permutation=(0, 3, 1, 2))
          %1: f32[2,3,20] = reshape(%0, shape=(2, 3, 20))
          %2: f32[2,20,3] = transpose(%1, permutation=(0, 2, 1))
          return %2 as y
        }""",
        """
        %0: f32[2,20,3] = reshape(%x, shape=(2, 20, 3))
        return %0 as y
        """,
    )


def test_reshapes_around_a_linear_layer_go() -> None:
    expect(
        CleanReshapes(),
        """
        graph main(%x: f32[2,5,3], %w: f32[3,4]) {
          %b: f32[4] = constant([1.0, 2.0, 3.0, 4.0])
          %0: f32[10,3] = reshape(%x, shape=(10, 3))
          %1: f32[10,4] = matmul(%0, %w)
          %2: f32[10,4] = add(%1, %b)
          %3: f32[2,5,4] = reshape(%2, shape=(2, 5, 4))
          %4: f32[2,5,4] = gelu(%3)
          %5: f32[10,4] = reshape(%4, shape=(10, 4))
          %6: f32[10,4] = layer_norm(%5, axis=1)
          %7: f32[10,4] = softmax(%6, axis=1)
          %8: f32[2,5,4] = reshape(%7, shape=(2, 5, 4))
          return %8 as y
        }""",
        """
        %b: f32[4] = constant([1.0, 2.0, 3.0, 4.0])
        %0: f32[2,5,4] = matmul(%x, %w)
        %1: f32[2,5,4] = add(%0, %b)
        %2: f32[2,5,4] = gelu(%1)
        %3: f32[2,5,4] = layer_norm(%2, axis=2)
        %4: f32[2,5,4] = softmax(%3, axis=2)
        return %4 as y
        """,
    )


def test_products_absorb_transpositions() -> None:
    expect(
        AbsorbTransposes(),
        """
        graph main(%q: f32[2,4,8,3], %k: f32[2,8,4,3], %v: f32[3,8]) {
          %0: f32[2,4,3,8] = transpose(%k, permutation=(0, 2, 3, 1))
          %1: f32[2,4,8,8] = matmul(%q, %0)
          %2: f32[8,3] = transpose(%v, permutation=(1, 0))
          %3: f32[2,4,8,3] = matmul(%1, %2)
          return %3 as y
        }""",
        """
        %0: f32[2,4,8,3] = transpose(%k, permutation=(0, 2, 1, 3))
        %1: f32[2,4,8,8] = matmul(%q, %0, transpose_b=True)
        %2: f32[2,4,8,3] = matmul(%1, %v, transpose_b=True)
        return %2 as y
        """,
    )


def test_convolutions_over_one_axis_get_a_second() -> None:
    expect(
        WidenConvolutions(),
        """
        graph main(%x: f32[1,1,5]) {
          %w: f32[1,1,2] = constant([[[1.0, 2.0]]])
          %b: f32[1] = constant([3.0])
          %0: f32[1,1,6] = conv(%x, %w, %b, strides=(1,), padding=((1, 1),), dilations=(1,))
          %1: f32[1,1,3] = max_pool(%0, kernel=(2,), strides=(2,), padding=((0, 0),), dilations=(1,))
          return %1 as y
        }""",
        """
        %w: f32[1,1,2] = constant([[[1.0, 2.0]]])
        %b: f32[1] = constant([3.0])
        %0: f32[1,1,1,5] = reshape(%x, shape=(1, 1, 1, 5))
        %w~1: f32[1,1,1,2] = constant([[[[1.0, 2.0]]]])
        %1: f32[1,1,1,6] = conv(%0, %w~1, %b, strides=(1, 1), padding=((0, 0), (1, 1)), dilations=(1, 1))
        %2: f32[1,1,6] = reshape(%1, shape=(1, 1, 6))
        %3: f32[1,1,1,6] = reshape(%2, shape=(1, 1, 1, 6))
        %4: f32[1,1,1,3] = max_pool(%3, kernel=(1, 2), strides=(1, 2), padding=((0, 0), (0, 0)), dilations=(1, 1))
        %5: f32[1,1,3] = reshape(%4, shape=(1, 1, 3))
        return %5 as y
        """,
    )
