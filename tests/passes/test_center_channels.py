"""Centering: the range of what a layer reads shrinks, its result stays."""

from __future__ import annotations

import pytest
import torch

from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.pipeline import Pipeline
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
    even = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    assert CenterChannels(calibration=[even, -even]).run(graph) is graph
    centered = CenterChannels(calibration=spread_data()).run(graph)
    assert CenterChannels(calibration=spread_data()).run(centered) is centered


def test_centering_needs_data() -> None:
    with pytest.raises(UsageError, match="center_channels has no calibration data"):
        CenterChannels().run(layer())
