"""The three networks of every textbook, compiled: a convolutional net, a perceptron, an LSTM classifier."""

from __future__ import annotations

import argparse

import torch
from torch import nn

import hardy


class Convolutional(nn.Module):
    """LeNet-5's shape: images [batch, 1, 28, 28] to ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.classifier(self.features(image))
        return scores


class Perceptron(nn.Module):
    """Two hidden layers: features [batch, 64] to ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10), nn.Softmax(-1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = self.layers(features)
        return probabilities


class LstmClassifier(nn.Module):
    """Embedding, bidirectional LSTM, mean over time: tokens [batch, time] to two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 32)
        self.lstm = nn.LSTM(32, 48, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(96, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        scores: torch.Tensor = self.classifier(states.mean(1))
        return scores


def main(target: str = "cpu") -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Compile all three; what PyTorch and the compiled network compute, by name."""
    torch.manual_seed(0)
    networks: list[tuple[nn.Module, torch.Tensor]] = [
        (Convolutional(), torch.randn(4, 1, 28, 28)),
        (Perceptron(), torch.randn(4, 64)),
        (LstmClassifier(), torch.randint(0, 1000, (4, 20))),
    ]
    results = {}
    for module, example in networks:
        artifact = hardy.compile(module.eval(), (example,), target=target)
        (label,) = artifact.inputs
        (actual,) = artifact.run({label: example}).values()
        with torch.no_grad():
            expected = module(example)
        results[type(module).__name__] = (expected, actual)
        print(f"{artifact}\n    largest difference from PyTorch: {(actual - expected).abs().max():.2g}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="cpu")
    main(parser.parse_args().target)
