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


def classes(count: int = 64, seed: int = 1) -> Samples:
    """Points of three classes around their centres, with their `label`."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 8, generator=torch.Generator().manual_seed(7))
    label = torch.randint(0, 3, (count,), generator=generator)
    x = centres[label] + 0.5 * torch.randn(count, 8, generator=generator)
    feeds = [{"input": x[i : i + 1], "label": label[i : i + 1]} for i in range(count)]
    return Samples(lambda: feeds)
