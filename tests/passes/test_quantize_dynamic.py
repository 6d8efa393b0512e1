"""Weights become i8, activations are quantized as they come."""

from __future__ import annotations

import pytest
import torch

from hardy.compiler.errors import UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.ops.dynamic import DynamicQuantize
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.pipeline import random_inputs, sqnr
from hardy.compiler.types import DType, TensorType
from hardy.compiler.verify import verify
from hardy.passes import QuantizeDynamic
from tests.rewriting import ops


def network() -> Graph:
    torch.manual_seed(0)
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (2, 6, 40)))
    y = b(Matmul(), x, b.constant(torch.randn(40, 24), name="up"))
    y = b(Add(), y, b.constant(torch.randn(24)))
    y = b(Matmul(transpose_b=True), y, b.constant(torch.randn(8, 24), name="down"))
    image = b.input("image", TensorType(DType.f32, (1, 4, 9, 9)))
    z = b(
        Conv((1, 1), ((1, 1), (1, 1)), (1, 1), groups=2),
        image,
        b.constant(torch.randn(6, 2, 3, 3), name="conv"),
        b.constant(torch.randn(6)),
    )
    return b.finish({"y": y, "z": z})


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_dynamic_quantization_stays_near_the_float_network(rows: bool, symmetric: bool) -> None:
    graph = network()
    after = QuantizeDynamic(rows, symmetric).run(graph)
    verify(after)
    assert after.output_types() == graph.output_types()
    assert QuantizeDynamic(rows, symmetric).run(after) is after
    assert ops(after).count("dynamic_quantize") == 3
    assert not {"matmul", "conv"} & set(ops(after))
    inputs = random_inputs(graph.input_types())
    expected, actual = run(graph, inputs), run(after, inputs)
    # An 8-bit grid over a few standard deviations leaves about 40 dB; two layers and weights cost some.
    assert all(sqnr(expected[n], actual[n]) > 32 for n in expected)


def test_a_row_of_large_numbers_does_not_coarsen_the_others() -> None:
    graph = network()
    inputs = random_inputs(graph.input_types())
    inputs["x"][0, 0] *= 1000
    expected = run(graph, inputs)["y"][1]
    by_row = run(QuantizeDynamic(rows=True).run(graph), inputs)["y"][1]
    whole = run(QuantizeDynamic(rows=False).run(graph), inputs)["y"][1]
    assert sqnr(expected, by_row) > 32 > sqnr(expected, whole)


def test_layers_are_chosen_by_name() -> None:
    graph = network()
    assert ops(QuantizeDynamic(only=("up",)).run(graph)).count("dynamic_quantize") == 1
    assert ops(QuantizeDynamic(skip=("up", "conv")).run(graph)).count("dynamic_quantize") == 1
    with pytest.raises(UsageError, match="no layer matches 'sideways'"):
        QuantizeDynamic(only=("sideways",)).run(graph)


def test_zero_is_exact_and_a_tensor_of_zeros_has_scale_one() -> None:
    for op in (DynamicQuantize(DType.u8), DynamicQuantize(DType.i8, symmetric=True)):
        q, scale, zero = op.reference(torch.zeros(3))
        assert (q == zero).all()
        assert scale == 1
    q, scale, zero = DynamicQuantize(DType.u8).reference(torch.tensor([1.0, 3.0]))
    assert (int(zero), q.tolist()) == (0, [85, 255])


def test_a_weight_channel_of_zeros_stays_zero() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (2, 3)))
    w = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    graph = QuantizeDynamic().run(b.finish({"y": b(Matmul(), x, b.constant(w))}))
    y = run(graph, {"x": torch.ones(2, 3)})["y"]
    assert y.isfinite().all()
    assert (y[:, 1] == 0).all()
