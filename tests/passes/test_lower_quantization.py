"""Islands between dequantize and quantize become integer ops, and mean what they meant."""

from __future__ import annotations

import textwrap

import pytest
import torch
from hypothesis import given, settings

from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.literal import Literal
from hardy.compiler.ops.activation import Clamp, Relu, Sigmoid
from hardy.compiler.ops.elementwise import Add, Mul
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.ops.shape import Concat, Gather, Pad, Reshape, Transpose
from hardy.compiler.pipeline import Pipeline, Validate, random_inputs, sqnr
from hardy.compiler.types import DType
from hardy.compiler.verify import verify
from hardy.passes import DEFAULT, FoldConstants, LowerQuantization
from tests.quantized import F32, QdqBuilder, qdq_graphs
from tests.rewriting import body, ops, read


def lowered(graph: Graph, step: float = 0.0) -> Graph:
    """The pass's result, checked: types, rest, and outputs within one step of the float graph's."""
    after = LowerQuantization().run(graph)
    verify(after)
    assert after.input_types() == graph.input_types()
    assert after.output_types() == graph.output_types()
    assert LowerQuantization().run(after) is after, "a second run finds more to do"
    inputs = random_inputs(graph.input_types())
    before, now = run(graph, inputs), run(after, inputs)
    for name, expected in before.items():
        difference = (expected.double() - now[name].double()).abs().max()
        assert difference <= 1.001 * step + 1e-5 * expected.double().abs().max(), (name, float(difference))
    return after


def float_ops(graph: Graph) -> list[str]:
    """The ops that give floats, but for the last dequantize."""
    return [n.op.name for n in graph.nodes if n.type.dtype is F32 and n.operands]


def test_a_convolution_between_quantizations_is_integer_with_bias_and_limits() -> None:
    text = """
        graph main(%x: u8[1,1,2]) {
          %s: f32[] = constant(0.5)
          %z: u8[] = constant(3)
          %x0: f32[1,1,2] = dequantize(%x, %s, %z)
          %w: i8[2,1,1] = constant([[[2]], [[-4]]])
          %ws: f32[2] = constant([0.25, 0.5])
          %w0: f32[2,1,1] = dequantize(%w, %ws)
          %b: f32[2] = constant([1.0, -0.5])
          %c: f32[1,2,2] = conv(%x0, %w0, %b, strides=(1,), padding=((0, 0),), dilations=(1,))
          %r: f32[1,2,2] = clamp(%c, low=0.0, high=6.0)
          %t: f32[] = constant(0.125)
          %q: u8[1,2,2] = quantize(%r, %t, %z, dtype=u8)
          return %q as y
        }
        """
    after = LowerQuantization().run(read(text))
    assert body(after) == textwrap.dedent("""\
        %w: i8[2,1,1] = constant([[[2]], [[-4]]])
        %0: u8[] = constant(3)
        %c: i32[1,2,2] = integer_conv(%x, %w, %0, strides=(1,), padding=((0, 0),), dilations=(1,))
        %1: i32[2,1] = constant([[8], [-2]])
        %2: i32[1,2,2] = add(%c, %1)
        %3: u8[] = constant(3)
        %4: f32[2] = constant([1.0, 2.0])
        %5: u8[1,2,2] = requantize(%2, %4, %3, dtype=u8, axis=1)
        %6: u8[] = constant(3)
        %7: u8[1,2,2] = max(%5, %6)
        %8: u8[] = constant(51)
        %9: u8[1,2,2] = min(%7, %8)
        return %9 as y""")


def test_a_rectifier_at_the_end_of_the_range_costs_nothing() -> None:
    g = QdqBuilder()
    x = g.qdq(g.input("x", 1, 3, 6, 6), 0.02, 128)
    y = g.qdq(g.b(Relu(), g.conv(x, 4)), 0.05, 0)
    assert ops(lowered(g.finish(y=y), 0.05)) == [
        "quantize",
        "integer_conv",
        "add",
        "requantize",
        "dequantize",
    ]


