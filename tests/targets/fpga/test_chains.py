"""Chains of integer ops become layers that compute the same, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.compiler.interpret import evaluate
from hardy.compiler.ir import Builder, Graph, Node, Value
from hardy.compiler.ops.elementwise import Add, Cast, Max, Min, ShiftLeft, Sub
from hardy.compiler.ops.group import Group
from hardy.compiler.ops.pool import MaxPool
from hardy.compiler.ops.quant import Dequantize, IntegerConv, IntegerMatmul, Quantize, RequantizeShift
from hardy.compiler.ops.shape import Reshape
from hardy.compiler.pipeline import Pipeline
from hardy.compiler.types import DType, TensorType
from hardy.compiler.verify import verify
from hardy.targets.fpga.chains import Chain, layer_of
from hardy.targets.fpga.form_layers import FormLayers
from hardy.targets.fpga.lower.layer import Layer, reference
from hardy.targets.fpga.pictures import from_picture, to_picture

I8, I32 = DType.i8, DType.i32


def integers(seed: int, *shape: int, low: int = -128, high: int = 127, dtype: DType = I8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype.torch)


def formed(graph: Graph) -> Graph:
    result = Pipeline((FormLayers(),)).run(graph).graph
    verify(result)
    return result


def groups(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if isinstance(n.op, Group)]


def computes_the_same(node: Node, seed: int = 0) -> Chain:
    """The layer of a group, after its result was compared with the group's on random integers."""
    assert isinstance(node.op, Group)
    chain = layer_of(node.op.body)
    inputs = [integers(seed + i, *v.type.shape) for i, v in enumerate(node.operands)]
    by_value = dict(zip(node.op.body.inputs, inputs, strict=True))
    given_arrays = [to_picture(by_value[v].numpy()) for v in chain.reads]
    (expected,) = evaluate(node.op.body, inputs)
    ours = from_picture(reference(chain.layer, given_arrays), expected.ndim)
    assert np.array_equal(ours, expected.numpy())
    return chain


