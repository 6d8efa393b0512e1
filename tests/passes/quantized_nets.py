"""Small networks and data for the tests of quantized weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import hardy
from hardy.compiler.calibration import Samples
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.pipeline import Pipeline
from hardy.passes import DEFAULT


def traced(module: nn.Module, *inputs: Tensor) -> Graph:
    return Pipeline(DEFAULT).run(hardy.trace(module.eval(), inputs)).graph


class Gated(nn.Module):
    """A norm before two layers that share it, a gate, and a layer after that."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(48)
        self.norm.weight.data = torch.rand(48) + 0.5
        self.gate, self.up = nn.Linear(48, 80, bias=False), nn.Linear(48, 80, bias=False)
        self.down = nn.Linear(80, 48)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


class Tied(nn.Module):
    """A table that is read by rows and multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(60, 40)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.linear(self.table(ids).tanh(), self.table.weight)


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=(1, 2), groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 24, (1, 3), dilation=(1, 2), groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


def correlated(*shape: int, count: int = 6, seed: int = 0) -> Samples:
    """Feeds whose last axis has few directions and channels of very different size."""
    generator = torch.Generator().manual_seed(seed)
    k = shape[-1]
    mix = torch.randn(max(k // 3, 1), k, generator=generator) * torch.logspace(-1, 1, k)
    feeds = [
        (
            torch.randn(*shape[:-1], len(mix), generator=generator) @ mix
            + 0.1 * torch.randn(*shape, generator=generator),
        )
        for _ in range(count)
    ]
    return Samples(lambda: feeds)


def output_error(before: Graph, after: Graph, samples: Samples) -> float:
    """The mean squared change of all outputs."""
    total, count = 0.0, 0
    for feed in samples.feeds(before.input_types()):
        given = {n: feed[n] for n in before.input_names}
        expected, actual = run(before, given), run(after, given)
        for name, tensor in expected.items():
            total += float((tensor - actual[name]).double().square().sum())
            count += tensor.numel()
    return total / count