def test_a_product_whose_user_is_float_is_scaled_and_not_requantized() -> None:
    g = QdqBuilder()
    x = g.qdq(g.input("x", 2, 5, 16), 0.02, 100)
    after = lowered(g.finish(y=g.b(Sigmoid(), g.linear(x, 7))), 1e-4)
    assert ops(after) == ["quantize", "integer_matmul", "add", "dequantize", "sigmoid"]


def test_residuals_are_added_in_units_of_the_result() -> None:
    g = QdqBuilder()
    x = g.qdq(g.input("x", 1, 4, 6, 6), 0.02, 128)
    y = g.qdq(g.conv(x, 4), 0.1, 120)
    z = g.qdq(g.b(Relu(), g.b(Add(), x, y)), 0.12, 0)
    after = lowered(g.finish(z=z), 0.12)
    tail = ["requantize", "dequantize", "dequantize", "add", "quantize", "dequantize"]
    assert sorted(ops(after)[-6:]) == sorted(tail)
    (quantize,) = [n for n in after.nodes if n.op.name == "quantize" and n.operands[0].op.name == "add"]
    assert quantize.operands[1].literal is not None
    assert quantize.operands[1].literal.item() == 1.0


def test_a_product_of_two_activations_is_integer() -> None:
    g = QdqBuilder()
    x, y = g.qdq(g.input("x", 2, 5, 8), 0.02, 100), g.qdq(g.input("y", 2, 6, 8), 0.03, 120)
    z = g.qdq(g.b(Mul(), g.b(Matmul(transpose_b=True), x, y), g.b.scalar(0.25, F32)), 0.05, 128)
    assert ops(lowered(g.finish(z=z), 0.05))[2:] == ["integer_matmul", "requantize", "dequantize"]


def test_means_are_sums_of_integers() -> None:
    g = QdqBuilder()
    x = g.qdq(g.input("x", 1, 4, 6, 6), 0.02, 100)
    y = g.qdq(g.b(ReduceMean((2, 3), True), x), 0.001, 120)
    z = g.qdq(g.b(AvgPool((3, 3), (2, 2), ((0, 0), (0, 0)), (1, 1)), x), 0.01, 120)
    after = lowered(g.finish(y=y, z=z), 0.01)
    assert float_ops(after) == ["dequantize", "dequantize"]
    assert {"reduce_sum", "integer_conv"} <= set(ops(after))


def test_what_moves_elements_moves_integers() -> None:
    g = QdqBuilder()
    x = g.qdq(g.input("x", 1, 4, 6, 6), 0.02, 100)
    y = g.b(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), x)
    y = g.b(Pad((0, 0, 1, 1), (0, 0, 0, 0), 0.0), g.b(Transpose((0, 2, 3, 1)), y))
    y = g.b(Concat(3), y, g.b(Relu(), y))
    after = lowered(g.finish(y=g.b(Reshape((2, 60)), g.qdq(g.b(Reshape((120,)), y), 0.02, 100))))
    assert float_ops(after) == ["dequantize"]


def test_parts_on_other_grids_are_requantized_before_they_are_joined() -> None:
    g = QdqBuilder()
    x, y = g.qdq(g.input("x", 2, 5), 0.02, 100), g.qdq(g.input("y", 2, 6), 0.03, 120)
    after = lowered(g.finish(z=g.qdq(g.b(Concat(1), x, y), 0.03, 120)), 0.03)
    (concat,) = [n for n in after.nodes if n.op.name == "concat"]
    assert concat.type.dtype is DType.u8


def test_rows_are_gathered_from_the_packed_table() -> None:
    g = QdqBuilder()
    rows = g.b.constant(torch.tensor([3, 0]))
    after = lowered(g.finish(y=g.b(Gather(0), g.weight((5, 4), None), rows)))
    assert ops(after) == ["gather", "dequantize"]