def conv(b: Builder, x: Value, outputs: int, kernel: int = 3, groups: int = 1, stride: int = 1) -> Value:
    weight = b.constant(integers(1, outputs, x.type.shape[1] // groups, kernel, kernel, low=-20, high=20))
    pads = ((kernel // 2, kernel // 2),) * 2
    return b(IntegerConv((stride, stride), pads, (1, 1), groups), x, weight)


def limited(b: Builder, q: Value, low: int | None, high: int | None) -> Value:
    if low is not None:
        q = b(Max(), q, b.scalar(low, I8))
    return q if high is None else b(Min(), q, b.scalar(high, I8))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    groups_of=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 2),
    residual=st.sampled_from([None, 0, 3, 9, (4, 11)]),
    bias=st.booleans(),
    by_channel=st.booleans(),
    low=st.sampled_from([None, 0, -20]),
    high=st.sampled_from([None, 96]),
    pool=st.booleans(),
)
def test_a_convolution_with_all_that_follows_it_is_one_layer(
    seed: int,
    groups_of: int,
    stride: int,
    residual: int | tuple[int, int] | None,
    bias: bool,
    by_channel: bool,
    low: int | None,
    high: int | None,
    pool: bool,
) -> None:
    b = Builder()
    x = b.input("x", TensorType(I8, (2, 4, 6, 5)))
    total = conv(b, x, 8, groups=groups_of, stride=stride)
    if bias:
        total = b(Add(), total, b.constant(integers(seed, 8, 1, 1, low=-900, high=900, dtype=I32)))
    if residual is not None:
        other = b(Cast(I32), b.input("y", TensorType(I8, total.type.shape)))
        if isinstance(residual, tuple):
            low_k, high_k = residual
            factors = integers(seed, 8, 1, 1, low=low_k, high=high_k, dtype=I32)
            other = b(ShiftLeft(), other, b.constant(factors))
        elif residual:
            other = b(ShiftLeft(), other, b.scalar(residual, I32))
        total = b(Add(), other, total)
    shift = integers(seed, 8, low=0, high=12, dtype=I32) if by_channel else torch.tensor(7, dtype=torch.int32)
    q = b(RequantizeShift(I8, 1 if by_channel else 0), total, b.constant(shift))
    q = limited(b, q, low, high)
    if pool:
        q = b(MaxPool((3, 3), (2, 2), ((1, 1), (1, 0)), (1, 1)), q)
    (node,) = groups(formed(b.finish({"q": q})))
    chain = computes_the_same(node, seed)
    assert len(chain.reads) == 1 + (residual is not None)


def test_a_product_of_a_flattened_picture_is_a_convolution_as_large_as_the_picture() -> None:
    b = Builder()
    x = limited(b, b.input("x", TensorType(I8, (1, 4, 2, 5))), -20, None)
    flat = b(Reshape((1, 40)), x)
    total = b(IntegerMatmul(), flat, b.constant(integers(1, 40, 7, low=-9, high=9)))
    total = b(Add(), total, b.constant(integers(2, 7, dtype=I32)))
    total = b(Sub(), total, b.constant(integers(3, 7, dtype=I32)))
    q = b(RequantizeShift(I8), total, b.scalar(6, I32))
    _, node = groups(formed(b.finish({"q": q})))
    assert computes_the_same(node).layer.kernel == (2, 5)


def test_what_the_host_gives_it_flattens_too_so_that_few_channels_fill_no_blocks() -> None:
    for floats in (True, False):
        b = Builder()
        if floats:
            x = b(Quantize(I8), b.input("x", TensorType(DType.f32, (1, 1, 4, 8))), b.scalar(0.5, DType.f32))
        else:
            x = b.input("x", TensorType(I8, (1, 1, 4, 8)))
        flat = b(Reshape((1, 32)), x)
        total = b(IntegerMatmul(), flat, b.constant(integers(1, 32, 7, low=-9, high=9)))
        q = b(RequantizeShift(I8), total, b.scalar(6, I32))
        (node,) = groups(formed(b.finish({"q": q})))
        assert computes_the_same(node).layer.shape == (1, 32, 1, 1)


def test_sums_pools_and_limits_alone_are_layers() -> None:
    b = Builder()
    x, y = (b.input(n, TensorType(I8, (1, 4, 6, 6))) for n in "xy")
    total = b(Add(), b(ShiftLeft(), b(Cast(I32), x), b.scalar(5, I32)), b(Cast(I32), y))
    added = b(RequantizeShift(I8), total, b.scalar(4, I32))
    pooled = b(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), y)
    rectified = b(Max(), x, b.scalar(0, I8))
    found = groups(formed(b.finish({"a": added, "p": pooled, "r": rectified})))
    assert len(found) == 3
    for node in found:
        computes_the_same(node)


def test_a_sum_that_floats_read_is_a_wide_layer() -> None:
    b = Builder()
    x = b.input("x", TensorType(I8, (3, 10)))
    total = b(IntegerMatmul(transpose_b=True), x, b.constant(integers(1, 7, 10)))
    total = b(Add(), total, b.constant(integers(2, 7, low=-9999, high=9999, dtype=I32)))
    logits = b(Dequantize(), total, b.constant(torch.tensor(0.125)))
    (node,) = groups(formed(b.finish({"y": logits})))
    assert computes_the_same(node).layer.wide


def refusal(graph: Graph) -> str:
    """Why no layer was formed."""
    result = Pipeline((FormLayers(),)).run(graph)
    assert result.graph is graph
    (row,) = result.records[0].notes["no_layer"]
    return str(row["why"])


def test_a_sum_that_others_read_is_no_layer() -> None:
    b = Builder()
    x = b.input("x", TensorType(I8, (1, 4, 4, 4)))
    total = conv(b, x, 4)
    q = b(RequantizeShift(I8), total, b.scalar(4, I32))
    scale = b.constant(torch.tensor(0.5))
    assert "read by others" in refusal(b.finish({"q": q, "f": b(Dequantize(), total, scale)}))


def test_two_products_in_one_sum_are_no_layer() -> None:
    b = Builder()
    x = b.input("x", TensorType(I8, (1, 4, 4, 4)))
    q = b(RequantizeShift(I8), b(Add(), conv(b, x, 4), conv(b, x, 4, kernel=1)), b.scalar(4, I32))
    assert "two products" in refusal(b.finish({"q": q}))


def test_operands_with_zero_points_and_unsigned_ones_are_no_layer() -> None:
    b = Builder()
    x = b.input("x", TensorType(I8, (1, 4, 4, 4)))
    weight = b.constant(integers(1, 4, 4, 1, 1))
    op = IntegerConv((1, 1), ((0, 0), (0, 0)), (1, 1))
    shifted = b(RequantizeShift(I8), b(op, x, weight, b.scalar(3, I8)), b.scalar(4, I32))
    assert "zero points" in refusal(b.finish({"q": shifted}))
    b = Builder()
    x = b.input("x", TensorType(DType.u8, (1, 4, 4, 4)))
    weight = b.constant(integers(1, 4, 4, 1, 1))
    assert "u8" in refusal(b.finish({"q": b(RequantizeShift(I8), b(op, x, weight), b.scalar(4, I32))}))


def test_a_layer_that_does_not_fit_stays_outside_with_the_reason() -> None:
    b = Builder()
    x = b.input("x", TensorType(I8, (1, 4, 4, 4)))
    graph = b.finish({"q": b(RequantizeShift(I8), conv(b, x, 4), b.scalar(4, I32))})

    def fits(layer: Layer) -> str:
        return f"too large: {layer.outputs} outputs"

    result = Pipeline((FormLayers(fits=fits),)).run(graph)
    assert result.records[0].notes["no_layer"][0]["why"] == "too large: 4 outputs"


def test_the_group_of_a_layer_keeps_its_sources() -> None:
    b = Builder()
    x = b.input("x", TensorType(I8, (1, 4, 4, 4)))
    with b.at("net.py:7"):
        total = conv(b, x, 4)
    with b.at("net.py:8"):
        q = b(RequantizeShift(I8), total, b.scalar(4, I32))
    (node,) = groups(formed(b.finish({"q": q})))
    assert node.source == "net.py:7 + net.py:8"


@pytest.mark.parametrize("steps", [2, 5])
def test_a_chain_of_layers_computes_what_the_graph_did(steps: int) -> None:
    b = Builder()
    x = first = b.input("x", TensorType(I8, (1, 4, 6, 6)))
    for _ in range(steps):
        total = b(Add(), conv(b, x, 4), b(ShiftLeft(), b(Cast(I32), first), b.scalar(4, I32)))
        x = limited(b, b(RequantizeShift(I8), total, b.scalar(8, I32)), 0, None)
    graph = b.finish({"q": x})
    layered = formed(graph)
    assert len(groups(layered)) == steps
    data = [integers(3, 1, 4, 6, 6)]
    assert torch.equal(evaluate(layered, data)[0], evaluate(graph, data)[0])
