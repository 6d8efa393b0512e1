"""Composites are recovered from hardy's own decompositions and from what exporters write."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from hardy.compiler.ir import Builder, Op, Value
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
from hardy.compiler.ops.binary import Binarize
from hardy.compiler.ops.elementwise import Add, Cast, Div, Less, Max, Min, Mul, Pow, Sqrt, Sub, Where
from hardy.compiler.ops.norm import GroupNorm, LayerNorm, ReduceMean, RmsNorm
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.shape import Reshape
from hardy.compiler.ops.transcendental import Erf, Exp, Expm1, Log1p, Tanh
from hardy.compiler.types import DType, TensorType
from hardy.passes import Decompose
from tests.passes.fusing import F32, found, require_equal_ops, s, t
from tests.rewriting import ops

Shape = tuple[int, ...]
BOOL = DType.boolean
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
    (Binarize(), [t(2, 3)]),
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
