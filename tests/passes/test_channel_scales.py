"""Factors of channels that move between layers: smoothing and equalization keep what is computed."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from hardy.compiler.calibration import ChannelRange, Samples, observe
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph, Value
from hardy.compiler.notes import taking_notes
from hardy.compiler.types import DType
from hardy.passes import Equalize, QuantizeWeights, SmoothQuant
from hardy.passes.layers import layers, replace_weights
from tests.passes.quantized_nets import Gated, correlated, output_error, traced
from tests.rewriting import apply, ops


def uneven(*modules: nn.Module) -> nn.Module:
    """Layers whose output channels are of very different size."""
    generator = torch.Generator().manual_seed(0)
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.Linear):
            sizes = torch.logspace(-2, 1, len(module.weight))[
                torch.randperm(len(module.weight), generator=generator)
            ]
            module.weight.data *= sizes.reshape(-1, *[1] * (module.weight.ndim - 1))
    return nn.Sequential(*modules)


@functools.cache
def chain() -> Graph:
    torch.manual_seed(0)
    module = uneven(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 12, 1),
        nn.ReLU6(),
        nn.Conv2d(12, 8, 1),
    )
    return traced(module, torch.randn(1, 3, 8, 8))


def spread(graph: Graph, axis: int) -> list[float]:
    """For each layer, the largest over the smallest of its channels' greatest weights."""
    sizes = [layer.data.movedim(axis, 0).flatten(1).abs().amax(1) for layer in layers(graph)]
    return [float(s.max() / s.min()) for s in sizes]


def test_equalization_keeps_the_function_and_evens_out_channels() -> None:
    before = chain()
    with taking_notes() as notes:
        after = apply(Equalize(), before)
    assert notes["equalized_pairs"] == 2
    assert ops(after) == ops(before)
    assert spread(after, 0)[0] < spread(before, 0)[0] / 10
    assert spread(after, 0)[1] < spread(before, 0)[1] / 10


def test_equalization_stops_at_activations_that_are_bounded_above() -> None:
    before, after = chain(), Equalize().run(chain())
    last = [list(layers(g))[-1].data for g in (before, after)]
    assert torch.equal(*last)


def test_equalized_weights_bear_one_scale_for_all_channels_better() -> None:
    before = chain()
    samples = Samples(lambda: [(torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)])
    errors = []
    for graph in (before, Equalize().run(before)):
        per_tensor = [layer.data for layer in layers(graph)]
        rounded = {
            layer.weight: (w / (s := w.abs().max() / 127)).round() * s
            for layer, w in zip(layers(graph), per_tensor, strict=True)
        }
        errors.append(output_error(graph, replace_weights(graph, rounded), samples))
    assert errors[1] < errors[0] / 2


def test_a_value_that_others_read_is_not_equalized() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(y) + y

    graph = traced(Residual(), torch.randn(2, 6))
    assert Equalize().run(graph) is graph


def test_dead_channels_are_left_alone() -> None:
    first, second = nn.Linear(4, 6), nn.Linear(6, 3)
    first.weight.data[2] = 0
    second.weight.data[:, 3] = 0
    after = apply(Equalize(), traced(nn.Sequential(first, nn.ReLU(), second), torch.randn(2, 4)))
    assert all(bool(layer.data.isfinite().all()) for layer in layers(after))


def input_ranges(graph: Graph, samples: Samples) -> list[float]:
    """The largest over the median magnitude of each layer's input channels."""
    watched: dict[Value, list[ChannelRange]] = {}
    for layer in layers(graph):
        watched.setdefault(layer.x, [ChannelRange(layer.x.type.rank - 1)])
    observe(graph, samples, watched)
    sizes = [torch.maximum(-r.low, r.high) for (r,) in watched.values()]
    return [float(s.max() / s.median()) for s in sizes]


def test_smoothing_keeps_the_function_and_evens_out_inputs() -> None:
    module = Gated()
    module.norm.weight.data[5] = 40.0
    before, samples = traced(module, torch.randn(1, 7, 48)), correlated(1, 7, 48)
    after = apply(SmoothQuant(calibration=samples), before)
    assert ops(after) == ops(before)
    assert input_ranges(after, samples)[0] < input_ranges(before, samples)[0] / 2


def test_alpha_of_zero_evens_out_weights_only() -> None:
    module = Gated()
    module.gate.weight.data[:, 7] *= 50
    before, samples = traced(module, torch.randn(1, 7, 48)), correlated(1, 7, 48)
    after = apply(SmoothQuant(alpha=0.0, calibration=samples), before)
    gate, up = (layer.data for layer in list(layers(after))[:2])
    torch.testing.assert_close(torch.cat([gate, up]).abs().amax(0), torch.ones(48))


def test_smoothing_refuses_what_does_not_fit() -> None:
    graph = traced(Gated(), torch.randn(1, 7, 48))
    with pytest.raises(UsageError, match="alpha"):
        SmoothQuant(alpha=1.5).run(graph)
    with pytest.raises(UsageError, match="no calibration data"):
        SmoothQuant().run(graph)
    alone = traced(nn.Linear(4, 4), torch.randn(2, 4))
    assert SmoothQuant().run(alone) is alone


def test_smoothing_before_quantization_is_kept_by_it() -> None:
    before, samples = traced(Gated(), torch.randn(1, 7, 48)), correlated(1, 7, 48)
    after = QuantizeWeights(DType.i8).run(SmoothQuant(calibration=samples).run(before))
    assert output_error(before, after, samples) < 1e-3
