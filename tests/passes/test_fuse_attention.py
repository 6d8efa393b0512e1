"""Attention is recovered from what exporters write, and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from hardy.compiler.ir import Builder, Value
from hardy.compiler.ops.activation import Softmax
from hardy.compiler.ops.attention import Attention
from hardy.compiler.ops.elementwise import Add, Cast, Div, Equal, Mul, Neg, Sub, Where
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.shape import BroadcastTo, Reshape, Slice, Transpose
from hardy.compiler.types import DType
from tests.passes.fusing import F32, found, require_equal_ops, s, t
from tests.rewriting import ops


def heads(b: Builder, name: str, kv: int = 4, length: int = 5) -> Value:
    """A projection [batch, length, heads, d] moved to [batch, heads, length, d]."""
    return b(Transpose((0, 2, 1, 3)), b.input(name, t(2, length, kv, 8)))


def bert(b: Builder) -> Value:
    """ONNX BERT: keys transposed at once, scores divided, a mask made from 0 and 1."""
    k = b(Transpose((0, 2, 3, 1)), b.input("k", t(2, 5, 4, 8)))
    scores = b(Div(), b(Matmul(), heads(b, "q"), k), s(b, math.sqrt(8)))
    seen = b(Reshape((2, 1, 1, 5)), b(Cast(F32), b.input("mask", t(2, 5, dtype=DType.i64))))
    hidden = b(Mul(), b(Sub(), s(b, 1), seen), s(b, float(torch.finfo(torch.float32).min)))
    return b(Matmul(), b(Softmax(3), b(Add(), scores, hidden)), heads(b, "v"))


def gpt2(b: Builder) -> Value:
    """transformers' GPT-2 without a mask of its own: a slice of a triangular buffer."""
    k = b(Transpose((0, 1, 3, 2)), heads(b, "k"))
    scores = b(Div(), b(Matmul(), heads(b, "q"), k), s(b, math.sqrt(8)))
    buffer = b.constant(torch.ones(16, 16).tril().bool().reshape(1, 1, 16, 16))
    seen = b(Slice((0, 0, 0, 0), (1, 1, 5, 5), (1, 1, 1, 1)), buffer)
    scores = b(Where(), seen, scores, s(b, float(torch.finfo(torch.float32).min)))
    return b(Matmul(), b(Softmax(3), scores), heads(b, "v"))


def repeated(b: Builder, x: Value) -> Value:
    batch, kv, length, d = x.type.shape
    wide = b(BroadcastTo((batch, kv, 2, length, d)), b(Reshape((batch, kv, 1, length, d)), x))
    return b(Reshape((batch, 2 * kv, length, d)), wide)


def llama(b: Builder) -> Value:
    """Grouped keys and values repeated, a causal mask added."""
    k, v = repeated(b, heads(b, "k", kv=2)), repeated(b, heads(b, "v", kv=2))
    scores = b(Mul(), b(Matmul(), heads(b, "q"), b(Transpose((0, 1, 3, 2)), k)), s(b, 8**-0.5))
    hidden = torch.full((5, 5), float(torch.finfo(torch.float32).min)).triu(1)
    scores = b(Add(), scores, b.constant(hidden.reshape(1, 1, 5, 5)))
    return b(Matmul(), b(Softmax(3), scores), v)


def torch_math(b: Builder) -> Value:
    """PyTorch's decomposition of scaled_dot_product_attention: the root of the scale on both sides."""
    root = s(b, 8**-0.25)
    q, k = b(Mul(), heads(b, "q"), root), b(Mul(), b(Transpose((0, 1, 3, 2)), heads(b, "k")), root)
    return b(Matmul(), b(Softmax(3), b(Matmul(), q, k)), heads(b, "v"))


def batched(b: Builder) -> Value:
    """torch.bmm over batch and heads folded together, the mask added with four axes (T5, Whisper)."""
    q, k, v = (b(Reshape((8, 5, 8)), heads(b, n)) for n in "qkv")
    scores = b(Mul(), b(Matmul(transpose_b=True), q, k), s(b, 0.5))
    scores = b(Add(), b(Reshape((2, 4, 5, 5)), scores), b.input("mask", t(2, 1, 5, 5)))
    weights = b(Reshape((8, 5, 5)), b(Softmax(3), scores))
    return b(Reshape((2, 4, 5, 8)), b(Matmul(), weights, v))


