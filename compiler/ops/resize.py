"""Composite resampling of images and volumes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ir import Builder, Op, Value
from hardy.compiler.ops.elementwise import Where
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.rules import require, require_float, sized
from hardy.compiler.ops.shape import Gather, Transpose
from hardy.compiler.types import TensorType

MODES = ("nearest", "linear", "cubic")
COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class Resize(Op):
    """x resampled to `shape`, one axis after the other (ONNX Resize-19).

    `scales` are result sizes over input sizes as the model states them, which need not be the
    exact quotients. `roi` holds (start, end) for each axis, used by tf_crop_and_resize, which
    fills what lies outside with `extrapolation`. `antialias` stretches the filter when shrinking;
    `exclude_outside` drops filter taps outside x and rescales the others.
    """

    shape: tuple[int, ...]
    scales: tuple[float, ...]
    mode: str = "nearest"
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"
    cubic: float = -0.75
    antialias: bool = False
    exclude_outside: bool = False
    extrapolation: float = 0.0
    roi: tuple[tuple[float, float], ...] = ()

    def infer(self, x: TensorType) -> TensorType:
        require(self.mode in MODES, f"mode {self.mode!r} is not one of {MODES}")
        require(
            self.coordinates in COORDINATES, f"coordinates {self.coordinates!r} are not one of {COORDINATES}"
        )
        require(self.rounding in ROUNDINGS, f"rounding {self.rounding!r} is not one of {ROUNDINGS}")
        require(
            len(self.shape) == len(self.scales) == x.rank,
            f"shape and scales must have {x.rank} entries for {x}",
        )
        require(all(s > 0 for s in self.scales), "scales must be positive")
        if self.mode != "nearest":
            require_float(self.name, x)
        if self.coordinates == "tf_crop_and_resize":
            require(len(self.roi) == x.rank, f"roi must have {x.rank} pairs for {x}")
        return sized(x.dtype, self.shape)

    def axes(self, shape: tuple[int, ...]) -> list[int]:
        """The axes that change."""
        cropped = self.coordinates == "tf_crop_and_resize"
        return [
            a
            for a, (n, m) in enumerate(zip(shape, self.shape, strict=True))
            if n != m or self.scales[a] != 1 or (cropped and self.roi[a] != (0, 1))
        ]

    def positions(self, axis: int, size: int) -> Tensor:
        """Where each result element lies on an input axis of `size`: f64, in elements."""
        length, scale = self.shape[axis], self.scales[axis]
        i = torch.arange(length, dtype=torch.float64)
        if self.coordinates == "half_pixel":
            return (i + 0.5) / scale - 0.5
        if self.coordinates == "half_pixel_symmetric":
            adjusted = length / (scale * size)
            return size / 2 * (1 - adjusted) + (i + 0.5) / scale - 0.5
        if self.coordinates == "pytorch_half_pixel":
            return (i + 0.5) / scale - 0.5 if length > 1 else torch.zeros(length, dtype=torch.float64)
        if self.coordinates == "align_corners":
            # The model's own result size may differ from size * scale by less than one element.
            span = size * scale - 1
            return i * ((size - 1) / span) if span > 0 else torch.zeros(length, dtype=torch.float64)
        if self.coordinates == "asymmetric":
            return i / scale
        start, end = self.roi[axis]
        if length > 1:
            return start * (size - 1) + i * ((end - start) * (size - 1) / (length - 1))
        return torch.full((length,), 0.5 * (start + end) * (size - 1), dtype=torch.float64)

    def nearest(self, axis: int, size: int) -> Tensor:
        """The input element (i64) that each result element copies."""
        at = self.positions(axis, size)
        if self.rounding == "round_prefer_floor":
            at = torch.ceil(at - 0.5)
        elif self.rounding == "round_prefer_ceil":
            at = torch.floor(at + 0.5)
        else:
            at = at.floor() if self.rounding == "floor" else at.ceil()
        return at.long().clamp(0, size - 1)

    def matrix(self, axis: int, size: int) -> Tensor:
        """Weights of the input elements in each result element: f64 [result, input]."""
        at = self.positions(axis, size)
        stretch = max(1.0, 1 / self.scales[axis]) if self.antialias else 1.0
        radius = math.ceil((1 if self.mode == "linear" else 2) * stretch)
        first = at.floor().long() - radius + 1
        taps = first[:, None] + torch.arange(2 * radius)
        weights = self._kernel((taps - at[:, None]) / stretch)
        inside = (taps >= 0) & (taps < size)
        if self.exclude_outside:
            weights = torch.where(inside, weights, 0)
        weights = weights / weights.sum(1, keepdim=True)
        result = torch.zeros(len(at), size, dtype=torch.float64)
        return result.scatter_add(1, taps.clamp(0, size - 1), weights)

    def _kernel(self, t: Tensor) -> Tensor:
        t = t.abs()
        if self.mode == "linear":
            return (1 - t).clamp(min=0)
        a = self.cubic  # Keys, "Cubic convolution interpolation", 1981
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((t - 5) * t + 8) * t * a - 4 * a
        return torch.where(t <= 1, near, torch.where(t < 2, far, 0))

    def outside(self, shape: tuple[int, ...]) -> Tensor | None:
        """Which result elements lie outside x (bool, broadcastable), None where none can."""
        if self.coordinates != "tf_crop_and_resize":
            return None
        result = torch.zeros((1,) * len(shape), dtype=torch.bool)
        for axis in self.axes(shape):
            at = self.positions(axis, shape[axis])
            view = [1] * len(shape)
            view[axis] = -1
            result = result | ((at < 0) | (at > shape[axis] - 1)).reshape(view)
        return result

    def reference(self, x: Tensor) -> Tensor:
        y = x
        for axis in self.axes(tuple(x.shape)):
            if self.mode == "nearest":
                y = y.index_select(axis, self.nearest(axis, x.shape[axis]))
            else:
                y = (y.movedim(axis, -1) @ self.matrix(axis, x.shape[axis]).to(x.dtype).T).movedim(-1, axis)
        outside = self.outside(tuple(x.shape))
        return (
            y if outside is None else torch.where(outside, torch.tensor(self.extrapolation, dtype=x.dtype), y)
        )

    def decompose(self, b: Builder, x: Value) -> Value:
        t = x.type
        y = x
        for axis in self.axes(t.shape):
            if self.mode == "nearest":
                y = b(Gather(axis), y, b.constant(self.nearest(axis, t.shape[axis])))
                continue
            matrix = b.constant(self.matrix(axis, t.shape[axis]).to(t.dtype.torch))
            if axis >= t.rank - 2 and t.rank >= 2:
                y = b(Matmul(transpose_b=True), y, matrix) if axis == t.rank - 1 else b(Matmul(), matrix, y)
                continue
            to_last = tuple(i for i in range(t.rank) if i != axis) + (axis,)
            back = tuple(to_last.index(i) for i in range(t.rank))
            moved = b(Transpose(to_last), y)
            y = b(Transpose(back), b(Matmul(transpose_b=True), moved, matrix))
        outside = self.outside(t.shape)
        if outside is None:
            return y
        return b(Where(), b.constant(outside), b.scalar(self.extrapolation, t.dtype), y)
