"""Composite normalizations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hardy.compiler.ir import Builder, Op, Value
from hardy.compiler.ops.elementwise import Add, Div, Mul, Sqrt, Sub
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.rules import along, require, require_axis, require_float
from hardy.compiler.ops.shape import Reshape
from hardy.compiler.types import TensorType


@dataclass(frozen=True)
class ReduceMean(Op):
    """Arithmetic mean along `axes`."""

    axes: tuple[int, ...]
    keepdims: bool = False

    def infer(self, x: TensorType) -> TensorType:
        require_float(self.name, x)
        return ReduceSum(self.axes, self.keepdims).infer(x)

    def reference(self, x: Tensor) -> Tensor:
        return x.mean(self.axes, self.keepdims) if self.axes else x

    def decompose(self, b: Builder, x: Value) -> Value:
        count = 1
        for axis in self.axes:
            count *= x.type.shape[axis]
        return b(Div(), b(ReduceSum(self.axes, self.keepdims), x), b.scalar(count, x.type.dtype))


@dataclass(frozen=True)
class BatchNorm(Op):
    """(x - mean) / sqrt(variance + epsilon) * weight + bias, each a vector along `axis`."""

    epsilon: float = 1e-5
    axis: int = 1

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType, mean: TensorType, variance: TensorType
    ) -> TensorType:
        require_float(self.name, x)
        require_axis(self.axis, x.rank)
        expected = TensorType(x.dtype, (x.shape[self.axis],))
        for vector in (weight, bias, mean, variance):
            require(vector == expected, f"weight, bias, mean and variance must be {expected}, got {vector}")
        return x

    def reference(self, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        scale = weight / torch.sqrt(variance + self.epsilon)
        return (x - along(mean, self.axis, x.ndim)) * along(scale, self.axis, x.ndim) + along(
            bias, self.axis, x.ndim
        )

    def decompose(
        self, b: Builder, x: Value, weight: Value, bias: Value, mean: Value, variance: Value
    ) -> Value:
        shape = tuple(n if i == self.axis else 1 for i, n in enumerate(x.type.shape))
        root = b(Sqrt(), b(Add(), variance, b.scalar(self.epsilon, x.type.dtype)))
        scale = b(Reshape(shape), b(Div(), weight, root))
        centred = b(Sub(), x, b(Reshape(shape), mean))
        return b(Add(), b(Mul(), centred, scale), b(Reshape(shape), bias))


def _affine(b: Builder, y: Value, weight: Value | None, bias: Value | None) -> Value:
    if weight is not None:
        y = b(Mul(), y, weight)
    return y if bias is None else b(Add(), y, bias)


def _require_affine(x: TensorType, shape: tuple[int, ...], *vectors: TensorType | None) -> None:
    for vector in vectors:
        if vector is not None:
            expected = TensorType(x.dtype, shape)
            require(vector == expected, f"weight and bias must be {expected}, got {vector}")


@dataclass(frozen=True)
class LayerNorm(Op):
    """Zero mean and unit variance over the axes from `axis` on, then * weight + bias (of their shape)."""

    axis: int
    epsilon: float = 1e-5

    def infer(
        self, x: TensorType, weight: TensorType | None = None, bias: TensorType | None = None
    ) -> TensorType:
        require_float(self.name, x)
        require_axis(self.axis, x.rank)
        _require_affine(x, x.shape[self.axis :], weight, bias)
        return x

    def reference(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return F.layer_norm(x, x.shape[self.axis :], weight, bias, self.epsilon)

    def decompose(
        self, b: Builder, x: Value, weight: Value | None = None, bias: Value | None = None
    ) -> Value:
        axes = tuple(range(self.axis, x.type.rank))
        centred = b(Sub(), x, b(ReduceMean(axes, True), x))
        variance = b(ReduceMean(axes, True), b(Mul(), centred, centred))
        root = b(Sqrt(), b(Add(), variance, b.scalar(self.epsilon, x.type.dtype)))
        return _affine(b, b(Div(), centred, root), weight, bias)


@dataclass(frozen=True)
class RmsNorm(Op):
    """x / sqrt(mean(x^2) + epsilon) over the axes from `axis` on, then * weight (of their shape)."""

    axis: int
    epsilon: float = 1e-6

    def infer(self, x: TensorType, weight: TensorType | None = None) -> TensorType:
        require_float(self.name, x)
        require_axis(self.axis, x.rank)
        _require_affine(x, x.shape[self.axis :], weight)
        return x

    def reference(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        axes = tuple(range(self.axis, x.ndim))
        y = x / torch.sqrt((x * x).mean(axes, keepdim=True) + self.epsilon)
        return y if weight is None else y * weight

    def decompose(self, b: Builder, x: Value, weight: Value | None = None) -> Value:
        axes = tuple(range(self.axis, x.type.rank))
        square = b(ReduceMean(axes, True), b(Mul(), x, x))
        root = b(Sqrt(), b(Add(), square, b.scalar(self.epsilon, x.type.dtype)))
        return _affine(b, b(Div(), x, root), weight, None)


@dataclass(frozen=True)
class GroupNorm(Op):
    """Zero mean and unit variance over each group of channels, then * weight + bias by channel.

    x: [batch, channels, *spatial]. One group a channel is instance normalization.
    """

    groups: int
    epsilon: float = 1e-5

    def infer(
        self, x: TensorType, weight: TensorType | None = None, bias: TensorType | None = None
    ) -> TensorType:
        require_float(self.name, x)
        require(x.rank >= 2, f"group_norm needs [batch, channels, ...], got {x}")
        require(
            self.groups >= 1 and x.shape[1] % self.groups == 0,
            f"{self.groups} groups do not divide the {x.shape[1]} channels of {x}",
        )
        _require_affine(x, (x.shape[1],), weight, bias)
        return x

    def reference(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        per_group = x.numel() // max(x.shape[0] * self.groups, 1)
        grouped = x.reshape(x.shape[0], self.groups, per_group)
        y = F.layer_norm(grouped, grouped.shape[2:], eps=self.epsilon).reshape(x.shape)
        y = y if weight is None else y * along(weight, 1, x.ndim)
        return y if bias is None else y + along(bias, 1, x.ndim)

    def decompose(
        self, b: Builder, x: Value, weight: Value | None = None, bias: Value | None = None
    ) -> Value:
        t = x.type
        per_group = t.size // max(t.shape[0] * self.groups, 1)
        grouped = b(Reshape((t.shape[0], self.groups, per_group)), x)
        y = b(Reshape(t.shape), b(LayerNorm(2, self.epsilon), grouped))
        shape = (t.shape[1],) + (1,) * (t.rank - 2)
        vectors = [None if v is None else b(Reshape(shape), v) for v in (weight, bias)]
        return _affine(b, y, *vectors)
