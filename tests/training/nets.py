"""Small graphs and data to train on."""

from __future__ import annotations

import torch
from torch import nn

from hardy.compiler.calibration import Samples
from hardy.compiler.ir import Graph
from hardy.compiler.models import trace


def perceptron(hidden: int = 16, seed: int = 0) -> Graph:
    """8 inputs, a hidden layer, 3 classes; the input is `input`, the output `output`."""
    torch.manual_seed(seed)
    return trace(nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 3)), (torch.zeros(1, 8),))


class TwoHeads(nn.Module):
    """The second head is what a loss on `output` does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 3), nn.Linear(16, 2)

    def forward(self, input: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.body(input).relu()
        return {"output": self.first(hidden), "other": self.second(hidden)}


def two_heads() -> Graph:
    torch.manual_seed(0)
    return trace(TwoHeads(), (torch.zeros(1, 8),))


def classes(count: int = 64, seed: int = 1) -> Samples:
    """Points of three classes around their centres, with their `label`."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 8, generator=torch.Generator().manual_seed(7))
    label = torch.randint(0, 3, (count,), generator=generator)
    x = centres[label] + 0.5 * torch.randn(count, 8, generator=generator)
    feeds = [{"input": x[i : i + 1], "label": label[i : i + 1]} for i in range(count)]
    return Samples(lambda: feeds)
