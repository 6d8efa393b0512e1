"""Batch normalization and constant factors go into weights."""

from __future__ import annotations

import pytest
import torch

from hardy.compiler.ir import Builder, Graph, Value
from hardy.compiler.ops.elementwise import Add, Div, Mul, Sub
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import BatchNorm
from hardy.compiler.types import DType, TensorType
from hardy.passes import EliminateDeadCode, FoldBatchNorm
from tests.rewriting import apply, expect, ops


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def folded(graph: Graph) -> list[str]:
    return ops(EliminateDeadCode().run(apply(FoldBatchNorm(), graph)))


def norm(b: Builder, x: Value, axis: int = 1) -> Value:
    n = x.type.shape[axis]
    parameters = [random(n), random(n + 0), random(n), random(n).abs() + 0.1]
    return b(BatchNorm(1e-3, axis), x, *map(b.constant, parameters))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_batch_norm_folds_into_a_convolution(bias: bool, layout: str, groups: int) -> None:
    b = Builder()
    last = layout == "channels_last"
    x = b.input("x", TensorType(DType.f32, (2, 5, 5, 4) if last else (2, 4, 5, 5)))
    operands = [x, b.constant(random(8, 4 // groups, 3, 3)), *([b.constant(random(8))] if bias else [])]
    y = b(Conv((1, 1), ((1, 1), (1, 1)), (1, 1), groups, layout), *operands)
    assert folded(b.finish({"y": norm(b, y, 3 if last else 1)})) == ["conv"]


def test_factors_and_offsets_fold_into_a_convolution_one_after_the_other() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (2, 3, 5)))
    y = b(Conv((1,), ((0, 0),), (1,)), x, b.constant(random(4, 3, 1)))
    y = b(Sub(), y, b.constant(random(4, 1)))
    y = b(Mul(), b.constant(random(1, 4, 1)), y)
    y = b(Add(), y, b.scalar(0.5, DType.f32))
    y = b(Div(), y, b.constant(random(4, 1).abs() + 1))
    assert folded(b.finish({"y": y})) == ["conv"]


@pytest.mark.parametrize("flip", [False, True])
def test_a_batch_norm_folds_into_a_matrix_product_and_its_offset(flip: bool) -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (6, 3)))
    y = b(Matmul(transpose_b=flip), x, b.constant(random(4, 3) if flip else random(3, 4)))
    y = b(Add(), b.constant(random(4)), y)
    assert folded(b.finish({"y": norm(b, y)})) == ["matmul", "add"]


def test_a_factor_folds_into_a_matrix_product() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (2, 6, 3)))
    y = b(Matmul(), x, b.constant(random(3, 4)))
    assert folded(b.finish({"y": b(Div(), y, b.scalar(3.0, DType.f32))})) == ["matmul"]


def test_a_batch_norm_alone_is_one_product_and_one_sum() -> None:
    expect(
        FoldBatchNorm(),
        """
        graph main(%x: f32[1,2,3]) {
          %w: f32[2] = constant([2.0, 4.0])
          %b: f32[2] = constant([0.0, 1.0])
          %m: f32[2] = constant([1.0, 2.0])
          %v: f32[2] = constant([3.0, 15.0])
          %y: f32[1,2,3] = batch_norm(%x, %w, %b, %m, %v, epsilon=1.0)
          return %y as y
        }""",
        """
        %0: f32[2,1] = constant([[1.0], [1.0]])
        %1: f32[2,1] = constant([[-1.0], [-1.0]])
        %2: f32[1,2,3] = mul(%x, %0)
        %y: f32[1,2,3] = add(%2, %1)
        return %y as y
        """,
    )


def test_weights_are_computed_wide_and_rounded_once() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f16, (1, 1, 2)))
    weight = torch.tensor([[[0.1]]], dtype=torch.float16)
    y = b(Conv((1,), ((0, 0),), (1,)), x, b.constant(weight))
    y = b(Mul(), b(Mul(), y, b.scalar(1.1, DType.f16)), b.scalar(0.9, DType.f16))
    graph = EliminateDeadCode().run(FoldBatchNorm().run(b.finish({"y": y})))
    once = (weight.double() * torch.tensor(1.1).half().double()).half()
    expected = (once.double() * torch.tensor(0.9).half().double()).half()
    (literal,) = graph.constants()
    assert torch.equal(literal.tensor, expected)