def single_head(b: Builder) -> Value:
    """Three axes only: a batch of one head each."""
    q, k, v = (b.input(n, t(2, 5, 8)) for n in "qkv")
    scores = b(Mul(), b(Matmul(transpose_b=True), q, k), s(b, 0.5))
    return b(Matmul(), b(Softmax(2), scores), v)


ATTENTIONS: list[tuple[Callable[[Builder], Value], Attention, int]] = [
    (bert, Attention(8**-0.5), 4),
    (gpt2, Attention(8**-0.5, causal=True), 4),
    (llama, Attention(8**-0.5, causal=True), 2),
    (torch_math, Attention(8**-0.5), 4),
    (batched, Attention(0.5), 4),
    (single_head, Attention(0.5), 1),
]


@pytest.mark.parametrize(("build", "op", "kv"), ATTENTIONS, ids=lambda v: getattr(v, "__name__", ""))
def test_exported_attention_is_recovered(build: Callable[[Builder], Value], op: Attention, kv: int) -> None:
    b = Builder()
    after = found(b.finish({"y": build(b)}))
    (node,) = [n for n in after.nodes if isinstance(n.op, Attention)]
    require_equal_ops(node.op, op)
    assert node.operands[1].type.shape[1] == kv
    assert not {"softmax", "matmul"} & set(ops(after))


def attention(b: Builder, hidden: Value, outside: float, extra: Value | None = None) -> Value:
    q, k, v = (b.input(n, t(1, 2, 3, 4)) for n in "qkv")
    scores = b(Where(), hidden, s(b, outside), b(Matmul(transpose_b=True), q, k))
    if extra is not None:
        scores = b(Add(), scores, extra)
    return b(Matmul(), b(Softmax(3), scores), v)


def test_rows_that_see_nothing_keep_their_nan() -> None:
    b = Builder()
    hidden = b.constant(torch.tensor([[True, True, True], [False, True, True], [False, False, True]]))
    assert "attention" not in ops(found(b.finish({"y": attention(b, hidden, -math.inf)})))


def test_a_small_penalty_is_not_a_mask() -> None:
    b = Builder()
    hidden = b(Equal(), b.input("ids", t(3)), s(b, 0))
    assert "attention" not in ops(found(b.finish({"y": attention(b, hidden, -1.0)})))


def test_two_masks_at_run_time_are_not_one() -> None:
    b = Builder()
    hidden = b(Equal(), b.input("ids", t(3)), s(b, 0))
    extra = b.input("bias", t(3, 3))
    assert "attention" not in ops(found(b.finish({"y": attention(b, hidden, -1e9, extra)})))


def test_scores_that_are_an_output_stay() -> None:
    b = Builder()
    q, k, v = (b.input(n, t(1, 2, 3, 4)) for n in "qkv")
    weights = b(Softmax(3), b(Matmul(transpose_b=True), q, k))
    after = found(b.finish({"y": b(Matmul(), weights, v), "weights": weights}))
    assert ops(after) == ["matmul", "softmax", "matmul"]


def test_a_softmax_along_the_queries_is_not_attention() -> None:
    b = Builder()
    q, k, v = (b.input(n, t(1, 2, 3, 4)) for n in "qkv")
    y = b(Matmul(), b(Softmax(2), b(Matmul(transpose_b=True), q, k)), v)
    assert "attention" not in ops(found(b.finish({"y": y})))


def test_a_mask_that_hides_nothing_goes() -> None:
    b = Builder()
    q, k, v = (b.input(n, t(1, 2, 3, 4)) for n in "qkv")
    y = b(Attention(1.0), q, k, v, b.constant(torch.ones(3, 3).bool()))
    (node,) = [n for n in found(b.finish({"y": b(Neg(), y)})).nodes if isinstance(n.op, Attention)]
    assert len(node.operands) == 3
