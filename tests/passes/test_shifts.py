"""Graphs quantized by powers of two become integers that are requantized by shifts alone."""

from __future__ import annotations

import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hardy
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph, Value
from hardy.compiler.notes import taking_notes
from hardy.compiler.ops.activation import Clamp, Relu, Sigmoid
from hardy.compiler.ops.elementwise import Add, Div, Mul, Sub
from hardy.compiler.ops.linear import Conv
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.pool import AvgPool
from hardy.compiler.ops.quant import Dequantize, RequantizeShift
from hardy.compiler.pipeline import random_inputs, sqnr
from hardy.compiler.types import DType
from hardy.compiler.verify import verify
from hardy.passes import LowerQuantization, Quantize
from hardy.passes.averages import shares
from hardy.passes.integer_bounds import magnitude
from hardy.passes.integer_parts import integer_parts
from tests.models.zoo import ZOO
from tests.passes.quantized_nets import traced
from tests.quantized import F32, PowersOfTwo, shift_graphs
from tests.rewriting import body, ops, read
from tests.shift_device import ShiftTarget, scheme

LOWER = LowerQuantization(power_of_two=True)


def lowered(graph: Graph, step: float) -> Graph:
    """What becomes of a graph, checked: integers between the first quantize and the last dequantize, that
    differ from the float graph by at most one step."""
    after = LOWER.run(graph)
    verify(after)
    assert after.output_types() == graph.output_types()
    assert LOWER.run(after) is after, "a second run finds more to do"
    assert integer_parts(after).between == ()
    assert not {"requantize", "div"} & set(ops(after))
    inputs = random_inputs(graph.input_types())
    before, now = run(graph, inputs), run(after, inputs)
    for name, expected in before.items():
        assert (expected - now[name]).abs().max() <= 1.001 * step, name
    return after


HEAD = """
        graph main(%x: i8[1,2,3], %y: i8[1,2,3]) {
          %s: f32[] = constant(0.0625)
          %t: f32[] = constant(0.125)
          %x0: f32[1,2,3] = dequantize(%x, %s)
          %y0: f32[1,2,3] = dequantize(%y, %t)
"""
CONVOLUTION = """
          %w: i8[2,2,1] = constant([[[2], [1]], [[-4], [3]]])
          %ws: f32[2] = constant([0.25, 0.5])
          %w0: f32[2,2,1] = dequantize(%w, %ws)
          %bias: f32[2] = constant([0.125, -1.0])
          %c: f32[1,2,3] = conv(%x0, %w0, %bias, strides=(1,), padding=((0, 0),), dilations=(1,))
"""


def golden(*lines: str) -> str:
    text = HEAD + "".join(lines) + "          return %q as z\n}"
    after = LOWER.run(read(text))
    verify(after)
    return body(after)


def test_a_convolution_with_a_clamp_is_shifted_by_channel_and_limited() -> None:
    assert golden(
        CONVOLUTION,
        """
          %r: f32[1,2,3] = clamp(%c, low=0.0, high=6.0)
          %q: i8[1,2,3] = quantize(%r, %t, dtype=i8)
        """,
    ) == textwrap.dedent("""\
        %w: i8[2,2,1] = constant([[[2], [1]], [[-4], [3]]])
        %c: i32[1,2,3] = integer_conv(%x, %w, strides=(1,), padding=((0, 0),), dilations=(1,))
        %0: i32[2,1] = constant([[8], [-32]])
        %1: i32[1,2,3] = add(%c, %0)
        %2: i32[2] = constant([3, 2])
        %3: i8[1,2,3] = requantize_shift(%1, %2, dtype=i8, axis=1)
        %4: i8[] = constant(0)
        %5: i8[1,2,3] = max(%3, %4)
        %6: i8[] = constant(48)
        %7: i8[1,2,3] = min(%5, %6)
        return %7 as z""")


