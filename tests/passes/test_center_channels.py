"""Centering: the range of what a layer reads shrinks, its result stays."""

from __future__ import annotations

import pytest
import torch

from hardy.compiler.errors import UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.ops.linear import Conv
from hardy.compiler.pipeline import Pipeline, sqnr
from hardy.compiler.types import DType, TensorType
from hardy.passes import CenterChannels, Quantize
from tests.passes.test_quantize import linear, noise
from tests.rewriting import ops, require_same_outputs


def spread_data(count: int = 8) -> list[torch.Tensor]:
    """Two of eight channels lie far from zero, on either side."""
    center = torch.tensor([0.0, 0.0, 30.0, 0.0, 0.0, -20.0, 0.0, 0.0])
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 8, generator=generator) + center for _ in range(count)]


def layer() -> Graph:
    return linear(torch.randn(16, 8, generator=torch.Generator().manual_seed(1)))


def test_centering_keeps_the_result() -> None:
    graph = layer()
    after = CenterChannels(calibration=spread_data()).run(graph)
    assert ops(after) == ["sub", "matmul", "add"]
    require_same_outputs(graph, after)


def test_centering_makes_quantization_finer() -> None:
    graph, calibration = layer(), spread_data()
    plain = Quantize(calibration=calibration, least_macs=0).run(graph)
    result = Pipeline((CenterChannels(calibration), Quantize(calibration, least_macs=0))).run(graph)
    assert result.records[0].notes["ranges_divided_by"]["w"] > 5
    given = {"x": spread_data(9)[8]}
    assert noise(graph, result.graph, given) > noise(graph, plain, given) + 10


def test_centering_has_nothing_to_do_twice_or_on_channels_around_zero() -> None:
    graph = layer()
    even = torch.linspace(-1, 1, 4)[:, None].expand(4, 8).contiguous()
    assert CenterChannels(calibration=[even, -even]).run(graph) is graph
    centered = CenterChannels(calibration=spread_data()).run(graph)
    assert CenterChannels(calibration=spread_data()).run(centered) is centered


def wide_data(count: int = 8) -> list[torch.Tensor]:
    """Channels around zero, two of them far wider than the others."""
    size = torch.tensor([1.0, 1.0, 40.0, 1.0, 1.0, 25.0, 1.0, 1.0])
    generator = torch.Generator().manual_seed(0)
    half = [torch.randn(4, 8, generator=generator) * size for _ in range(count)]
    return [x for y in half for x in (y, -y)]


def test_wide_channels_are_divided_and_the_result_stays() -> None:
    graph = layer()
    after = CenterChannels(calibration=wide_data(), scales=True).run(graph)
    assert ops(after) == ["mul", "matmul"]
    require_same_outputs(graph, after)
    assert CenterChannels(calibration=wide_data(), scales=True).run(after) is after
    assert CenterChannels(calibration=wide_data()).run(graph) is graph


def test_dividing_wide_channels_makes_quantization_finer() -> None:
    calibration = wide_data()
    # The wide channels are those that the layer makes little of.
    weight = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    weight[:, [2, 5]] *= 0.02
    graph = linear(weight)
    plain = Quantize(calibration=calibration, least_macs=0).run(graph)
    result = Pipeline((CenterChannels(calibration, scales=True), Quantize(calibration, least_macs=0))).run(
        graph
    )
    assert result.records[0].notes["noise_divided_by"]["w"] > 5
    given = {"x": wide_data(9)[16]}
    assert noise(graph, result.graph, given) > noise(graph, plain, given) + 10


def depthwise(weight: torch.Tensor) -> Graph:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (1, len(weight), 9, 9)))
    op = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), len(weight))
    return b.finish({"y": b(op, x, b.constant(weight, name="w"))})


def test_the_channels_of_a_depthwise_convolution_are_made_of_one_size() -> None:
    generator = torch.Generator().manual_seed(3)
    graph = depthwise(torch.randn(6, 1, 3, 3, generator=generator))
    size = torch.tensor([0.01, 0.02, 0.01, 5.0, 0.05, 0.1])[:, None, None]
    # Like hard swish: a little below zero, whatever the channel reaches above.
    feeds = [torch.randn(1, 6, 9, 9, generator=generator).abs() * size - 0.02 for _ in range(5)]
    after = CenterChannels(calibration=feeds[1:], scales=True).run(graph)
    assert ops(after) == ["mul", "conv"]
    given = {"x": feeds[0]}
    expected = run(graph, given)["y"]
    torch.testing.assert_close(run(after, given)["y"], expected)
    assert CenterChannels(calibration=feeds[1:], scales=True).run(after) is after
    plain, fine = (
        run(Quantize(calibration=feeds[1:], least_macs=0).run(g), given)["y"] for g in (graph, after)
    )
    narrow = [0, 1, 2, 4, 5]
    assert sqnr(expected[:, narrow], fine[:, narrow]) > sqnr(expected[:, narrow], plain[:, narrow]) + 10


def test_a_depthwise_convolution_that_is_quiet_enough_is_left_alone() -> None:
    graph = depthwise(torch.ones(4, 1, 3, 3))
    size = torch.tensor([3.0, 6.0, 6.0, 6.0])[:, None, None]
    feed = torch.rand(1, 4, 9, 9, generator=torch.Generator().manual_seed(4)) * size
    assert CenterChannels(calibration=[feed], scales=True).run(graph) is graph


def test_centering_needs_data() -> None:
    with pytest.raises(UsageError, match="center_channels has no calibration data"):
        CenterChannels().run(layer())
