"""Core ops that move elements without computing: reshape, slice, gather, scatter and the like."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ir import Op
from hardy.compiler.ops.rules import (
    require,
    require_axes,
    require_axis,
    require_integer,
    same_dtype,
    sized,
    wrap_index,
)
from hardy.compiler.types import TensorType, broadcast_shapes

REDUCTIONS = ("none", "add", "mul", "max", "min")
_TORCH_REDUCTION = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements, in row-major order, under another shape of the same size."""

    shape: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        t = sized(x.dtype, self.shape)
        require(t.size == x.size, f"cannot reshape {x} ({x.size} elements) to {list(self.shape)} ({t.size})")
        return t

    def reference(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)


@dataclass(frozen=True)
class Transpose(Op):
    """Axis i of the result is axis `permutation[i]` of x."""

    permutation: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        require(
            sorted(self.permutation) == list(range(x.rank)),
            f"{self.permutation} is not a permutation of the {x.rank} axes of {x}",
        )
        return x.with_shape(tuple(x.shape[p] for p in self.permutation))

    def reference(self, x: Tensor) -> Tensor:
        return x.permute(self.permutation)


@dataclass(frozen=True)
class BroadcastTo(Op):
    """x repeated along axes of size one, or missing in front, to fill `shape`."""

    shape: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        require(
            broadcast_shapes(x.shape, self.shape) == self.shape, f"{x} does not broadcast to {self.shape}"
        )
        return sized(x.dtype, self.shape)

    def reference(self, x: Tensor) -> Tensor:
        return x.broadcast_to(self.shape)


@dataclass(frozen=True)
class Slice(Op):
    """x[start:stop:step] on every axis; 0 <= start <= stop <= size, step >= 1."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        require(
            len(self.starts) == len(self.stops) == len(self.steps) == x.rank,
            f"starts, stops and steps must have {x.rank} entries for {x}",
        )
        shape = []
        for size, start, stop, step in zip(x.shape, self.starts, self.stops, self.steps, strict=True):
            require(
                0 <= start <= stop <= size and step >= 1,
                f"{start}:{stop}:{step} is outside an axis of {size}",
            )
            shape.append(len(range(start, stop, step)))
        return x.with_shape(tuple(shape))

    def reference(self, x: Tensor) -> Tensor:
        return x[tuple(slice(*s) for s in zip(self.starts, self.stops, self.steps, strict=True))]


@dataclass(frozen=True)
class Reverse(Op):
    """x with the order of elements along `axes` turned round."""

    axes: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        require_axes(self.axes, x.rank)
        return x

    def reference(self, x: Tensor) -> Tensor:
        return x.flip(self.axes)


@dataclass(frozen=True)
class Concat(Op):
    """Tensors one after the other along `axis`; their other sizes agree."""

    axis: int

    def infer(self, *xs: TensorType) -> TensorType:
        require(len(xs) > 0, "concat needs at least one operand")
        first = xs[0]
        require_axis(self.axis, first.rank)
        for x in xs:
            rest = x.shape[: self.axis] + x.shape[self.axis + 1 :]
            require(
                x.rank == first.rank and rest == first.shape[: self.axis] + first.shape[self.axis + 1 :],
                f"{first} and {x} differ outside axis {self.axis}",
            )
        shape = list(first.shape)
        shape[self.axis] = sum(x.shape[self.axis] for x in xs)
        return sized(same_dtype(*xs), tuple(shape))

    def reference(self, *xs: Tensor) -> Tensor:
        return torch.cat(xs, self.axis)


@dataclass(frozen=True)
class Pad(Op):
    """x surrounded by `value`: `low` before and `high` after each axis, `interior` between elements."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    value: float = 0.0
    interior: tuple[int, ...] = ()

    def _interior(self) -> tuple[int, ...]:
        return self.interior or (0,) * len(self.low)

    def infer(self, x: TensorType) -> TensorType:
        spans = (self.low, self.high, self._interior())
        require(
            all(len(s) == x.rank for s in spans), f"low, high and interior must have {x.rank} entries for {x}"
        )
        require(
            min((0, *self.low, *self.high, *self._interior())) == 0, "padding must not be negative; use slice"
        )
        shape = tuple(
            low + size + max(size - 1, 0) * gap + high
            for size, low, high, gap in zip(x.shape, *spans, strict=True)
        )
        return sized(x.dtype, shape)

    def reference(self, x: Tensor) -> Tensor:
        gaps = self._interior()
        shape = [
            low + n + max(n - 1, 0) * g + high
            for n, low, high, g in zip(x.shape, self.low, self.high, gaps, strict=True)
        ]
        index = tuple(
            slice(low, low + (n - 1) * (g + 1) + 1 if n else low, g + 1)
            for n, low, g in zip(x.shape, self.low, gaps, strict=True)
        )
        result = x.new_full(shape, self.value)
        result[index] = x
        return result