def test_a_residual_is_shifted_left_to_the_unit_of_the_sum() -> None:
    assert golden(
        CONVOLUTION,
        """
          %a: f32[1,2,3] = add(%c, %y0)
          %r: f32[1,2,3] = relu(%a)
          %q: i8[1,2,3] = quantize(%r, %t, dtype=i8)
        """,
    ) == textwrap.dedent("""\
        %w: i8[2,2,1] = constant([[[2], [1]], [[-4], [3]]])
        %c: i32[1,2,3] = integer_conv(%x, %w, strides=(1,), padding=((0, 0),), dilations=(1,))
        %0: i32[2,1] = constant([[8], [-32]])
        %1: i32[1,2,3] = add(%c, %0)
        %2: i32[1,2,3] = cast(%y, dtype=i32)
        %3: i32[1,2,1] = constant([[[3], [2]]])
        %4: i32[1,2,3] = shift_left(%2, %3)
        %a: i32[1,2,3] = add(%1, %4)
        %5: i32[2] = constant([3, 2])
        %6: i8[1,2,3] = requantize_shift(%a, %5, dtype=i8, axis=1)
        %7: i8[] = constant(0)
        %8: i8[1,2,3] = max(%6, %7)
        return %8 as z""")


def test_an_average_is_a_depthwise_convolution_with_its_shares_as_weights() -> None:
    assert golden("""
          %w: i8[2,1,3] = constant([[[85, 85, 86]], [[85, 85, 86]]])
          %ws: f32[] = constant(0.00390625)
          %w0: f32[2,1,3] = dequantize(%w, %ws)
          %m: f32[1,2,1] = conv(%x0, %w0, strides=(1,), padding=((0, 0),), dilations=(1,), groups=2)
          %q: i8[1,2,1] = quantize(%m, %s, dtype=i8)
    """) == textwrap.dedent("""\
        %w: i8[2,1,3] = constant([[[85, 85, 86]], [[85, 85, 86]]])
        %m: i32[1,2,1] = integer_conv(%x, %w, strides=(1,), padding=((0, 0),), dilations=(1,), groups=2)
        %0: i32[] = constant(8)
        %1: i8[1,2,1] = requantize_shift(%m, %0, dtype=i8)
        return %1 as z""")


def test_parts_of_other_scales_are_shifted_before_they_are_joined() -> None:
    assert golden("""
          %j: f32[1,4,3] = concat(%x0, %y0, axis=1)
          %q: i8[1,4,3] = quantize(%j, %t, dtype=i8)
    """) == textwrap.dedent("""\
        %0: i32[1,2,3] = cast(%x, dtype=i32)
        %1: i32[] = constant(1)
        %2: i8[1,2,3] = requantize_shift(%0, %1, dtype=i8)
        %j: i8[1,4,3] = concat(%2, %y, axis=1)
        return %j as z""")


def network(scale: float, to: float, bias: float = 0.0) -> Graph:
    """One convolution of one channel whose sums have the unit `scale`."""
    g = PowersOfTwo()
    x = g.qdq(g.input("x", 1, 2, 4, 4), 2.0**-5)
    w = g.b.constant(torch.tensor([[[[3]], [[-2]]]], dtype=torch.int8))
    weight = g.b(Dequantize(), w, g.b.scalar(scale * 2.0**5, F32))
    op = Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    return g.finish(y=g.qdq(g.b(op, x, weight, g.b.constant(torch.tensor([bias]))), to))


@pytest.mark.parametrize("finer", [*range(-12, 13), 29, 30, 31, 32, 40])
def test_units_coarser_and_much_finer_than_the_result_round_right(finer: int) -> None:
    """A negative shift is a shift to the left, limited so that it saturates; one above 31 leaves nothing."""
    to = 2.0**-4
    after = lowered(network(to * 2.0**-finer, to), to)
    shift_ops = [n for n in after.nodes if n.op == RequantizeShift(DType.i8)]
    (shift,) = (n.operands[1].literal for n in shift_ops)
    assert shift is not None
    assert shift.tensor.item() == min(max(finer, 0), 31)
    assert ops(after).count("shift_left") == (finer < 0)


