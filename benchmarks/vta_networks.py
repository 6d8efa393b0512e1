"""ResNet-18 as integer layers for VTA, with weights at random: cycles do not depend on their values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hardy.targets.fpga.lower.layer import NO_PADS, Layer, MaxPool, Shape, average_pool, dense
from hardy.targets.fpga.lower.program import Call, Network

SEED = 0
STAGES = ((64, 56), (128, 28), (256, 14), (512, 7))
"""Channels and size of each of the four stages, two blocks of two 3x3 convolutions each."""


class _Builder:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(SEED)
        self.calls: list[Call] = []

    def conv(
        self,
        name: str,
        inputs: Sequence[str],
        shape: Shape,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        relu: bool = True,
        padding: bool = True,
        pool: MaxPool | None = None,
    ) -> str:
        """A convolution with bias, ReLU and a shift that keeps results in range; it adds further inputs."""
        fan = shape[1] * kernel * kernel
        pad = kernel // 2 if padding else 0
        layer = Layer(
            name,
            shape,
            self.rng.integers(-64, 65, (outputs, shape[1], kernel, kernel)).astype(np.int8),
            bias=self.rng.integers(-2000, 2000, outputs).astype(np.int32),
            stride=(stride, stride),
            padding=((pad, pad), (pad, pad)),
            residuals=(5,) * (len(inputs) - 1),
            pool=pool,
            shift=int(np.ceil(np.log2(37 * 40 * np.sqrt(fan) / 64))),
            low=0 if relu else -128,
        )
        self.calls.append(Call(layer, tuple(inputs), name))
        return name


def resnet18() -> Network:
    """ResNet-18 at 224x224.

    Its first convolution, 7x7 with stride 2 over 3 channels, comes as 4x4 with stride 1 over the 12 channels
    that moving each 2x2 square of pixels into channels gives; that, and its padding, is the host's.
    """
    b = _Builder()
    pool = MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)))
    x = b.conv("conv1", ["image"], (1, 12, 115, 115), 64, 4, padding=False, pool=pool)
    before, size = 64, 56
    for stage, (channels, after) in enumerate(STAGES, 1):
        for block in (1, 2):
            stride, name = size // after, f"layer{stage}.{block}"
            shape = (1, before, size, size)
            y = b.conv(f"{name}.conv1", [x], shape, channels, 3, stride)
            if before != channels:
                x = b.conv(f"{name}.downsample", [x], shape, channels, 1, stride, relu=False)
            x = b.conv(f"{name}.conv2", [y, x], (1, channels, after, after), channels, 3)
            before, size = channels, after
    mean = average_pool("mean", (1, 512, 7, 7), (7, 7), (1, 1), 42, 11, NO_PADS)
    b.calls.append(Call(mean, (x,), "mean"))
    weights = b.rng.integers(-64, 65, (1000, 512)).astype(np.int8)
    bias = b.rng.integers(-2000, 2000, 1000).astype(np.int32)
    b.calls.append(Call(dense("fc", 1, weights, bias=bias, shift=9), ("mean",), "logits"))
    return Network({"image": (1, 12, 115, 115)}, tuple(b.calls), ("logits",))
