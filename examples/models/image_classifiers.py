"""Untrained classifiers of images [batch, 1, 28, 28] in ten classes."""

from __future__ import annotations

from torch import nn


def lenet_5() -> nn.Module:
    """LeNet-5 as in Caffe and Han et al. (2016): 20 and 50 filters of 5 x 5, 431,080 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def two_convolutions() -> nn.Module:
    """Two convolutions of 8 and 16 channels and a linear layer: 9 thousand parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(784, 10),
    )