def test_a_shift_of_zero_saturates_alone() -> None:
    x = torch.tensor([-300, -128, -1, 0, 127, 128], dtype=torch.int32)
    y = RequantizeShift(DType.i8).reference(x, torch.tensor(0, dtype=torch.int32))
    assert y.tolist() == [-128, -128, -1, 0, 127, 127]


def test_halves_are_rounded_up() -> None:
    x = torch.tensor([-3, -2, -1, 1, 2, 3], dtype=torch.int32)
    y = RequantizeShift(DType.i8).reference(x, torch.tensor(1, dtype=torch.int32))
    assert y.tolist() == [-1, -1, 0, 1, 1, 2]


def test_a_bias_beyond_the_unit_of_its_channel_makes_the_unit_a_larger_power_of_two() -> None:
    after = lowered(network(2.0**-40, 2.0**-4, bias=1.5), 2.0**-4)
    assert "requantize_shift" in ops(after)


@pytest.mark.parametrize("exponent", [-30, -12, 0, 6])
def test_a_residual_meets_sums_of_any_unit(exponent: int) -> None:
    g = PowersOfTwo()
    x, r = g.qdq(g.input("x", 1, 4, 5, 5), 2.0**-5), g.qdq(g.input("r", 1, 4, 5, 5), 2.0**-4)
    q = torch.randint(-127, 128, (4, 4, 1, 1), dtype=torch.int8)
    scale = 2.0 ** (exponent + torch.tensor([0.0, 1.0, -5.0, 3.0]))
    w = g.b(Dequantize(), g.b.constant(q), g.b.constant(scale))
    y = g.b(Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1), x, w)
    step = 2.0 ** max(-4, exponent)
    lowered(g.finish(y=g.qdq(g.b(Relu(), g.b(Add(), r, y)), step)), step)


def test_a_rectified_sum_is_added_in_i32() -> None:
    g = PowersOfTwo()
    x = g.qdq(g.input("x", 1, 4, 5, 5), 2.0**-5)
    y = g.b(Sub(), g.b(Clamp(-0.5, 1.0), g.conv(x, 4)), x)
    after = lowered(g.finish(y=g.qdq(y, 2.0**-5)), 2.0**-5)
    assert {"max", "min", "sub"} <= set(ops(after))


def test_products_and_constants_are_integers() -> None:
    g = PowersOfTwo()
    x, y = g.qdq(g.input("x", 1, 4, 5, 5), 2.0**-5), g.qdq(g.input("y", 1, 4, 1, 1), 2.0**-6)
    z = g.qdq(g.b(Mul(), x, y), 2.0**-5)
    by = g.b.constant(torch.tensor([0.3, -1.7, 0.0, 2.0]).reshape(4, 1, 1))
    u = g.qdq(g.b(Add(), g.b(Mul(), z, by), g.b.constant(g.normal(5))), 2.0**-5)
    v = g.qdq(g.b(Div(), u, g.b.scalar(6, F32)), 2.0**-6)
    lowered(g.finish(z=z, u=u), 2.0**-5)
    lowered(g.finish(v=v), 2.0**-6)


def test_float_means_of_integers_become_sums_times_a_factor() -> None:
    g = PowersOfTwo()
    x = g.qdq(g.input("x", 2, 4, 7, 7), 2.0**-5)
    pool = AvgPool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1))
    y, z = g.qdq(g.b(ReduceMean((2, 3)), x), 2.0**-7), g.qdq(g.b(pool, x), 2.0**-6)
    lowered(g.finish(y=y), 2.0**-7)
    lowered(g.finish(z=z), 2.0**-6)


