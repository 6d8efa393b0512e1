"""Core reductions, scans and selections along axes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ir import Op
from hardy.compiler.ops.rules import require, require_axes, require_axis
from hardy.compiler.types import DType, TensorType


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)


@dataclass(frozen=True)
class Reduction(Op):
    """Combines all elements along `axes`; () reduces nothing."""

    axes: tuple[int, ...]
    keepdims: bool = False

    def infer(self, x: TensorType) -> TensorType:
        require_axes(self.axes, x.rank)
        return x.with_shape(reduced_shape(x.shape, self.axes, self.keepdims))


@dataclass(frozen=True)
class ReduceSum(Reduction):
    """Sum; integers wrap; 0 over no elements."""

    def reference(self, x: Tensor) -> Tensor:
        return x.sum(self.axes, self.keepdims, dtype=x.dtype) if self.axes else x


@dataclass(frozen=True)
class ReduceProd(Reduction):
    """Product; integers wrap; 1 over no elements."""

    def reference(self, x: Tensor) -> Tensor:
        for axis in sorted(self.axes, reverse=True):
            x = x.prod(axis, self.keepdims, dtype=x.dtype)
        return x


@dataclass(frozen=True)
class ReduceExtremum(Reduction):
    """Greatest or least element; NaN if there is one. Over no elements it is the type's own limit."""

    def reference(self, x: Tensor) -> Tensor:
        if not self.axes:
            return x
        greatest = isinstance(self, ReduceMax)
        if any(x.shape[a] == 0 for a in self.axes):
            shape = reduced_shape(tuple(x.shape), self.axes, self.keepdims)
            return torch.full(shape, limit(x.dtype, lowest=greatest), dtype=x.dtype)
        if x.dtype is torch.bool:
            return self.reference(x.to(torch.uint8)).bool()
        return x.amax(self.axes, self.keepdims) if greatest else x.amin(self.axes, self.keepdims)


@dataclass(frozen=True)
class ReduceMax(ReduceExtremum):
    """Greatest element; `or` of booleans."""


@dataclass(frozen=True)
class ReduceMin(ReduceExtremum):
    """Least element; `and` of booleans."""


def limit(dtype: torch.dtype, *, lowest: bool) -> float | int | bool:
    """The least or greatest value of a type; infinite where it has an infinity."""
    if dtype is torch.bool:
        return not lowest
    if dtype.is_floating_point:
        return float("-inf") if lowest else float("inf")
    info = torch.iinfo(dtype)
    return info.min if lowest else info.max


@dataclass(frozen=True)
class ArgExtremum(Op):
    """Position (i64) of the extreme element along `axis`; the first of equals, or with `last` the last."""

    axis: int
    keepdims: bool = False
    last: bool = False

    def infer(self, x: TensorType) -> TensorType:
        require_axis(self.axis, x.rank)
        require(x.shape[self.axis] > 0, f"{self.name} over an empty axis of {x}")
        return TensorType(DType.i64, reduced_shape(x.shape, (self.axis,), self.keepdims))

    def reference(self, x: Tensor) -> Tensor:
        pick = torch.argmax if isinstance(self, ArgMax) else torch.argmin
        if x.dtype is torch.bool:
            x = x.to(torch.uint8)
        if not self.last:
            return pick(x, self.axis, self.keepdims)
        return x.shape[self.axis] - 1 - pick(x.flip(self.axis), self.axis, self.keepdims)


@dataclass(frozen=True)
class ArgMax(ArgExtremum):
    """Position of the greatest element."""


@dataclass(frozen=True)
class ArgMin(ArgExtremum):
    """Position of the least element."""


@dataclass(frozen=True)
class TopK(Op):
    """The k greatest (or least) elements along `axis` in order, and their positions (i64).

    Of equal elements the one at the lower position comes first; k equal to the size sorts.
    """

    k: int
    axis: int
    largest: bool = True

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        require_axis(self.axis, x.rank)
        require(0 <= self.k <= x.shape[self.axis], f"k={self.k} is outside axis {self.axis} of {x}")
        shape = x.shape[: self.axis] + (self.k,) + x.shape[self.axis + 1 :]
        return x.with_shape(shape), TensorType(DType.i64, shape)

    def reference(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, positions = x.sort(dim=self.axis, descending=self.largest, stable=True)
        return values.narrow(self.axis, 0, self.k), positions.narrow(self.axis, 0, self.k)


@dataclass(frozen=True)
class CumSum(Op):
    """Running sum along `axis`; `exclusive` leaves out the element itself, `reverse` runs from the end."""

    axis: int
    exclusive: bool = False
    reverse: bool = False

    def infer(self, x: TensorType) -> TensorType:
        require_axis(self.axis, x.rank)
        return x

    def reference(self, x: Tensor) -> Tensor:
        if self.reverse:
            x = x.flip(self.axis)
        y = x.cumsum(self.axis, dtype=x.dtype)
        if self.exclusive and x.shape[self.axis]:
            size = x.shape[self.axis]
            zero = torch.zeros_like(x.narrow(self.axis, 0, 1))
            y = torch.cat([zero, y.narrow(self.axis, 0, size - 1)], self.axis)
        return y.flip(self.axis) if self.reverse else y
