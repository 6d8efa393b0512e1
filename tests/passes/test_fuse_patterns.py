"""Composites are recovered from hardy's own decompositions and from what exporters write."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import pytest
import torch

from hardy.compiler.ir import Builder, Graph, Op, Value
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
from hardy.compiler.ops.attention import Attention
from hardy.compiler.ops.elementwise import (
    Add,
    Cast,
    Div,
    Equal,
    Less,
    Max,
    Min,
    Mul,
    Neg,
    Pow,
    Sqrt,
    Sub,
    Where,
)
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.norm import GroupNorm, LayerNorm, ReduceMean, RmsNorm
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.shape import BroadcastTo, Reshape, Slice, Transpose
from hardy.compiler.ops.transcendental import Erf, Exp, Expm1, Log1p, Tanh
from hardy.compiler.pipeline import Pipeline, Validate
from hardy.compiler.types import DType, TensorType
from hardy.passes import DEFAULT, Decompose
from tests.rewriting import ops

Shape = tuple[int, ...]
F32 = DType.f32
BOOL = DType.boolean


def t(*shape: int, dtype: DType = F32) -> TensorType:
    return TensorType(dtype, shape)


def found(graph: Graph) -> Graph:
    """The graph after the default pipeline, validated at every step."""
    return Pipeline(DEFAULT).run(graph, [Validate()]).graph


def require_equal_ops(actual: Op, expected: Op) -> None:
    """The same op and attributes, floats within the rounding of a constant."""
    assert type(actual) is type(expected)
    for field in fields(expected):
        a, e = getattr(actual, field.name), getattr(expected, field.name)
        assert a == pytest.approx(e, rel=1e-6) if isinstance(e, float) else a == e, field.name


QKV = [t(2, 4, 5, 8), t(2, 4, 7, 8), t(2, 4, 7, 6)]
SHARED = [t(2, 4, 5, 8), t(2, 2, 7, 8), t(2, 2, 7, 6)]
ONE_HEAD = [t(2, 4, 5, 8), t(2, 1, 7, 8), t(2, 1, 7, 6)]
OWN: list[tuple[Op, list[TensorType]]] = [
    (Relu(), [t(2, 3)]),
    (Clamp(-1.0, 2.0), [t(2, 3)]),
    (Clamp(-1, 2), [t(2, 3, dtype=DType.i32)]),
    (Sigmoid(), [t(2, 3)]),
    (HardSigmoid(), [t(2, 3)]),
    (HardSigmoid(0.2, 0.4), [t(2, 3)]),
    (HardSwish(), [t(2, 3)]),
    (Silu(), [t(2, 3)]),
    (Gelu(), [t(2, 3)]),
    (Gelu(), [t(2, 3, dtype=DType.f16)]),
    (Gelu("tanh"), [t(2, 3)]),
    (Softplus(), [t(2, 3)]),
    (Mish(), [t(2, 3)]),
    (LeakyRelu(0.1), [t(2, 3)]),
    (Elu(), [t(2, 3)]),
    (Elu(0.5), [t(2, 3)]),
    (Mod(), [t(2, 3), t(2, 3)]),
    (Softmax(1), [t(2, 3)]),
    (Softmax(0), [t(2, 3)]),
    (LogSoftmax(1), [t(2, 3)]),
    (ReduceMean((0, 2)), [t(2, 3, 4)]),
    (LayerNorm(1), [t(2, 3, 4)]),
    (LayerNorm(2), [t(2, 3, 4), t(4)]),
    (LayerNorm(1, 1e-12), [t(2, 3), t(3), t(3)]),
    (RmsNorm(1), [t(2, 3)]),
    (RmsNorm(1), [t(2, 3), t(3)]),
    (GroupNorm(2), [t(2, 4, 5, 5)]),
    (Attention(0.3), QKV),
    (Attention(0.3), [*QKV, t(2, 1, 5, 7)]),
    (Attention(0.3), [*QKV, t(5, 7, dtype=BOOL)]),
    (Attention(0.3, causal=True, offset=2), QKV),
    (Attention(0.3, causal=True), [*SHARED, t(2, 4, 5, 7)]),
    (Attention(0.3, causal=True, offset=2), [*SHARED, t(2, 1, 5, 7, dtype=BOOL)]),
    (Attention(0.3, softcap=5.0), ONE_HEAD),
    (Attention(0.3, causal=True, softcap=5.0), [*ONE_HEAD, t(1, 1, 5, 7)]),
]


@pytest.mark.parametrize(("op", "types"), OWN, ids=lambda v: v.name if isinstance(v, Op) else str(len(v)))
def test_own_decompositions_are_recovered(op: Op, types: list[TensorType]) -> None:
    b = Builder()
    graph = b.finish({"y": b(op, *[b.input(f"x{i}", x) for i, x in enumerate(types)])})
    core = Decompose().run(graph)
    assert core is not graph
    after = found(core)
    assert ops(after) == [op.name]
    require_equal_ops(after.outputs[0].op, op)


def test_a_weighted_group_norm_is_recovered() -> None:
    b = Builder()
    x = b.input("x", t(2, 4, 3, 3))
    y = b(GroupNorm(2), x, b.constant(torch.arange(4.0)), b.constant(torch.ones(4)))
    assert ops(found(Decompose().run(b.finish({"y": y})))) == ["group_norm"]


# What exporters write: x to the result, and the op that it must become.


def s(b: Builder, number: float) -> Value:
    return b.scalar(number, F32)


def onnx_gelu(b: Builder, x: Value) -> Value:
    """BERT through PyTorch's ONNX exporter."""
    erf = b(Erf(), b(Div(), x, s(b, 1.4142135381698608)))
    return b(Mul(), b(Mul(), x, b(Add(), erf, s(b, 1))), s(b, 0.5))