def test_what_shifts_cannot_do_stays_float_with_a_reason() -> None:
    g = PowersOfTwo()
    x = g.qdq(g.input("x", 1, 8, 5, 5), 2.0**-5)
    w = g.b(Dequantize(), g.b.constant(torch.full((2, 8, 3, 3), 127, dtype=torch.int8)), g.b.scalar(0.3, F32))
    y = g.b(Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1), x, w)
    graph = g.finish(y=g.qdq(y, 1.0))
    with taking_notes() as notes:
        after = LOWER.run(graph)
    assert [n.op.name for n in integer_parts(after).after] == ["dequantize", "quantize", "dequantize"]
    ((reason,),) = [[row["why"] for row in notes["kept_float"]]]
    assert "no room for a factor that is no power of two" in reason


@settings(max_examples=40, deadline=None)
@given(graph=shift_graphs(steps=1))
def test_one_layer_is_within_a_step_of_the_float_graph(graph: Graph) -> None:
    after = LOWER.run(graph)
    verify(after)
    assert integer_parts(after).between == ()
    inputs = random_inputs(graph.input_types())
    before, now = run(graph, inputs), run(after, inputs)
    for (name, expected), value in zip(before.items(), graph.outputs, strict=True):
        scale = _scale_of(value)
        assert (expected - now[name]).abs().max() <= 1.001 * scale, name


def _scale_of(value: Value) -> float:
    """The scale of the nearest dequantize that gives a value."""
    while not isinstance(value.op, Dequantize):
        value = value.node.operands[0]
    literal = value.node.operands[1].literal
    assert literal is not None
    return float(literal.tensor.max())


@settings(max_examples=25, deadline=None)
@given(graph=shift_graphs())
def test_networks_are_integers_throughout_and_stay_near_the_float_graph(graph: Graph) -> None:
    after = LOWER.run(graph)
    verify(after)
    assert LOWER.run(after) is after
    assert integer_parts(after).between == ()
    inputs = random_inputs(graph.input_types())
    before, now = run(graph, inputs), run(after, inputs)
    for name, expected in before.items():
        worst = (expected - now[name]).abs().max()
        assert worst <= 1.6 or sqnr(expected, now[name]) > 15, name


@settings(max_examples=25, deadline=None)
@given(graph=shift_graphs())
def test_no_sum_exceeds_its_bound(graph: Graph) -> None:
    after = LOWER.run(graph)
    sums = [v for n in after.nodes for v in n.values if v.type.dtype in (DType.i32, DType.i8)]
    seen = Graph("seen", after.inputs, after.nodes, tuple(sums), tuple(map(str, range(len(sums)))))
    found = run(seen, random_inputs(graph.input_types()))
    for value, tensor in zip(sums, found.values(), strict=True):
        assert int(tensor.long().abs().max()) <= magnitude(value) <= 2**31


@given(count=st.integers(1, 33025))
def test_the_shares_of_a_mean_add_up_exactly(count: int) -> None:
    integers, shift = shares(count, 127)
    assert len(integers) == count
    assert int(integers.sum()) == 2**shift
    assert int(integers.max()) <= 127
    assert int(integers.max() - integers.min()) <= 1
    assert count.bit_count() == 1 or int(integers.max()) >= 63


