"""Weights as integers: what is stored, what it costs, and that the better methods are better."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hardy.compiler.calibration import Grid, Samples, SecondMoments
from hardy.compiler.errors import InputError, UnsupportedError, UsageError
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.notes import taking_notes
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.ops.shape import Gather
from hardy.compiler.types import DType, TensorType
from hardy.compiler.verify import verify
from hardy.passes import FoldConstants, QuantizeWeights
from hardy.passes.layer_inputs import columns_of
from hardy.passes.layers import layers
from hardy.passes.rounding.awq import search_scales
from hardy.passes.rounding.blocks import Blocks, output_errors
from hardy.passes.rounding.clipping import SHARES, least_output_error
from hardy.passes.rounding.gptq import gptq
from hardy.passes.rounding.learned import learn_rounding
from hardy.passes.stored_layers import stored_layers
from tests.passes.quantized_nets import Gated, Tied, convolutions, correlated, output_error, traced
from tests.rewriting import body, ops, require_same_outputs


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


REAL = Grid(DType.u4, real_zero=True)


@functools.cache
def gated() -> Graph:
    return traced(Gated(), torch.randn(1, 7, 48))


def quantized(graph: Graph, **options: object) -> Graph:
    after = QuantizeWeights(**options).run(graph)  # type: ignore[arg-type]
    verify(after)
    return after


def test_weights_become_integers_with_a_scale_for_each_block() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (2, 64)))
    w = b.constant(torch.randn(3 * 8, 64), name="w")
    before = b.finish({"y": b(Matmul(transpose_b=True), x, w)})
    after = quantized(before, weights=DType.i4, block=32, least=1)
    text = body(after)
    assert "%w: i4[24,64]" in text
    assert "%w.scale: f32[24,2]" in text
    assert "dequantize(%w, %w.scale, axis=1, block=32)" in text
    assert ops(after) == ["dequantize", "matmul"]


@pytest.mark.parametrize("zero_points", ["none", "whole", "real"])
@pytest.mark.parametrize("block", [8, 20, 0])
def test_ranges_by_outputs_change_the_outputs_less_than_ranges_by_weights(
    block: int, zero_points: str
) -> None:
    graph, samples = gated(), correlated(1, 7, 48)
    how = {"weights": DType.u4, "block": block, "zero_points": zero_points, "least": 1}
    if zero_points == "none":
        how["weights"] = DType.i4
    near = quantized(graph, **how)
    learned = quantized(graph, **how, clip="outputs", calibration=samples)
    assert output_error(graph, learned, samples) < 0.9 * output_error(graph, near, samples)


def test_a_range_has_the_least_error_of_all_that_are_tried() -> None:
    """Each row of whole blocks and a shorter one against trying every range and zero point."""
    rows, x = torch.randn(1, 3, 10), torch.randn(1, 50, 10) + 0.5
    moments = x.mT @ x / 50
    grid = Grid(DType.u4)
    scale, zero = least_output_error(rows, moments, Blocks(grid, 4))
    assert scale.shape == zero.shape == (1, 3, 3)
    for block, columns in enumerate((slice(0, 4), slice(4, 8), slice(8, 10))):
        h = moments[:, columns, columns]
        for row in range(3):
            w = rows[:, row : row + 1, columns]

            def error(s: Tensor, z: Tensor, w: Tensor = w, h: Tensor = h) -> float:
                return float(output_errors(grid.rounded(w, s, z) - w, h))

            low, high = w.amin().clamp(max=0), w.amax().clamp(min=0)
            tried = [grid.parameters(low * share, high * share) for share in (1.0, *SHARES)]
            least = min(
                error(s, (z + d).clamp(0, 15))
                for i, (s, z) in enumerate(tried)
                for d in ((0,) if i == 0 else (-1, 0, 1))
            )
            assert error(scale[0, row, block], zero[0, row, block]) == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("block", [0, 16, 24])
def test_the_weight_may_lie_either_way_on_either_side(transposed: bool, left: bool, block: int) -> None:
    b = Builder()
    n, k = 20, 40
    x = b.input("x", TensorType(DType.f32, (k, 3) if left else (3, k)))
    w = b.constant(torch.randn((n, k) if transposed != left else (k, n)), name="w")
    op = Matmul(transpose_a=transposed) if left else Matmul(transpose_b=transposed)
    before = b.finish({"y": b(op, w, x) if left else b(op, x, w)})
    for weights in (DType.i8, DType.u8):
        after = quantized(before, weights=weights, block=block, least=1)
        (node,) = [m for m in after.nodes if isinstance(m.op, Dequantize)]
        assert node.operands[0].type.dtype is weights
        (old,), (new,) = (list(layers(g)) for g in (before, FoldConstants(unpack=True).run(after)))
        assert (old.rows() - new.rows()).abs().max() < 0.03


@pytest.mark.parametrize("method", ["nearest", "gptq", "awq", "awq_gptq"])
@pytest.mark.parametrize("weights", [DType.i8, DType.u8])
def test_eight_bits_change_little(method: str, weights: DType) -> None:
    before, samples = gated(), correlated(1, 7, 48)
    after = quantized(before, weights=weights, method=method, calibration=samples)
    assert output_error(before, after, samples) < 1e-3


def test_better_methods_are_better_on_their_data() -> None:
    before, samples = gated(), correlated(1, 7, 48)
    errors = {
        method: output_error(
            before,
            quantized(before, weights=DType.i4, block=16, method=method, calibration=samples),
            samples,
        )
        for method in ("nearest", "gptq", "awq", "awq_gptq")
    }
    assert errors["gptq"] < 0.7 * errors["nearest"]
    assert errors["awq"] < errors["nearest"]
    assert errors["awq_gptq"] < 0.7 * errors["nearest"]


def test_awq_folds_into_norm_and_layer_and_adds_no_ops() -> None:
    before = gated()
    after = quantized(before, weights=DType.i4, method="awq", calibration=correlated(1, 7, 48))
    assert [op for op in ops(after) if op != "dequantize"] == ops(before)


def test_awq_multiplies_at_run_time_where_the_input_has_other_users() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(48, 48, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.layer(x)

    before, samples = traced(Shared(), torch.randn(5, 48)), correlated(5, 48)
    after = quantized(before, weights=DType.i4, method="awq", calibration=samples)
    assert ops(after) == ["mul", "dequantize", "matmul", "add"]
    nearest = quantized(before, weights=DType.i4)
    assert output_error(before, after, samples) < output_error(before, nearest, samples)


def test_a_table_that_gather_reads_is_stored_once() -> None:
    before = traced(Tied(), torch.arange(6)[None])
    for block in (0, 8):
        after = quantized(before, block=block)
        (gather, *_) = [n for n in after.nodes if isinstance(n.op, Gather)]
        (matmul,) = [n for n in after.nodes if isinstance(n.op, Matmul)]
        assert gather.operands[0] == matmul.operands[1].node.operands[0]
        assert gather.operands[0].type.dtype is DType.i8
        assert not any(c.type.dtype is DType.f32 and c.type.size == 60 * 40 for c in after.constants())
        unpacked = FoldConstants(unpack=True).run(after)
        require_same_outputs(after, unpacked)


@pytest.mark.parametrize("method", ["nearest", "gptq", "awq"])
def test_convolutions_have_a_scale_for_each_output_channel(method: str) -> None:
    before, samples = traced(convolutions(), torch.randn(2, 3, 8, 8)), correlated(2, 3, 8, 8)
    after = quantized(before, method=method, block=32, least=1, calibration=samples)
    found = [n for n in after.nodes if isinstance(n.op, Conv)]
    assert len(found) == 3
    for node in found:
        dequantize = node.operands[1].node
        assert dequantize.op == Dequantize(0)
        assert dequantize.operands[1].type.shape == node.operands[1].type.shape[:1]
    assert output_error(before, after, samples) < 1e-3


def test_columns_times_rows_are_the_layers_outputs() -> None:
    module, x = convolutions(), torch.randn(2, 3, 8, 8)
    graph = traced(module, x)
    for layer in layers(graph):
        given = torch.randn(layer.x.type.shape)
        columns = columns_of(layer)(given)
        groups = layer.node.op.groups if isinstance(layer.node.op, Conv) else 1
        rows = layer.rows().reshape(groups, -1, columns.shape[-1])
        operands = [given, layer.data] + ([torch.zeros(len(layer.rows()))] if groups else [])
        y = layer.node.op.reference(*operands[: 3 if isinstance(layer.node.op, Conv) else 2])
        moved = y.movedim(1, -1).reshape(-1, len(layer.rows())) if y.ndim == 4 else y
        product = (columns @ rows.mT).movedim(0, 1).reshape(moved.shape)
        torch.testing.assert_close(product, moved, atol=1e-4, rtol=1e-4)


def test_small_memory_takes_more_sweeps_and_sees_the_layers_before_quantized() -> None:
    before = gated()
    swept = []

    def feeds() -> list[tuple[torch.Tensor]]:
        swept.append(1)
        return list(correlated(1, 7, 48))

    for memory in (1, 1 << 28):
        swept.clear()
        quantized(before, weights=DType.i4, method="gptq", calibration=feeds, memory=memory)
        assert len(swept) == (2 if memory == 1 else 1)


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from(
        [Grid(DType.i4, True), Grid(DType.u4), Grid(DType.u4, real_zero=True), Grid(DType.i8, True)]
    ),
    st.sampled_from([0, 8, 20]),
    st.booleans(),
    st.integers(1, 2),
    st.integers(0, 10**6),
)
def test_no_row_is_worse_with_gptq_or_learned_rounding_than_nearest(
    grid: Grid, size: int, by_activity: bool, groups: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(groups, 5, 36, generator=generator)
    x = torch.randn(groups, 30, 36, generator=generator) @ torch.randn(36, 36, generator=generator)
    x[..., 3] = 0
    moments = x.mT @ x / 30
    blocks = Blocks(grid, size)
    scale, zero = blocks.parameters(rows, moments.diagonal(dim1=-2, dim2=-1)[:, None])
    nearest = blocks.dequantize(blocks.quantize(rows, scale, zero), scale, zero)
    least = output_errors(nearest - rows, moments) * (1 + 1e-5)
    found = gptq(rows, moments, blocks, by_activity=by_activity)
    low, high = blocks.grid.limits
    assert found[0].min() >= low
    assert found[0].max() <= high
    assert (found[0] == found[0].round()).all()
    learned = learn_rounding(rows, moments, blocks, scale, zero, steps=20)
    assert ((learned - blocks.quantize(rows, scale, zero)).abs() <= 1).all()
    assert (output_errors(blocks.dequantize(learned, scale, zero) - rows, moments) <= least).all()
    assert output_errors(blocks.dequantize(*found) - rows, moments).sum() <= least.sum() * 1.001


def test_scales_of_awq_follow_the_inputs_where_that_helps() -> None:
    x = torch.randn(200, 64)
    x[:, :4] *= 100
    moments = SecondMoments(lambda t: t[None])
    moments.update(x)
    scales = search_scales([torch.randn(1, 32, 64)], moments, Blocks(Grid(DType.i4, True)))
    assert scales[:4].min() > 2 * scales[4:].max()
    even = SecondMoments(lambda t: t[None])
    even.update(torch.ones(8, 64))
    torch.testing.assert_close(
        search_scales([torch.randn(1, 32, 64)], even, Blocks(Grid(DType.i4, True))), torch.ones(64)
    )


def test_second_moments_are_those_of_all_feeds_together() -> None:
    x = torch.randn(3, 5, 4)
    moments = SecondMoments(lambda t: t.reshape(1, -1, 4))
    for part in x:
        moments.update(part)
    flat = x.reshape(-1, 4)
    torch.testing.assert_close(moments.matrix[0], flat.T @ flat / 15)
    torch.testing.assert_close(moments.magnitude[0], flat.abs().mean(0))


def test_the_report_has_a_row_for_each_layer() -> None:
    before = gated()
    with taking_notes() as notes:
        quantized(before, weights=DType.i4, block=16, method="gptq", calibration=correlated(1, 7, 48))
    assert [row["layer"] for row in notes["layers"]] == ["gate.weight", "up.weight", "down.weight"]
    assert notes["layers"][0]["bytes"] == 80 * 48 // 2 + 80 * 3 * 4
    assert all(row["output_sqnr_db"] > 10 for row in notes["layers"])


def test_real_zero_points_keep_weights_that_are_on_such_a_grid() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (2, 64)))
    levels = torch.randint(0, 16, (24, 2, 32), generator=torch.Generator().manual_seed(0))
    levels[..., 0], levels[..., 1] = 0, 15
    w = (levels * torch.rand(24, 2, 1) + torch.randn(24, 2, 1)).reshape(24, 64)
    before = b.finish({"y": b(Matmul(transpose_b=True), x, b.constant(w, name="w"))})
    errors = {}
    for kind in ("none", "whole", "real"):
        after = quantized(before, weights=DType.u4, block=32, zero_points=kind)
        (layer,) = layers(FoldConstants(unpack=True).run(after))
        errors[kind] = float((layer.rows() - w).square().mean())
    assert errors["real"] < 1e-10 < errors["whole"] < errors["none"]
    (stored,) = stored_layers(after)
    assert stored.blocks == Blocks(REAL, 32)


@pytest.mark.parametrize("method", ["gptq", "awq", "awq_gptq"])
def test_methods_take_real_zero_points(method: str) -> None:
    before, samples = gated(), correlated(1, 7, 48)
    options = {"weights": DType.u4, "block": 16, "zero_points": "real"}
    nearest, better = (
        quantized(before, method=m, calibration=samples, **options) for m in ("nearest", method)
    )
    assert output_error(before, better, samples) < output_error(before, nearest, samples)


def test_only_and_skip_select_and_small_weights_stay() -> None:
    before = gated()
    assert ops(quantized(before, skip=("gate*",))).count("dequantize") == 2
    assert quantized(before, least=1 << 20) is before


def test_options_that_do_not_fit_are_refused() -> None:
    before = gated()
    for options, words in (
        ({"method": "best"}, "no method 'best'"),
        ({"block": -1}, "at least one"),
        ({"weights": DType.f32}, "cannot quantize to f32"),
        ({"method": "gptq"}, "no calibration data"),
        ({"clip": "outputs"}, "no calibration data for nearest, clipped by outputs"),
        ({"clip": "outputs", "method": "awq_gptq"}, "awq_gptq chooses ranges as it goes"),
        ({"clip": "best"}, "nothing is clipped by 'best'"),
        ({"damping": 0.0}, "damping"),
        ({"zero_points": "some"}, "no zero points are 'some'"),
    ):
        with pytest.raises(UsageError, match=words):
            quantized(before, **options)


def test_data_and_weights_that_are_not_finite_are_refused() -> None:
    before = gated()
    feeds = [(torch.full((1, 7, 48), float("nan")),)]
    with pytest.raises(InputError, match="NaN"):
        quantized(before, method="gptq", calibration=Samples(lambda: feeds))
    with pytest.raises(InputError, match="no samples"):
        quantized(before, method="gptq", calibration=Samples(list))
    module = Gated()
    module.down.weight.data[0, 0] = float("inf")
    with pytest.raises(UnsupportedError, match=r"down\.weight"):
        quantized(traced(module, torch.randn(1, 7, 48)))


def test_dead_inputs_and_constant_channels_are_no_obstacle() -> None:
    feeds = [(torch.zeros(1, 7, 48),)]
    before = gated()
    after = quantized(before, weights=DType.i4, method="awq_gptq", calibration=Samples(lambda: feeds))
    assert all(bool(c.tensor.isfinite().all()) for c in after.constants() if c.type.dtype.is_float)
