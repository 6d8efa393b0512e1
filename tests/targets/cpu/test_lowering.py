"""Clusters become the loops they should: fused, shared, in place, and right on odd shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardy.compiler.ir import Builder, Graph, Value
from hardy.compiler.ops.activation import Gelu, Relu, Sigmoid, Softmax
from hardy.compiler.ops.elementwise import Add, Div, Mul, Sub
from hardy.compiler.ops.group import Group
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.quant import IntegerConv, IntegerMatmul, Requantize
from hardy.compiler.ops.recurrent import Lstm
from hardy.compiler.ops.reduce import ReduceMax, ReduceSum, TopK
from hardy.compiler.ops.shape import Concat, Gather, Pad, Reshape, Reverse, Slice, Transpose
from hardy.compiler.ops.transcendental import Exp, Sin, Tanh
from hardy.compiler.types import DType, TensorType
from hardy.targets.cpu.isa import by_name, missing_on_host
from tests.targets.cpu.programs import compile_graph, require_reference

F32 = DType.f32


def f32(*shape: int) -> TensorType:
    return TensorType(F32, shape)


def grouped(kind: str, body: Graph) -> Graph:
    """A graph of one group."""
    b = Builder()
    inputs = [b.input(name, t) for name, t in body.input_types().items()]
    results = b.multi(Group(kind, body), *inputs)
    return b.finish(dict(zip(body.output_names, results, strict=True)))


def test_elementwise_chain_is_one_call() -> None:
    b = Builder()
    x, y = b.input("x", f32(3, 50)), b.input("y", f32(50))
    body = b.finish({"z": b(Tanh(), b(Mul(), b(Add(), x, y), b.scalar(0.5, F32)))})
    compiled = require_reference(grouped("elementwise", body), [torch.randn(3, 50), torch.randn(50)])
    assert compiled.steps == ["add_mul_tanh_3x50_0"]


def test_group_with_two_results_writes_both() -> None:
    b = Builder()
    x = b.input("x", f32(5, 7))
    y = b(Exp(), x)
    body = b.finish({"y": y, "z": b(Relu(), y), "x": x})
    compiled = require_reference(grouped("elementwise", body), [torch.randn(5, 7)])
    assert len(compiled.steps) == 2  # the group, and a copy for the result that is an input


def test_reduction_takes_producers_and_consumers_into_its_loops() -> None:
    b = Builder()
    x, y = b.input("x", f32(6, 11, 33)), b.input("y", f32(33))
    squares = b(Mul(), b(Sub(), x, y), x)
    mean = b(Div(), b(ReduceSum((1,)), squares), b.scalar(11, F32))
    body = b.finish({"m": b(Sigmoid(), mean)})
    compiled = require_reference(grouped("reduce", body), [torch.randn(6, 11, 33), torch.randn(33)])
    assert len(compiled.steps) == 1


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_reductions_over_any_axes_are_right_on_odd_sizes(axes: tuple[int, ...]) -> None:
    b = Builder()
    x = b.input("x", f32(7, 13, 29))
    g = b.finish({"s": b(ReduceSum(axes), x), "m": b(ReduceMax(axes, True), x)})
    require_reference(g, [torch.randn(7, 13, 29)])


def test_long_sums_keep_their_precision() -> None:
    b = Builder()
    x = b.input("x", f32(2, 300_001))
    g = b.finish({"s": b(ReduceSum((1,)), x)})
    data = torch.rand(2, 300_001)
    (total,) = compile_graph(g).runner.run([data])
    exact = data.double().sum(1)
    assert ((total.double() - exact) / exact).abs().max() < 1e-6


def test_matmul_takes_bias_activation_and_residual_into_its_epilogue() -> None:
    b = Builder()
    x, residual = b.input("x", f32(1, 9, 32)), b.input("r", f32(1, 9, 48))
    w, bias = b.input("w", f32(32, 48)), b.input("b", f32(48))
    y = b(Gelu(), b(Add(), b(Matmul(), x, w), bias))
    body = b.finish({"y": b(Add(), y, residual)})
    outer = Builder()
    given_ = [outer.input("x", f32(1, 9, 32)), outer.input("r", f32(1, 9, 48))]
    constants = [outer.constant(torch.randn(32, 48)), outer.constant(torch.randn(48))]
    g = outer.finish({"y": outer(Group("matmul", body), *given_, *constants)})
    compiled = require_reference(g, [torch.randn(1, 9, 32), torch.randn(1, 9, 48)])
    assert compiled.steps == ["matmul_add_gelu_1x9x48_0"]


def test_what_does_not_fit_an_epilogue_gets_a_kernel_of_its_own() -> None:
    b = Builder()
    x, w, middle = b.input("x", f32(2, 8, 16)), b.input("w", f32(16, 24)), b.input("m", f32(1, 8, 1))
    body = b.finish({"y": b(Add(), b(Matmul(), x, w), middle)})
    inputs = [torch.randn(2, 8, 16), torch.randn(16, 24), torch.randn(1, 8, 1)]
    compiled = require_reference(grouped("matmul", body), inputs)
    assert len(compiled.steps) == 2


def test_a_number_for_each_row_fits_an_epilogue() -> None:
    b = Builder()
    x, w, column = b.input("x", f32(2, 9, 16)), b.input("w", f32(16, 27)), b.input("c", f32(2, 9, 1))
    body = b.finish({"y": b(Mul(), b(Matmul(), x, w), column)})
    inputs = [torch.randn(2, 9, 16), torch.randn(16, 27), torch.randn(2, 9, 1)]
    compiled = require_reference(grouped("matmul", body), inputs)
    assert len(compiled.steps) == 1


def test_layers_of_one_shape_share_a_kernel_and_not_their_weights() -> None:
    b = Builder()
    x = b.input("x", f32(4, 32))
    for _ in range(3):
        x = b(Matmul(), x, b.constant(torch.randn(32, 32)))
    compiled = require_reference(b.finish({"y": x}), [torch.randn(4, 32)])
    assert len(compiled.steps) == 3
    assert len(set(compiled.steps)) == 1
    assert compiled.package.manifest["constants_bytes"] == 3 * 32 * 32 * 4


def test_equal_constants_are_stored_once() -> None:
    b = Builder()
    x, w = b.input("x", f32(4, 32)), torch.randn(32, 32)
    y = b(Matmul(), b(Matmul(), x, b.constant(w)), b.constant(w.clone()))
    compiled = require_reference(b.finish({"y": y}), [torch.randn(4, 32)])
    assert compiled.package.manifest["constants_bytes"] == 32 * 32 * 4


def test_reshapes_and_leading_slices_cost_no_call() -> None:
    b = Builder()
    x = b.input("x", f32(6, 4, 5))
    y = b(Exp(), b(Reshape((2, 20)), b(Slice((2, 0, 0), (4, 4, 5), (1, 1, 1)), x)))
    g = b.finish({"y": b(Reshape((40,)), y)})
    compiled = require_reference(g, [torch.randn(6, 4, 5)])
    assert compiled.steps == ["exp_2x20_0"]


def test_outputs_that_are_inputs_constants_or_the_same_value_are_tensors_of_their_own() -> None:
    b = Builder()
    x = b.input("x", f32(3, 4))
    y = b(Relu(), x)
    constant = b.constant(torch.arange(6.0).reshape(2, 3))
    g = b.finish({"x": x, "y": y, "again": y, "flat": b(Reshape((12,)), y), "c": constant})
    compiled = require_reference(g, [torch.randn(3, 4)])
    outputs = compiled.runner.run([torch.randn(3, 4)])
    assert len({t.data_ptr() for t in outputs}) == 5


def test_concat_of_equal_parts_shares_one_copy_kernel() -> None:
    b = Builder()
    x = b.input("x", f32(5, 7))
    g = b.finish({"y": b(Concat(1), *[b(Mul(), x, b.scalar(i, F32)) for i in range(4)])})
    compiled = require_reference(g, [torch.randn(5, 7)])
    assert len({s for s in compiled.steps if s.startswith("concat")}) == 1


def test_negative_and_wild_indices_stay_inside_the_tensor() -> None:
    b = Builder()
    x, i = b.input("x", f32(5, 3)), b.input("i", TensorType(DType.i64, (4,)))
    g = b.finish({"y": b(Gather(0), x, i)})
    data = torch.randn(5, 3)
    compiled = require_reference(g, [data, torch.tensor([0, -1, -5, 4])])
    (wild,) = compiled.runner.run([data, torch.tensor([10**12, -(10**12), 5, -6])])
    assert torch.equal(wild, data[[4, 0, 4, 0]])


def test_integer_division_by_zero_does_not_trap() -> None:
    for dtype in (DType.i32, DType.i64, DType.i8):
        b = Builder()
        t = TensorType(dtype, (4,))
        x, y = b.input("x", t), b.input("y", t)
        g = b.finish({"q": b(Div(), x, y)})
        low = dtype.range[0]
        values = [torch.tensor(v, dtype=dtype.torch) for v in ([7, low, -9, low], [0, -1, 2, 0])]
        (quotient,) = compile_graph(g).runner.run(values)
        assert quotient.tolist() == [0, low, -4, 0]


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(("n", "k"), [(500, 500), (77, 77), (300, 65), (400, 6), (5, 5)])
def test_sorting_is_stable_and_puts_nan_with_the_greatest(n: int, k: int, largest: bool) -> None:
    b = Builder()
    values, positions = b.multi(TopK(k, 1, largest), b.input("x", f32(3, n)))
    data = torch.randint(-20, 20, (3, n)).float()
    data[1, n // 2] = float("nan")
    require_reference(b.finish({"v": values, "p": positions}), [data])


def test_a_long_recurrence_repeats_the_kernels_of_one_step() -> None:
    steps, hidden = 200, 24
    b = Builder()
    x = b.input("x", f32(steps, 2, 16))
    operands = [(1, 4 * hidden, 16), (1, 4 * hidden, hidden), (1, 4 * hidden), (1, 2, hidden), (1, 2, hidden)]
    y = b.multi(Lstm(), x, *[b.constant(torch.randn(s) * 0.2) for s in operands])
    g = b.finish({"y": y[0], "h": y[1], "c": y[2]})
    compiled = require_reference(g, [torch.randn(steps, 2, 16)])
    assert len(compiled.steps) > 2 * steps
    assert compiled.package.manifest["kernels"] < 10


@pytest.mark.parametrize("name", ["avx512+vnni", "avx512", "avx2", "portable"])
@pytest.mark.parametrize("dtype", [DType.u8, DType.i8])
def test_integer_layers_are_exact_with_requantization_in_the_kernel(name: str, dtype: DType) -> None:
    isa = by_name(name)
    if missing_on_host(isa):
        pytest.skip(f"this processor lacks {missing_on_host(isa)}")
    low, high = dtype.range
    b = Builder()
    x = b.input("x", TensorType(dtype, (1, 9, 11, 16)))
    weight = b.input("w", TensorType(DType.i8, (24, 16, 3, 3)))
    zero = b.input("z", TensorType(dtype, ()))
    y = b(IntegerConv((1, 2), ((1, 1), (1, 0)), (1, 1), layout="channels_last"), x, weight, zero)
    scale, offset = b.input("s", f32(24)), b.input("o", TensorType(DType.u8, ()))
    body = b.finish({"q": b(Requantize(DType.u8, 3), y, scale, offset)})
    outer = Builder()
    image = outer.input("x", TensorType(dtype, (1, 9, 11, 16)))
    operands = (
        torch.randint(-128, 128, (24, 16, 3, 3), dtype=torch.int8),
        torch.tensor(5, dtype=dtype.torch),
        torch.rand(24) * 0.002,
        torch.tensor(100, dtype=torch.uint8),
    )
    q = outer(Group("integer_conv", body), image, *[outer.constant(t) for t in operands])
    flat = (
        outer(Reshape((99, 24)), q) if q.type.size == 99 * 24 else outer(Reshape((q.type.size // 24, 24)), q)
    )
    cast = outer(IntegerMatmul(), flat, outer.constant(torch.randint(-128, 128, (24, 10), dtype=torch.int8)))
    data = torch.randint(low, high + 1, (1, 9, 11, 16)).to(dtype.torch)
    compiled = require_reference(outer.finish({"y": cast}), [data], isa)
    assert len(compiled.steps) == 2


def test_channels_first_and_three_axes_have_a_general_form() -> None:
    b = Builder()
    x = b.input("x", f32(2, 4, 5, 6, 7))
    w = b.constant(torch.randn(6, 2, 2, 3, 2))
    bias = b.constant(torch.randn(6))
    conv = Conv((1, 2, 1), ((1, 0), (1, 1), (0, 1)), (1, 1, 2), groups=2)
    require_reference(b.finish({"y": b(conv, x, w, bias)}), [torch.randn(2, 4, 5, 6, 7)])


def test_library_functions_are_called_an_element_at_a_time() -> None:
    b = Builder()
    x = b.input("x", f32(3, 21))
    require_reference(b.finish({"y": b(Sin(), x), "s": b(Softmax(1), x)}), [torch.randn(3, 21)])


@st.composite
def movements(draw: st.DrawFn) -> Graph:
    """A few ops that move elements, in one group, with elementwise work between them."""
    b = Builder()
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    x = v = b.input("x", f32(*shape))
    for _ in range(draw(st.integers(1, 4))):
        v = _moved(draw, b, v)
        if draw(st.booleans()):
            v = b(Mul(), v, b.scalar(0.5, F32))
    del x
    return b.finish({"y": v})


def _moved(draw: st.DrawFn, b: Builder, v: Value) -> Value:
    shape, rank = v.type.shape, v.type.rank
    kind = draw(st.sampled_from(["transpose", "reshape", "slice", "reverse", "pad", "concat"]))
    if kind == "transpose":
        return b(Transpose(tuple(draw(st.permutations(range(rank))))), v)
    if kind == "reshape":
        factors = draw(st.sampled_from([d for d in range(1, v.type.size + 1) if v.type.size % d == 0]))
        return b(Reshape((factors, v.type.size // factors)), v)
    if kind == "slice":
        starts = tuple(draw(st.integers(0, n - 1)) for n in shape)
        steps = tuple(draw(st.integers(1, 2)) for _ in shape)
        return b(Slice(starts, shape, steps), v)
    if kind == "reverse":
        return b(Reverse((draw(st.integers(0, rank - 1)),)), v)
    if kind == "pad":
        low = tuple(draw(st.integers(0, 2)) for _ in shape)
        high = tuple(draw(st.integers(0, 2)) for _ in shape)
        interior = tuple(draw(st.integers(0, 1)) for _ in shape)
        return b(Pad(low, high, 1.5, interior), v)
    axis = draw(st.integers(0, rank - 1))
    return b(Concat(axis), v, b(Relu(), v))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(movements())
def test_any_composition_of_movements_in_one_kernel_is_right(body: Graph) -> None:
    shape = body.inputs[0].type.shape
    require_reference(grouped("elementwise", body), [torch.randn(shape)])
