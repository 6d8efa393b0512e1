"""Layers of a dataflow accelerator: what becomes one stage of the pipeline, apart from how it is folded.

An image is a sequence of pixels, each with its channels; a dense layer sees one pixel. Weights are i64
arrays whatever their width in hardware.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardy.targets.fpga.dataflow.ranges import BIT, SIGN, Integers, Range
from hardy.targets.fpga.dataflow.steps import Join, Step, ranges


@dataclass(frozen=True, eq=False)
class Tensor:
    """What a stream carries in a frame: `pixels` vectors of `channels`.

    low and high are the ranges of the channels, i64 [channels]; `producer` is the layer or input.
    """

    producer: str
    pixels: int
    channels: int
    low: Integers
    high: Integers

    @property
    def range(self) -> Range:
        return Range.of(self.low, self.high)

    @property
    def size(self) -> int:
        return self.pixels * self.channels


@dataclass(frozen=True)
class Window:
    """A sliding window, (height, width) each; one spatial axis is a height of one."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilations: tuple[int, int]

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def span(self) -> tuple[int, int]:
        """Rows and columns from the first tap to the last."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))  # type: ignore[return-value]  # two of each

    @property
    def positions(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        return tuple(  # type: ignore[return-value]  # two of each
            (n + sum(p) - s) // step + 1
            for n, p, s, step in zip(self.size, self.padding, self.span, self.strides, strict=True)
        )

    @property
    def pads(self) -> bool:
        """Whether some tap lies outside the image."""
        return any(
            low > 0 or (count - 1) * step + span - low > n
            for (low, _), count, step, span, n in zip(
                self.padding, self.positions, self.strides, self.span, self.size, strict=True
            )
        )

    @property
    def is_identity(self) -> bool:
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(map(sum, self.padding))

    @property
    def is_whole_image(self) -> bool:
        return self.kernel == self.size and not any(map(sum, self.padding))


@dataclass(frozen=True, eq=False)
class Product:
    """Each of the outputs of a group from all of its inputs: weights [outputs, inputs / groups, taps]."""

    weights: Integers
    groups: int


@dataclass(frozen=True, eq=False)
class Depthwise:
    """Each channel by itself: weights [channels, taps]."""

    weights: Integers


@dataclass(frozen=True, eq=False)
class WholeImage:
    """A sum of each channel over all pixels: weights [channels, pixels]."""

    weights: Integers


@dataclass(frozen=True)
class MaxPool:
    """The greatest of each channel in a window."""


@dataclass(frozen=True)
class Elementwise:
    """Nothing but the steps at the end."""


Head = Product | Depthwise | WholeImage | MaxPool | Elementwise


@dataclass(frozen=True, eq=False)
class Layer:
    """A stage: windows over an input, a head, and the steps that finish its results.

    `low` and `high` are the ranges of the head's results; `joined` is the second stream that a `Join`
    among the steps adds. `bit_inputs` says that bits of the input stand for +1 and -1.
    """

    name: str
    source: str
    head: Head
    input: Tensor
    window: Window | None
    steps: tuple[Step, ...]
    joined: Tensor | None
    output: Tensor
    low: Integers
    high: Integers
    bit_inputs: bool = False

    @property
    def taps(self) -> int:
        return self.window.taps if self.window else 1

    @property
    def channels(self) -> int:
        """Channels of the input as this layer sees it: a dense layer sees one pixel."""
        if isinstance(self.head, Product):
            return int(self.head.weights.shape[1]) * self.head.groups
        return self.output.channels

    @property
    def x(self) -> Range:
        """What the head sees: bits become signs where zeros are padded between them."""
        if self.bit_inputs:
            return SIGN if self.pads else BIT
        if self.pads and not isinstance(self.head, MaxPool):
            return Range(min(self.input.range.low, 0), max(self.input.range.high, 0))
        return self.input.range

    @property
    def sums(self) -> Range:
        return Range.of(self.low, self.high)

    @property
    def weights(self) -> Integers | None:
        return self.head.weights if isinstance(self.head, Product | Depthwise | WholeImage) else None

    @property
    def w(self) -> Range:
        """What the memory of weights holds; signs are stored as bits."""
        weights = self.weights
        if weights is None or self.sign_weights:
            return BIT
        return Range(int(weights.min()), int(weights.max()))

    @property
    def sign_weights(self) -> bool:
        """Whether all weights are +1 or -1, and it takes a bit to tell which."""
        weights = self.weights
        if weights is None or not bool((np.abs(weights) == 1).all()):
            return False
        return self.bit_inputs or bool((weights < 0).any())

    @property
    def is_xnor(self) -> bool:
        """Whether products of signs are computed as equalities of bits."""
        return self.bit_inputs and not self.pads

    @property
    def pads(self) -> bool:
        return self.window is not None and self.window.pads

    @property
    def macs(self) -> int:
        """Multiplications in a frame."""
        weights = self.weights
        return 0 if weights is None else self.output.pixels * int(weights.size)

    @property
    def widths(self) -> list[Range]:
        """The range of the head's results, and after each step."""
        return ranges(self.low, self.high, self.steps)

    @property
    def join(self) -> Join | None:
        return next((s for s in self.steps if isinstance(s, Join)), None)


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in order, each after those whose tensors it reads; what comes in and what leaves."""

    inputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    outputs: tuple[Tensor, ...]