def test_a_weight_centred_at_128_becomes_signed() -> None:
    g = QdqBuilder()
    x = g.qdq(g.input("x", 2, 8), 0.02, 100)
    zero = g.b.constant(torch.tensor(128, dtype=torch.uint8))
    w = g.b.constant(torch.randint(0, 256, (8, 3), dtype=torch.uint8))
    y = g.b(Matmul(), x, g.b(Dequantize(), w, g.b.scalar(0.01, F32), zero))
    (product,) = [n for n in lowered(g.finish(y=y)).nodes if n.op.name == "integer_matmul"]
    assert product.operands[1].type.dtype is DType.i8
    assert len(product.operands) == 3


def test_four_bit_weights_are_widened() -> None:
    g = QdqBuilder()
    x = g.qdq(g.input("x", 2, 8), 0.02, 100)
    w = g.b.constant(Literal(torch.randint(-8, 8, (8, 3), dtype=torch.int8), DType.i4))
    y = g.b(Matmul(), x, g.b(Dequantize(), w, g.b.scalar(0.1, F32)))
    assert "integer_matmul" in ops(lowered(g.finish(y=y)))


def test_a_bias_too_large_for_the_unit_of_a_channel_makes_the_unit_larger() -> None:
    """Channels whose weights are (almost) zero have scales near or at zero."""
    g = QdqBuilder()
    x = g.qdq(g.input("x", 2, 8), 0.02, 100)
    q = g.b.constant(torch.randint(-127, 128, (8, 4), dtype=torch.int8))
    scale = g.b.constant(torch.tensor([0.01, 1e-12, 0.0, 0.0]))
    bias = g.b.constant(torch.tensor([1.0, 5.0, -2.0, 0.0]))
    y = g.b(Add(), g.b(Matmul(), x, g.b(Dequantize(1), q, scale)), bias)
    after = lowered(g.finish(y=g.qdq(y, 0.05, 128)), 0.05)
    assert float_ops(after) == ["dequantize"]


@pytest.mark.parametrize("what", ["scale known at run time", "weight per input channel", "wide zero point"])
def test_what_integers_cannot_do_stays_float(what: str) -> None:
    g = QdqBuilder()
    x = g.qdq(g.input("x", 2, 8), 0.02, 100)
    q = torch.randint(0, 256, (8, 3), dtype=torch.uint8)
    q[0, :2] = torch.tensor([0, 255])
    scale = g.b.scalar(0.01, F32)
    zero = g.b.constant(torch.tensor(1, dtype=torch.uint8))
    if what == "scale known at run time":
        w = g.b(Dequantize(), g.b.constant(q), g.b(Reshape(()), g.input("s", 1)), zero)
    elif what == "weight per input channel":
        w = g.weight((8, 3), 0)
    else:
        w = g.b(Dequantize(), g.b.constant(q), scale, zero)
    graph = g.finish(y=g.b(Matmul(), x, w))
    assert LowerQuantization().run(graph) is graph


def test_a_float_graph_stays_the_same_object() -> None:
    g = QdqBuilder()
    x = g.input("x", 1, 3, 4, 4)
    w = g.b.constant(g.normal(2, 3, 1, 1))
    y = g.b(Clamp(0.0, 6.0), g.b(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), x, w))
    graph = g.finish(y=y)
    assert LowerQuantization().run(graph) is graph


@settings(max_examples=60, deadline=None)
@given(graph=qdq_graphs())
def test_a_lowered_network_stays_near_the_float_one(graph: Graph) -> None:
    after = LowerQuantization().run(graph)
    verify(after)
    assert LowerQuantization().run(after) is after
    inputs = random_inputs(graph.input_types())
    before, now = run(graph, inputs), run(after, inputs)
    for name, expected in before.items():
        # Single steps add up over a few layers; a wrong scale or zero point leaves no signal.
        worst = (expected - now[name]).abs().max()
        assert worst <= 0.8 or sqnr(expected, now[name]) > 20, name
    again = Pipeline((*DEFAULT, LowerQuantization(), FoldConstants(unpack=True), *DEFAULT))
    again.run(graph, [Validate()])
