"""Every op: its reference against its shape rule, its decomposition and independent results."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from hardy.compiler.conformance import Case, all_cases
from hardy.compiler.conformance.case import case, parse_type
from hardy.compiler.errors import GraphError
from hardy.compiler.interpret import evaluate, run
from hardy.compiler.ir import Builder, Graph, Node, Op, Value, decompose, transform
from hardy.compiler.ops import OPS
from hardy.compiler.ops.activation import Clamp, Gelu, Relu
from hardy.compiler.ops.attention import Attention
from hardy.compiler.ops.elementwise import Abs, Add, Mul, Neg, Not, Sign, Sub, Where
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.quant import IntegerConv, IntegerMatmul, Quantize, Requantize
from hardy.compiler.ops.recurrent import Gru, Lstm, Rnn
from hardy.compiler.ops.reduce import ReduceSum, TopK
from hardy.compiler.ops.resize import Resize
from hardy.compiler.ops.shape import Concat, Gather, Pad, Reshape, Slice, Transpose
from hardy.compiler.tolerance import require_close
from hardy.compiler.types import DType
from hardy.compiler.verify import verify
from tests.integer_strategies import integer_graphs, integer_inputs

CASES = all_cases()
COMPOSITES = [c for c in CASES if not c.op.is_core()]


def decompose_fully(graph: Graph) -> Graph:
    def expand(b: Builder, node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...] | None:
        return None if node.op.is_core() else decompose(b, node, operands)

    while True:
        smaller = transform(graph, expand)
        if smaller is graph:
            return graph
        graph = smaller


def test_case_names_are_unique() -> None:
    assert len({c.name for c in CASES}) == len(CASES)


def test_every_op_has_a_conformance_case() -> None:
    assert set(OPS) - {c.op.name for c in CASES} == {"input", "constant", "group"}


def test_every_op_is_documented_and_frozen() -> None:
    for op in OPS.values():
        assert op.__doc__, op
        assert dataclasses.is_dataclass(op), op


@pytest.mark.parametrize("chunk", range(8))
def test_reference_results_have_the_type_of_the_shape_rule(chunk: int) -> None:
    for c in CASES[chunk::8]:
        verify(c.graph)
        evaluate(c.graph, list(c.inputs.values()))  # raises where they differ


@pytest.mark.parametrize("c", COMPOSITES, ids=lambda c: c.name)
def test_decomposition_computes_what_the_reference_computes(c: Case) -> None:
    core = decompose_fully(c.graph)
    verify(core)
    assert all(node.op.is_core() for node in core.nodes)
    results = run(core, c.inputs)
    for name, expected in c.expected().items():
        require_close(name, expected, results[name], scaled=True)


def test_gradients_flow_through_a_reference() -> None:
    c = case(Gelu(), "f64[7]")
    x = c.inputs["x0"].clone().requires_grad_()
    (y,) = evaluate(c.graph, [x])
    assert torch.autograd.gradcheck(lambda t: evaluate(c.graph, [t])[0], (x,))
    assert y.requires_grad


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_recurrent_layers_agree_with_torch(direction: str) -> None:
    d = 2 if direction == "bidirectional" else 1
    x = torch.randn(6, 3, 5)
    modules: list[tuple[Op, nn.RNNBase]] = [
        (Lstm(direction), nn.LSTM(5, 4, bidirectional=d == 2)),
        (Gru(direction), nn.GRU(5, 4, bidirectional=d == 2)),
        (Rnn(direction), nn.RNN(5, 4, bidirectional=d == 2)),
    ]
    for op, module in modules:
        suffixes = ["", "_reverse"][:d]
        w, r, bi, bh = (
            torch.stack([getattr(module, f"{n}_l0{s}") for s in suffixes])
            for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        biases = [bi, bh] if isinstance(op, Gru) else [bi + bh]
        states = [torch.zeros(d, 3, 4)] * (2 if isinstance(op, Lstm) else 1)
        with torch.no_grad():
            y, *_ = op.reference(x, w, r, *biases, *states)
            require_close(op.name, module(x)[0], y, scaled=True)


def test_attention_agrees_with_torch() -> None:
    q, k, v = torch.randn(2, 6, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    expected = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    actual = Attention(8**-0.5, causal=True).reference(q, k, v)
    require_close("attention", expected, actual, scaled=True)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resize_agrees_with_torch(mode: str, align: bool) -> None:
    x = torch.randn(1, 2, 7, 6)
    expected = nn.functional.interpolate(x, size=(11, 4), mode=mode, align_corners=align)
    op = Resize(
        (1, 2, 11, 4),
        (1.0, 1.0, 11 / 7, 4 / 6),
        "linear" if mode == "bilinear" else "cubic",
        "align_corners" if align else "half_pixel",
    )
    require_close("resize", expected, op.reference(x), scaled=True)


def test_integer_convolution_is_exact_at_the_ends_of_the_range() -> None:
    x = torch.full((1, 2, 3, 3), 2**31 - 1, dtype=torch.int32)
    w = torch.full((1, 2, 1, 1), -(2**31), dtype=torch.int32)
    y = Conv((1, 1), ((0, 0), (0, 0)), (1, 1)).reference(x, w)
    product = 2 * (2**31 - 1) * -(2**31)
    wrapped = (product + 2**31) % 2**32 - 2**31
    assert y.dtype is torch.int32
    assert (y == wrapped).all()


@pytest.mark.parametrize(
    ("op", "dtype", "operands", "expected"),
    [
        (Add(), "i4", [[7, -8, 3], [1, -1, 4]], [-8, 7, 7]),
        (Mul(), "i4", [[7, -8, 3], [7, -8, 4]], [1, 0, -4]),
        (Sub(), "u4", [[0, 15, 3], [1, 1, 4]], [15, 14, 15]),
        (Neg(), "i4", [[-8, 7, 0]], [-8, -7, 0]),
        (Not(), "u4", [[0, 15, 5]], [15, 0, 10]),
        (ReduceSum((0,)), "i4", [[7, 7, 7]], 5),
        (Clamp(-math.inf, 3), "i4", [[-8, 7, 0]], [-8, 3, 0]),
        (Clamp(-3.0, 300), "u8", [[0, 255, 5]], [0, 255, 5]),
        (Relu(), "i32", [[-(2**31), 2**31 - 1, 0]], [0, 2**31 - 1, 0]),
    ],
)
def test_integers_wrap_and_clamp_within_their_type(
    op: Op, dtype: str, operands: list[list[int]], expected: list[int]
) -> None:
    b = Builder()
    kind = DType(dtype)
    data = [torch.tensor(v, dtype=kind.torch) for v in operands]
    values = [b.input(f"x{i}", parse_type(f"{dtype}[{len(v)}]")) for i, v in enumerate(operands)]
    graph = b.finish({"y": b(op, *values)})
    for g in (graph, decompose_fully(graph)):
        (y,) = evaluate(g, data)
        assert y.tolist() == expected


@settings(max_examples=30, deadline=None)
@given(integer_graphs(steps=20))
def test_any_graph_of_integers_keeps_to_its_shape_rules_and_decomposes_to_the_bit(graph: Graph) -> None:
    core = decompose_fully(graph)
    verify(core)
    inputs = list(integer_inputs(graph, 5).values())
    for expected, actual in zip(evaluate(graph, inputs), evaluate(core, inputs), strict=True):
        assert torch.equal(expected, actual)


def test_requantize_rounds_halves_to_even_and_saturates() -> None:
    x = torch.tensor([1, 3, 5, -1, -3, 1000, -1000], dtype=torch.int32)
    y = Requantize(DType.i8).reference(x, torch.tensor(0.5), torch.tensor(0, dtype=torch.int8))
    assert y.tolist() == [0, 2, 2, 0, -2, 127, -128]


REFUSED: list[tuple[Op, list[str], str]] = [
    (Add(), ["f32[2]", "i32[2]"], "share a type"),
    (Add(), ["f32[2]", "f32[3]"], "do not broadcast"),
    (Where(), ["f32[2]", "f32[2]", "f32[2]"], "must be bool"),
    (Matmul(), ["f32[2,3]", "f32[2,3]"], "inner sizes differ"),
    (Matmul(), ["i8[2,3]", "i8[3,2]"], "must be f64"),
    (Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), ["f32[1,3,8,8]", "f32[4,2,3,3]"], "3 channels"),
    (Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), ["f32[1,3,2,2]", "f32[4,3,3,3]"], "larger than its padded axis"),
    (Conv((1,), ((0, 0),), (1,)), ["f32[1,3,8,8]", "f32[4,3,3,3]"], "must have 2 entries"),
    (Reshape((5,)), ["f32[2,3]"], "cannot reshape"),
    (Reshape((2**30, 2**30)), ["f32[4]"], "more than 2^40 elements"),
    (Transpose((0, 0)), ["f32[2,3]"], "not a permutation"),
    (Slice((0,), (4,), (1,)), ["f32[3]"], "outside an axis of 3"),
    (Concat(0), ["f32[2,3]", "f32[2,4]"], "differ outside axis 0"),
    (Pad((-1,), (0,)), ["f32[3]"], "must not be negative"),
    (Clamp(0.5, 2), ["i32[3]"], "must be whole numbers or infinite"),
    (Clamp(300, 400), ["u8[3]"], "the range 300..400 holds no u8"),
    (Neg(), ["bool[3]"], "neg must be a tensor of numbers, got bool[3]"),
    (Abs(), ["bool[3]"], "abs must be a tensor of numbers, got bool[3]"),
    (Sign(), ["bool[3]"], "sign must be a tensor of numbers, got bool[3]"),
    (Sub(), ["bool[3]", "bool[3]"], "sub must be a tensor of numbers, got bool[3]"),
    (Clamp(0, 1), ["bool[3]"], "must be a tensor of numbers"),
    (Relu(), ["bool[3]"], "must be a tensor of numbers"),
    (Gather(2), ["f32[2,3]", "i64[1]"], "axis 2 is outside"),
    (Gather(0), ["f32[2,3]", "f32[1]"], "must be an integer tensor"),
    (TopK(4, 0), ["f32[3]"], "outside axis 0"),
    (MaxPool((2, 2), (0, 1), ((0, 0), (0, 0)), (1, 1)), ["f32[1,1,4,4]"], "must be positive"),
    (AvgPool((2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)), ["i32[1,1,4,4]"], "must be a float tensor"),
    (Quantize(DType.i8), ["f32[2]", "f32[]", "u8[]"], "zero_point must be i8"),
    (Quantize(DType.i8, axis=1), ["f32[2,3]", "f32[2]"], "must be a scalar or have shape"),
    (IntegerMatmul(), ["u8[1,40000]", "i8[40000,1]"], "may overflow"),
    (IntegerConv((1, 1), ((0, 0), (0, 0)), (1, 1)), ["f32[1,1,3,3]", "i8[1,1,3,3]"], "must be i8"),
    (Attention(1.0), ["f32[1,3,2,4]", "f32[1,2,2,4]", "f32[1,2,2,4]"], "do not divide"),
    (Lstm("sideways"), ["f32[1,1,1]", *["f32[1,4,1]"] * 2, "f32[1,4]", *["f32[1,1,1]"] * 2], "direction"),
]


@pytest.mark.parametrize(("op", "types", "message"), REFUSED, ids=[f"{o.name}-{m}" for o, _, m in REFUSED])
def test_shape_rules_refuse_what_does_not_fit(op: Op, types: list[str], message: str) -> None:
    b = Builder()
    operands = [b.input(f"x{i}", parse_type(t)) for i, t in enumerate(types)]
    with pytest.raises(GraphError) as info:
        b.multi(op, *operands, source="model.py:7")
    assert message in info.value.message
    assert "model.py:7" in info.value.where
    assert op.name in info.value.where
