"""Core ops over sliding windows that weigh all elements alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hardy.compiler.ir import Op
from hardy.compiler.ops.linear import (
    LAYOUTS,
    back_to,
    channels_first,
    join_layout,
    split_layout,
    window_shape,
)
from hardy.compiler.ops.reduce import limit
from hardy.compiler.ops.rules import require, require_float, sized
from hardy.compiler.types import TensorType


@dataclass(frozen=True)
class Pool(Op):
    """Windows over the spatial axes of x: [batch, channels, *spatial], or channels_last.

    `padding` holds (before, after) for each spatial axis, in elements.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]
    layout: str = "channels_first"

    def infer(self, x: TensorType) -> TensorType:
        require(self.layout in LAYOUTS, f"layout {self.layout!r} is not one of {LAYOUTS}")
        require(x.rank >= 3, f"pooling needs [batch, channels, spatial...], got {x}")
        channels, spatial = split_layout(x.shape, self.layout)
        window = window_shape(spatial, self.kernel, self.strides, self.padding, self.dilations)
        return sized(x.dtype, join_layout(x.shape[0], channels, window, self.layout))

    def windows(self, x: Tensor, fill: float | int | bool) -> Tensor:
        """[batch, channels, *positions, *kernel] of x (channels first) padded with `fill`."""
        x = self.padded(x, fill)
        for i, (k, s, d) in enumerate(zip(self.kernel, self.strides, self.dilations, strict=True)):
            x = x.unfold(2 + i, d * (k - 1) + 1, s)[..., ::d]
        return x

    def padded(self, x: Tensor, fill: float | int | bool) -> Tensor:
        """x (channels first) with its padding."""
        low_high = [p for pair in reversed(self.padding) for p in pair]
        return F.pad(x, low_high, value=fill) if any(low_high) else x

    @property
    def _kernel_axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.kernel), 0))


@dataclass(frozen=True)
class MaxPool(Pool):
    """Greatest element of each window; padding never wins."""

    def reference(self, x: Tensor) -> Tensor:
        windows = self.windows(channels_first(x, self.layout), limit(x.dtype, lowest=True))
        return back_to(windows.amax(self._kernel_axes), self.layout)


@dataclass(frozen=True)
class AvgPool(Pool):
    """Mean of each window, over its elements inside x, or with `count_padding` over all of them."""

    count_padding: bool = False

    def infer(self, x: TensorType) -> TensorType:
        require_float(self.name, x)
        return super().infer(x)

    def reference(self, x: Tensor) -> Tensor:
        x = channels_first(x, self.layout)
        total = self.windows(x, 0.0).sum(self._kernel_axes)
        if self.count_padding or not any(p for pair in self.padding for p in pair):
            return back_to(total / math.prod(self.kernel), self.layout)
        inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
        count = self.windows(inside, 0.0).sum(self._kernel_axes)
        return back_to(total / count, self.layout)
