"""Quantized networks give the reference's integers on every instruction set, in few steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from hardy.compiler.interpret import evaluate
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.ops.activation import Relu
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.pool import MaxPool
from hardy.compiler.ops.shape import Reshape
from hardy.compiler.pipeline import Pipeline, random_inputs
from hardy.compiler.types import DType, TensorType
from hardy.passes import LowerQuantization, QuantizeDynamic
from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.passes import pipeline
from tests.quantized import PowersOfTwo, QdqBuilder, qdq_graphs, shift_graphs
from tests.targets.cpu.programs import Compiled, compile_graph

few = settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
many = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def require_same_bits(
    graph: Graph, isa: Isa | None = None, lowering: LowerQuantization | None = None
) -> Compiled:
    """Compile the whole network and compare with the reference of the lowered graph."""
    lowered = (lowering or LowerQuantization()).run(graph)
    compiled = compile_graph(Pipeline(pipeline()).run(graph if lowering is None else lowered).graph, isa)
    inputs = list(random_inputs(graph.input_types()).values())
    expected = evaluate(lowered, inputs)
    for name, e, a in zip(graph.output_names, expected, compiled.runner.run(inputs), strict=True):
        assert torch.equal(e, a), f"{name}: {int((e != a).sum())} of {e.numel()} elements differ"
    return compiled


@few
@given(graph=qdq_graphs(smooth=False))
def test_random_networks_give_the_same_bits(isa: Isa, graph: Graph) -> None:
    require_same_bits(graph, isa)


@pytest.mark.slow
@many
@given(graph=qdq_graphs(steps=10, smooth=False))
def test_many_random_networks_give_the_same_bits(isa: Isa, graph: Graph) -> None:
    require_same_bits(graph, isa)


@few
@given(graph=shift_graphs())
def test_random_networks_of_shifts_give_the_same_bits(isa: Isa, graph: Graph) -> None:
    require_same_bits(graph, isa, LowerQuantization(power_of_two=True))


@pytest.mark.slow
@many
@given(graph=shift_graphs(steps=10))
def test_many_random_networks_of_shifts_give_the_same_bits(isa: Isa, graph: Graph) -> None:
    require_same_bits(graph, isa, LowerQuantization(power_of_two=True))


def residual_network(builder: Callable[[], QdqBuilder] = QdqBuilder) -> Graph:
    g = builder()
    x = g.qdq(g.input("image", 1, 3, 19, 19), 0.03, 128)
    x = g.qdq(g.b(Relu(), g.conv(x, 24, 3, 2)), 0.05, 0)
    x = g.qdq(g.b(MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), x), 0.05, 0)
    y = g.qdq(g.b(Relu(), g.conv(x, 40, 1)), 0.05, 0)
    y = g.qdq(g.b(Relu(), g.conv(y, 40, 3, groups=40)), 0.05, 0)
    y = g.qdq(g.conv(y, 24, 1), 0.08, 120)
    x = g.qdq(g.b(Relu(), g.b(Add(), y, x)), 0.08, 0)
    x = g.qdq(g.b(ReduceMean((2, 3)), x), 0.02, 0)
    return g.finish(logits=g.linear(x, 10))


def test_a_residual_network_runs_as_integers_without_a_step_between_layers(isa: Isa) -> None:
    kinds = [step.rsplit("_", 2)[0] for step in require_same_bits(residual_network(), isa).steps]
    assert kinds == [
        "quantize",
        "transpose",
        "integer_conv_add_requantize",
        "max_pool",
        "integer_conv_add_requantize",
        "integer_conv_add_requantize",
        "integer_conv_add_requantize_dequantize_etc",
        "reduce_sum_requantize",
        "integer_matmul_add_dequantize",
    ]


def test_a_layer_of_shifts_is_one_step(isa: Isa) -> None:
    lowering = LowerQuantization(power_of_two=True)
    compiled = require_same_bits(residual_network(PowersOfTwo), isa, lowering)
    kinds = [step.rsplit("_", 2)[0] for step in compiled.steps]
    assert kinds == [
        "quantize",
        "transpose",
        "integer_conv_add_requantize_shift_relu",
        "max_pool",
        "integer_conv_add_requantize_shift_relu",
        "integer_conv_add_requantize_shift_relu",
        "cast",
        "integer_conv_add_requantize_shift_cast_etc",
        "reduce_sum_mul_requantize_shift",
        "integer_matmul_add_dequantize",
    ]


def test_attention_products_run_as_integers(isa: Isa) -> None:
    g = QdqBuilder()
    x = g.qdq(g.input("x", 1, 9, 32), 0.03, 128)
    q, k, v = (g.qdq(g.linear(x, 32), 0.1, z) for z in (128, 120, 131))
    scores = g.qdq(g.b(Matmul(transpose_b=True), q, k), 0.5, 128)
    y = g.qdq(g.b(Matmul(), scores, v), 0.5, 100)
    kinds = [s.rsplit("_", 2)[0] for s in require_same_bits(g.finish(y=y), isa).steps]
    assert kinds.count("integer_matmul_requantize") == 1
    assert kinds.count("integer_matmul_requantize_dequantize") == 1
    assert len(kinds) == 6


def test_sums_that_a_float_bias_follows_are_not_contracted(isa: Isa) -> None:
    """A fused multiply-add would round once where the reference rounds twice."""
    g = QdqBuilder()
    x = g.qdq(g.input("x", 4, 16), 0.03, 128)
    y = g.b(Add(), g.b(Reshape((4, 16)), g.linear(x, 16)), g.input("y", 4, 16))
    require_same_bits(g.finish(y=y), isa)


def dynamic_network() -> Graph:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (2, 7, 33)))
    w, bias = torch.randn(33, 20), torch.randn(20)
    y = b(Relu(), b(Add(), b(Matmul(), x, b.constant(w)), b.constant(bias)))
    y = b(Add(), y, b(Matmul(transpose_b=True), y, b.constant(torch.randn(20, 20))))
    image = b.input("image", TensorType(DType.f32, (1, 5, 9, 9)))
    kernel = b.constant(torch.randn(16, 5, 3, 3))
    z = b(Conv((2, 2), ((1, 1), (1, 1)), (1, 1)), image, kernel, b.constant(torch.randn(16)))
    return b.finish({"y": y, "z": z})


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_dynamic_quantization_gives_the_same_bits(isa: Isa, rows: bool, symmetric: bool) -> None:
    graph = QuantizeDynamic(rows, symmetric).run(dynamic_network())
    kinds = [s.rsplit("_", 2)[0] for s in require_same_bits(graph, isa).steps]
    # Scale, bias, activation and residual are in the products' registers.
    assert sum(k.startswith("integer_matmul_dequantize_mul_add") for k in kinds) == 2
    assert sum(k.startswith("integer_conv_dequantize_mul_add") for k in kinds) == 1