class Blocks(torch.nn.Module):
    """A residual block whose shortcut is a convolution, a gate, two kinds of pools, a joint and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, 2, 1)
        self.c, self.d = torch.nn.Conv2d(8, 8, 1, 2), torch.nn.Conv2d(8, 8, 1)
        self.e = torch.nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.relu6(self.a(x))
        x = torch.relu(self.b(x) + self.c(x))
        gate = torch.nn.functional.hardsigmoid(self.d(x.mean((2, 3), keepdim=True)))
        x = torch.nn.functional.hardswish(x * gate)
        pooled = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
        most = torch.nn.functional.max_pool2d(x, 3, 1, 1)
        joined: torch.Tensor = self.e(torch.cat([x, pooled, most, self.d(x)], 1).mean((2, 3)))
        return joined


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_device_of_shifts_gets_a_whole_network_as_integers(per_channel: bool) -> None:
    torch.manual_seed(0)
    module, x = Blocks().eval(), torch.randn(1, 3, 10, 10)
    data = [(torch.randn(1, 3, 10, 10),) for _ in range(3)]
    target = ShiftTarget(per_channel)
    artifact = hardy.compile(module, (x,), target=target, preset="int8", calibration=data)
    parts = integer_parts(artifact.graph)
    assert [n.op.name for n in parts.before] == ["quantize"]
    assert parts.between == ()
    assert [n.op.name for n in parts.after] == ["dequantize"]
    assert [v.type.dtype for v in parts.entries] == [DType.i8]
    assert [v.type.dtype for v in parts.exits] == [DType.i32]
    (y,) = artifact.run(x=x).values()
    assert sqnr(module(x).detach(), y) > 25


def test_of_two_sums_that_are_added_the_first_is_quantized() -> None:
    """A device holds one sum in i32 and stores narrow integers."""
    torch.manual_seed(0)
    graph = traced(Blocks(), torch.randn(1, 3, 10, 10))
    data = [(torch.randn(1, 3, 10, 10),)]
    after = LOWER.run(Quantize(calibration=data, scheme=scheme()).run(graph))
    products = ("integer_conv", "integer_matmul")
    for node in after.nodes:
        if node.op.name == "add":
            assert sum(_leads_from(v, products) for v in node.operands) <= 1


class ReadTwice(torch.nn.Module):
    """A sum that is rectified and added to."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (torch.nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        z: torch.Tensor = self.c(torch.relu(y) + self.b(y.abs().neg()))
        return z + self.c(torch.relu(y))


def test_a_sum_that_two_ops_read_is_quantized() -> None:
    torch.manual_seed(0)
    graph = traced(ReadTwice(), torch.randn(1, 4, 5, 5))
    after = Quantize(calibration=[(torch.randn(1, 4, 5, 5),)], scheme=scheme()).run(graph)
    users = [n for n in after.nodes if n.op.name in ("relu", "abs")]
    assert {v.op.name for n in users for v in n.operands} == {"dequantize"}


def _leads_from(value: Value, names: tuple[str, ...]) -> bool:
    """Whether an i32 value is computed from a product without being narrowed in between."""
    if value.type.dtype is not DType.i32 or not value.node.operands:
        return False
    return value.op.name in names or any(_leads_from(v, names) for v in value.node.operands)


def test_float_ops_between_integers_are_told_apart() -> None:
    g = PowersOfTwo()
    x = g.qdq(g.input("x", 1, 4, 5, 5), 2.0**-5)
    y = g.conv(g.qdq(g.b(Sigmoid(), g.conv(x, 4)), 2.0**-7), 4)
    parts = integer_parts(LOWER.run(g.finish(y=y)))
    assert [n.op.name for n in parts.before] == ["quantize"]
    assert [n.op.name for n in parts.between] == ["dequantize", "sigmoid", "mul", "quantize"]
    assert [n.op.name for n in parts.after] == ["dequantize"]


SLOW = pytest.mark.slow  # They are built with transformers, whose import takes long.


@pytest.mark.parametrize(
    "name", [pytest.param("resnet18", marks=SLOW), pytest.param("mobilenet_v2", marks=SLOW), "mobilenet_v3"]
)
def test_well_known_networks_become_integers_end_to_end(name: str) -> None:
    model = ZOO[name](True)
    assert isinstance(model.inputs, tuple)
    graph = traced(model.module, *model.inputs)
    quantized = Quantize(calibration=[model.inputs], scheme=scheme(), method="min_max").run(graph)
    parts = integer_parts(LOWER.run(quantized))
    assert [n.op.name for n in parts.before] == ["quantize"]
    assert parts.between == ()
    assert [n.op.name for n in parts.after] == ["dequantize"]