def gelu_of_halves(b: Builder, x: Value) -> Value:
    erf = b(Erf(), b(Mul(), x, s(b, 0.70710678)))
    return b(Mul(), x, b(Add(), b(Mul(), erf, s(b, 0.5)), s(b, 0.5)))


def gpt2_gelu(b: Builder, x: Value) -> Value:
    """transformers' NewGELUActivation."""
    inner = b(Add(), x, b(Mul(), s(b, 0.044715), b(Pow(), x, s(b, 3))))
    tanh = b(Tanh(), b(Mul(), s(b, math.sqrt(2 / math.pi)), inner))
    return b(Mul(), b(Mul(), s(b, 0.5), x), b(Add(), s(b, 1), tanh))


def fast_gelu(b: Builder, x: Value) -> Value:
    """transformers' FastGELUActivation."""
    inner = b(Add(), s(b, 1), b(Mul(), b(Mul(), s(b, 0.044715), x), x))
    tanh = b(Tanh(), b(Mul(), b(Mul(), x, s(b, 0.7978845608)), inner))
    return b(Mul(), b(Mul(), s(b, 0.5), x), b(Add(), s(b, 1), tanh))


def silu_by_division(b: Builder, x: Value) -> Value:
    return b(Div(), x, b(Add(), b(Exp(), b(Mul(), x, s(b, -1))), s(b, 1)))


def relu6(b: Builder, x: Value) -> Value:
    return b(Min(), b(Max(), x, s(b, 0)), s(b, 6))


def hard_swish_gate_divided(b: Builder, x: Value) -> Value:
    return b(Mul(), x, b(Div(), relu6(b, b(Add(), x, s(b, 3))), s(b, 6)))


def hard_swish_by_sixths(b: Builder, x: Value) -> Value:
    return b(Mul(), b(Mul(), x, relu6(b, b(Add(), x, s(b, 3)))), s(b, 1 / 6))


def hard_swish_of_sigmoid(b: Builder, x: Value) -> Value:
    """ONNX HardSigmoid as MobileNetV3 writes it, with few digits."""
    return b(Mul(), x, b(HardSigmoid(0.1666666716337204, 0.5), x))


def hard_sigmoid_divided(b: Builder, x: Value) -> Value:
    return b(Div(), relu6(b, b(Add(), x, s(b, 3))), s(b, 6))


def softplus_threshold(b: Builder, x: Value) -> Value:
    """PyTorch's decomposition."""
    return b(Where(), b(Less(), s(b, 20), x), x, b(Log1p(), b(Exp(), x)))


