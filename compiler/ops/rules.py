"""Checks and shape rules that many ops share."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hardy.compiler.errors import GraphError
from hardy.compiler.types import MAX_ELEMENTS, DType, TensorType, broadcast_shapes


def require(condition: bool, message: str) -> None:
    if not condition:
        raise GraphError(message)


def require_dtype(what: str, t: TensorType, allowed: Callable[[DType], bool], expected: str) -> None:
    require(allowed(t.dtype), f"{what} must be {expected}, got {t}")


def require_float(what: str, *types: TensorType) -> None:
    for t in types:
        require_dtype(what, t, lambda d: d.is_float, "a float tensor")


def require_number(what: str, *types: TensorType) -> None:
    for t in types:
        require_dtype(what, t, lambda d: d is not DType.boolean, "a tensor of numbers")


def require_integer(what: str, *types: TensorType) -> None:
    for t in types:
        require_dtype(what, t, lambda d: d.is_integer, "an integer tensor")


def same_dtype(*types: TensorType) -> DType:
    first = types[0].dtype
    require(
        all(t.dtype is first for t in types), f"operands must share a type, got {', '.join(map(str, types))}"
    )
    return first


def sized(dtype: DType, shape: tuple[int, ...]) -> TensorType:
    """A type whose element count is checked against the limit."""
    t = TensorType(dtype, shape)
    require(all(s >= 0 for s in shape), f"negative size in {t}")
    require(t.size <= MAX_ELEMENTS, f"{t} has more than 2^40 elements")
    return t


def broadcast(*types: TensorType) -> TensorType:
    """The broadcast of operands of one element type."""
    return sized(same_dtype(*types), broadcast_shapes(*[t.shape for t in types]))


def require_axis(axis: int, rank: int) -> None:
    require(0 <= axis < rank, f"axis {axis} is outside 0..{rank - 1}")


def require_axes(axes: tuple[int, ...], rank: int) -> None:
    for axis in axes:
        require_axis(axis, rank)
    require(len(set(axes)) == len(axes), f"axes {axes} repeat")


def wrap_index(index: torch.Tensor, size: int) -> torch.Tensor:
    """Indices below zero count from the end."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


def along(vector: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """A vector (or scalar) shaped to broadcast along one axis of a tensor of this rank."""
    if vector.ndim == 0:
        return vector
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)
