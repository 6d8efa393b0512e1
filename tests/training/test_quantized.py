"""Quantized weights that learn, and learned step sizes."""

from __future__ import annotations

import pytest
import torch

from hardy.compiler.errors import UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.literal import Literal
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.quant import Dequantize, Quantize
from hardy.compiler.training import GraphModule, MatchHidden
from hardy.compiler.training.distill import distill, finetune
from hardy.compiler.training.quantized import float_weights, integer_weights, scales
from hardy.compiler.types import DType, TensorType
from tests.training.test_recover import network, points, quantized, signal_to_noise


def product(bits: DType = DType.i8) -> Graph:
    """A quantized activation times a stored integer weight with a zero point."""
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (1, 3)))
    scale, zero = b.scalar(0.1, DType.f32), b.scalar(3, bits)
    low = b(Dequantize(), b(Quantize(bits), x, scale, zero), scale, zero)
    stored = b.constant(Literal(torch.tensor([[1, -8], [7, 2], [0, 5]], dtype=bits.torch), bits), name="w")
    step = b.constant(torch.tensor([0.5, 0.25]))
    return b.finish({"y": b(Matmul(), low, b(Dequantize(axis=1), stored, step))})


@pytest.mark.parametrize("bits", [DType.i8, DType.i4])
def test_integer_weights_become_floats_and_the_same_integers_again(bits: DType) -> None:
    graph = product(bits)
    learning = float_weights(graph)
    feed = {"x": torch.tensor([[0.31, -0.5, 9.0]])}
    assert torch.equal(run(graph, feed)["y"], run(learning, feed)["y"])
    assert len(GraphModule(learning).trained) == 1
    again = integer_weights(learning)
    assert {literal.digest for literal in again.constants()} == {c.digest for c in graph.constants()}
    assert torch.equal(run(graph, feed)["y"], run(again, feed)["y"])
    assert float_weights(learning) is learning


def test_a_graph_without_integers_is_left_alone() -> None:
    graph = network()
    assert float_weights(graph) is graph
    assert integer_weights(graph) is graph


def test_learned_scales_have_the_gradients_of_learned_step_sizes() -> None:
    """d(s round(x / s)) / ds is round(x / s) - x / s inside the range, and its end outside."""
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (3,)))
    scale = b.scalar(0.1, DType.f32)
    graph = b.finish({"y": b(Dequantize(), b(Quantize(DType.i4), x, scale), scale)})
    module = GraphModule(graph, positive=scales(graph))
    outputs, _ = module({"x": torch.tensor([0.33, -0.26, 5.0])})
    outputs["y"].sum().backward()
    expected = (3 - 3.3) + (-3 + 2.6) + 7
    (weight,) = module.weights
    # The parameter is the logarithm, whose gradient is s times that of s.
    torch.testing.assert_close(weight.data.grad, torch.tensor(0.1 * expected))


def test_scales_of_different_conversions_are_not_learned() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (3,)))
    q = b(Quantize(DType.i8), x, b.scalar(0.1, DType.f32))
    graph = b.finish({"y": b(Dequantize(), q, b.scalar(0.2, DType.f32))})
    assert scales(graph) == ()


@pytest.mark.parametrize("learn_scales", [False, True])
def test_quantization_aware_training_gets_nearer_and_stays_in_integers(learn_scales: bool) -> None:
    graph = network()
    small = quantized(graph)
    tuned, history = distill(
        graph, small, points(), epochs=6, rate=1e-3, learn_scales=learn_scales, schedule="cosine"
    )
    assert signal_to_noise(graph, tuned) > signal_to_noise(graph, small) + 1
    assert history.epochs[-1] < history.epochs[0]
    assert {c.type.dtype for c in tuned.constants() if len(c.type.shape) > 1} == {DType.i4}

    def steps(graph: Graph) -> set[str]:
        return {node.operands[1].literal.digest for node in graph.nodes if isinstance(node.op, Dequantize)}

    assert (steps(tuned) == steps(small)) == (not learn_scales)


def test_a_loss_that_watches_another_graph_is_refused() -> None:
    graph = quantized(network())
    relu = next(n.values[0] for n in graph.nodes if n.op.name == "relu")
    with pytest.raises(UsageError, match="not in the trained graph"):
        finetune(graph, points(8), MatchHidden([(relu, relu)]), epochs=1, rate=1e-3)