def elu_where(b: Builder, x: Value) -> Value:
    """PyTorch's decomposition."""
    return b(Where(), b(Less(), s(b, 0), x), x, b(Mul(), b(Expm1(), x), s(b, 0.5)))


def leaky_where(b: Builder, x: Value) -> Value:
    return b(Where(), b(Less(), s(b, 0), x), x, b(Mul(), s(b, 0.2), x))


def centred(b: Builder, x: Value) -> Value:
    return b(Sub(), x, b(ReduceMean((2,), True), x))


def onnx_layer_norm(b: Builder, x: Value) -> Value:
    """Opsets before 17."""
    c = centred(b, x)
    variance = b(ReduceMean((2,), True), b(Pow(), c, s(b, 2)))
    y = b(Div(), c, b(Sqrt(), b(Add(), variance, s(b, 1e-5))))
    return b(Add(), b(Mul(), y, b.constant(torch.arange(1.0, 5.0))), b.constant(torch.ones(4)))


def torch_layer_norm(b: Builder, x: Value) -> Value:
    """PyTorch's decomposition of native_layer_norm, the difference computed twice."""
    variance = b(ReduceMean((2,), True), b(Mul(), centred(b, x), centred(b, x)))
    y = b(Mul(), centred(b, x), b(Pow(), b(Add(), variance, s(b, 1e-5)), s(b, -0.5)))
    return b(Add(), b(Mul(), y, b.constant(torch.arange(1.0, 5.0))), b.constant(torch.ones(4)))


def llama_norm(b: Builder, x: Value) -> Value:
    """transformers' LlamaRMSNorm, whose casts do nothing in f32."""
    wide = b(Cast(F32), x)
    mean = b(ReduceMean((2,), True), b(Pow(), wide, s(b, 2)))
    root = b(Div(), s(b, 1), b(Sqrt(), b(Add(), mean, s(b, 1e-5))))
    return b(Mul(), b.constant(torch.arange(1.0, 5.0)), b(Cast(F32), b(Mul(), wide, root)))


def mean_by_inverse(b: Builder, x: Value) -> Value:
    return b(Mul(), b(ReduceSum((1, 2)), x), s(b, 1 / 12))


def onnx_group_norm(b: Builder, x: Value) -> Value:
    """PyTorch's ONNX exporter: an instance norm of the groups, then weights."""
    flat = b(Reshape((2, 3, 4)), x)
    y = b(GroupNorm(3), flat, b.constant(torch.ones(3)), b.constant(torch.zeros(3)))
    y = b(Reshape((2, 3, 4)), y)
    return b(Add(), b(Mul(), y, b.constant(torch.arange(3.0).reshape(3, 1))), b.constant(torch.ones(3, 1)))


EXPORTED: list[tuple[Callable[[Builder, Value], Value], Op]] = [
    (onnx_gelu, Gelu()),
    (gelu_of_halves, Gelu()),
    (gpt2_gelu, Gelu("tanh")),
    (fast_gelu, Gelu("tanh")),
    (silu_by_division, Silu()),
    (relu6, Clamp(0.0, 6.0)),
    (hard_swish_gate_divided, HardSwish()),
    (hard_swish_by_sixths, HardSwish()),
    (hard_swish_of_sigmoid, HardSwish()),
    (hard_sigmoid_divided, HardSigmoid()),
    (softplus_threshold, Softplus()),
    (elu_where, Elu(0.5)),
    (leaky_where, LeakyRelu(0.2)),
    (onnx_layer_norm, LayerNorm(2, 1e-5)),
    (torch_layer_norm, LayerNorm(2, 1e-5)),
    (llama_norm, RmsNorm(2, 1e-5)),
    (mean_by_inverse, ReduceMean((1, 2))),
    (onnx_group_norm, GroupNorm(3)),
]


@pytest.mark.parametrize(("build", "op"), EXPORTED, ids=lambda v: getattr(v, "__name__", ""))
def test_exported_forms_are_recovered(build: Callable[[Builder, Value], Value], op: Op) -> None:
    b = Builder()
    x = b.input("x", t(2, 3, 4))
    after = found(b.finish({"y": build(b, x)}))
    assert ops(after) == [op.name]
    require_equal_ops(after.outputs[0].op, op)


HEADS = (2, 5, 4, 8)


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
