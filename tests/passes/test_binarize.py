"""Signs in place of weights and activations: what they are, where they go, and that they learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardy.compiler.errors import UnsupportedError, UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.models import trace
from hardy.compiler.pipeline import Pipeline
from hardy.compiler.training import GraphModule
from hardy.compiler.verify import verify
from hardy.passes import Binarize, LowerBinary
from hardy.passes.layers import layers, replace_weights
from tests.rewriting import ops


def small(channels: int = 6) -> tuple[nn.Sequential, Graph]:
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(2, channels, 3), nn.BatchNorm2d(channels), nn.ReLU()),
        *(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)),
    ).eval()
    return module, trace(module, (torch.zeros(2, 2, 8, 8),))


X = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def before(module: nn.Sequential, count: int) -> Tensor:
    with torch.no_grad():
        return module[:count](X)


def after(module: nn.Sequential, y: Tensor) -> Tensor:
    with torch.no_grad():
        return module[4:](y)


def plus_minus(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def test_binary_weights_are_signs_times_the_mean_magnitude_of_a_channel() -> None:
    module, graph = small()
    binary = Binarize(activations=False).run(graph)
    verify(binary)
    conv = module[3]
    alpha = conv.weight.abs().mean((1, 2, 3), keepdim=True)
    y = F.conv2d(before(module, 3), plus_minus(conv.weight) * alpha, conv.bias, padding=1)
    torch.testing.assert_close(run(binary, {"input": X})["output"], after(module, y.detach()))


def test_ternary_weights_are_zero_below_a_threshold() -> None:
    module, graph = small()
    ternary = Binarize(activations=False, weights="ternary").run(graph)
    conv = module[3]
    magnitude = conv.weight.detach().abs()
    kept = magnitude > 0.7 * magnitude.mean((1, 2, 3), keepdim=True)
    assert 0.2 < kept.float().mean() < 0.8
    alpha = (magnitude * kept).sum((1, 2, 3), keepdim=True) / kept.sum((1, 2, 3), keepdim=True)
    weight = conv.weight.detach().sign() * kept * alpha
    y = F.conv2d(before(module, 3), weight, conv.bias, padding=1)
    torch.testing.assert_close(run(ternary, {"input": X})["output"], after(module, y.detach()))


@pytest.mark.parametrize("scale", ["mean", "learned"])
@pytest.mark.parametrize("input_scale", ["box", "tensor", "none"])
def test_binary_activations_are_scaled_by_what_their_signs_lost(input_scale: str, scale: str) -> None:
    module, graph = small()
    binary = Binarize(input_scale=input_scale, scale=scale).run(graph)
    conv = module[3]
    x = before(module, 2)  # without the rectifier
    k = torch.ones(1)
    if input_scale == "tensor":
        k = x.abs().mean((1, 2, 3), keepdim=True)
    if input_scale == "box":
        k = F.conv2d(x.abs().mean(1, keepdim=True), torch.full((1, 1, 3, 3), 1 / 9), padding=1)
    alpha = conv.weight.abs().mean((1, 2, 3)).reshape(-1, 1, 1)
    y = F.conv2d(plus_minus(x), plus_minus(conv.weight), padding=1) * alpha * k
    y = (y + conv.bias.reshape(-1, 1, 1)).detach()
    torch.testing.assert_close(run(binary, {"input": X})["output"], after(module, y))


def test_the_first_and_the_last_layer_stay_float_unless_they_are_named() -> None:
    _, graph = small()
    result = Pipeline((Binarize(),)).run(graph)
    kept = {row["layer"]: row["why"] for row in result.records[0].notes["kept_float"]}
    assert kept == {"0.weight": "first or last layer", "6.weight": "first or last layer"}
    named = Binarize(only=("6.*",)).run(graph)
    assert ops(named).count("binarize") == 2
    assert Binarize(skip=("3.*",)).run(graph) is graph
    binary = Binarize().run(graph)
    assert Binarize().run(binary) is binary


def test_options_and_weights_that_do_not_fit_are_refused() -> None:
    _, graph = small()
    for wrong in ({"weights": "unary"}, {"scale": "max"}, {"input_scale": "cube"}, {"only": ("nothing",)}):
        with pytest.raises(UsageError):
            Binarize(**wrong).run(graph)
    layer = list(layers(graph))[1]
    broken = replace_weights(graph, {layer.weight: torch.full_like(layer.data, torch.nan)})
    with pytest.raises(UnsupportedError, match=r"3\.weight holds NaN"):
        Binarize().run(broken)


@pytest.mark.parametrize("weights", ["binary", "ternary"])
def test_channels_of_zeros_stay_finite(weights: str) -> None:
    _, graph = small()
    layer = list(layers(graph))[1]
    graph = replace_weights(graph, {layer.weight: torch.zeros_like(layer.data)})
    assert run(Binarize(weights=weights).run(graph), {"input": X})["output"].isfinite().all()


def test_real_weights_learn_through_their_signs_and_the_result_is_lowered() -> None:
    _, graph = small(channels=16)
    module = GraphModule(Binarize(input_scale="none").run(graph))
    x = torch.randn(32, 2, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    label = (x.mean((2, 3, 4)) > 0).long().flatten()
    conv = next(w for v, w in zip(module.trained, module.weights, strict=True) if v.node.name == "3.weight")
    start = conv.data.detach().clone()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        outputs, _ = module.batch({"input": x})
        loss = F.cross_entropy(outputs["output"].flatten(0, 1), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    assert (conv.data.detach().sign() != start.sign()).any()
    trained = module.to_graph()
    lowered = LowerBinary().run(trained)
    assert ops(lowered).count("binary_conv") == 1
    feed = {"input": x[0]}
    torch.testing.assert_close(run(lowered, feed)["output"], run(trained, feed)["output"])