@dataclass(frozen=True)
class Gather(Op):
    """Slices of x along `axis`, picked by an index tensor whose shape replaces that axis.

    Indices lie in -size..size-1; negative ones count from the end.
    """

    axis: int

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        require_axis(self.axis, x.rank)
        require_integer("indices", indices)
        return sized(x.dtype, x.shape[: self.axis] + indices.shape + x.shape[self.axis + 1 :])

    def reference(self, x: Tensor, indices: Tensor) -> Tensor:
        flat = wrap_index(indices, x.shape[self.axis]).reshape(-1)
        shape = x.shape[: self.axis] + indices.shape + x.shape[self.axis + 1 :]
        return x.index_select(self.axis, flat).reshape(shape)


@dataclass(frozen=True)
class GatherElements(Op):
    """y[i, j, k] = x[i, indices[i, j, k], k] for axis 1; negative indices count from the end."""

    axis: int

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        require_axis(self.axis, x.rank)
        require_integer("indices", indices)
        require(indices.rank == x.rank, f"{indices} must have the rank of {x}")
        for axis, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True)):
            require(axis == self.axis or n <= m, f"{indices} is larger than {x} on axis {axis}")
        return x.with_shape(indices.shape)

    def reference(self, x: Tensor, indices: Tensor) -> Tensor:
        return x.gather(self.axis, wrap_index(indices, x.shape[self.axis]))


@dataclass(frozen=True)
class GatherNd(Op):
    """Slices of x at index tuples: the last axis of `indices` holds the index tuple.

    The first `batch` axes of both operands run together. Negative indices count from the end.
    """

    batch: int = 0

    def infer(self, x: TensorType, indices: TensorType) -> TensorType:
        require_integer("indices", indices)
        require(indices.rank >= 1, "indices need an axis that holds the index tuple")
        depth = indices.shape[-1]
        require(self.batch + depth <= x.rank, f"index tuples of {depth} are too long for {x}")
        require(
            self.batch < indices.rank and indices.shape[: self.batch] == x.shape[: self.batch],
            f"the first {self.batch} axes of {x} and {indices} differ",
        )
        return sized(x.dtype, indices.shape[:-1] + x.shape[self.batch + depth :])

    def reference(self, x: Tensor, indices: Tensor) -> Tensor:
        depth = indices.shape[-1]
        tuples = indices.reshape(*indices.shape[: self.batch], -1, depth)
        index: list[Tensor] = []
        for axis in range(self.batch):
            shape = [1] * (self.batch + 1)
            shape[axis] = -1
            index.append(torch.arange(x.shape[axis]).reshape(shape))
        index += [wrap_index(tuples[..., k], x.shape[self.batch + k]) for k in range(depth)]
        picked = x[tuple(index)] if index else x.expand(tuples.shape[:-1] + x.shape)
        return picked.reshape(indices.shape[:-1] + x.shape[self.batch + depth :])


@dataclass(frozen=True)
class ScatterElements(Op):
    """x with y[i, indices[i, j, k], k] set to, or combined with, updates[i, j, k] (for axis 1).

    `reduction` is none (the last of several updates wins), add, mul, max or min.
    """

    axis: int
    reduction: str = "none"

    def infer(self, x: TensorType, indices: TensorType, updates: TensorType) -> TensorType:
        require_axis(self.axis, x.rank)
        require_integer("indices", indices)
        require(self.reduction in REDUCTIONS, f"reduction {self.reduction!r} is not one of {REDUCTIONS}")
        require(
            indices.shape == updates.shape and indices.rank == x.rank, f"{indices}, {updates} do not fit {x}"
        )
        same_dtype(x, updates)
        return x

    def reference(self, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        index = wrap_index(indices, x.shape[self.axis])
        if self.reduction == "none":
            return x.scatter(self.axis, index, updates)
        return x.scatter_reduce(self.axis, index, updates, _TORCH_REDUCTION[self.reduction])


@dataclass(frozen=True)
class ScatterNd(Op):
    """x with slices set to, or combined with, `updates` at the index tuples in the last axis of `indices`."""

    reduction: str = "none"

    def infer(self, x: TensorType, indices: TensorType, updates: TensorType) -> TensorType:
        require_integer("indices", indices)
        require(self.reduction in REDUCTIONS, f"reduction {self.reduction!r} is not one of {REDUCTIONS}")
        require(indices.rank >= 1, "indices need an axis that holds the index tuple")
        depth = indices.shape[-1]
        require(depth <= x.rank, f"index tuples of {depth} are too long for {x}")
        expected = indices.shape[:-1] + x.shape[depth:]
        require(updates.shape == expected, f"updates must have shape {list(expected)}, got {updates}")
        same_dtype(x, updates)
        return x

    def reference(self, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        depth = indices.shape[-1]
        rows = math.prod(x.shape[:depth])
        row = torch.zeros(indices.shape[:-1], dtype=torch.long)
        for k in range(depth):
            row = row * x.shape[k] + wrap_index(indices[..., k], x.shape[k])
        flat, rest = x.reshape(rows, -1), math.prod(x.shape[depth:])
        index = row.reshape(-1, 1).expand(-1, rest)
        values = updates.reshape(-1, rest)
        if self.reduction == "none":
            return flat.scatter(0, index, values).reshape(x.shape)
        return flat.scatter_reduce(0, index, values, _TORCH_REDUCTION[self.reduction]).reshape(x.shape)
