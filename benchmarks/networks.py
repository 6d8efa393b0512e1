"""Small classifiers for Fashion-MNIST, trained here and kept for the next run.

python -m benchmarks.networks [NAME ...]     # trains them, prints their accuracy
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from examples.data import fashion_mnist
from examples.data.fashion_mnist import Images, augment
from examples.models.image_classifiers import lenet_5, resnet_8

CACHE = Path(__file__).parent / ".cache"
BATCH = 128


def lenet_300_100() -> nn.Module:
    """LeNet-300-100: three fully connected layers, 266,610 parameters (LeCun et al., 1998)."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained."""

    build: Callable[[], nn.Module]
    epochs: int
    rate: float


RECIPES = {
    "lenet_300_100": Recipe(lenet_300_100, 20, 1e-3),
    "lenet_5": Recipe(lenet_5, 12, 1e-3),
    "resnet_8": Recipe(resnet_8, 8, 3e-3),
}


def train(module: nn.Module, data: Images, epochs: int, rate: float, seed: int = 0) -> None:
    """Adam with a one-cycle rate on cross entropy, images shifted by up to two pixels and mirrored."""
    generator = torch.Generator().manual_seed(seed)
    steps = math.ceil(len(data) / BATCH) * epochs
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    module.train()
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=generator)
        for rows in order.split(BATCH):
            x = augment(data.x[rows], generator)
            loss = F.cross_entropy(module(x), data.y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    module.eval()


def accuracy(run: Callable[[Tensor], Tensor], data: Images, batch: int = 500) -> float:
    """The share of images whose greatest output is their class."""
    right = 0
    with torch.no_grad():
        for i in range(0, len(data), batch):
            right += int((run(data.x[i : i + batch]).argmax(1) == data.y[i : i + batch]).sum())
    return right / len(data)


def trained(name: str) -> nn.Module:
    """The network after its recipe, seed 0; trained on first use and kept in `benchmarks/.cache`."""
    recipe = RECIPES[name]
    torch.manual_seed(0)
    module = recipe.build()
    path = CACHE / f"{name}.safetensors"
    if path.is_file():
        module.load_state_dict(load_file(path))
        return module.eval()
    train(module, fashion_mnist.load("train"), recipe.epochs, recipe.rate)
    CACHE.mkdir(exist_ok=True)
    save_file(module.state_dict(), path)
    return module


def main() -> None:
    torch.set_num_threads(1)
    test = fashion_mnist.load("t10k")
    for name in sys.argv[1:] or RECIPES:
        started = time.perf_counter()
        module = trained(name)
        spent = time.perf_counter() - started
        parameters = sum(p.numel() for p in module.parameters())
        print(f"{name}: {accuracy(module, test):.2%}, {parameters} parameters, {spent:.0f} s", flush=True)


if __name__ == "__main__":
    main()
