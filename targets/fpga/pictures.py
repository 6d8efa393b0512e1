"""Tensors of two to four axes as pictures: (batch, channels, rows, columns), the shape that layers have."""

from __future__ import annotations

from hardy.compiler.ir import Value
from hardy.targets.fpga.lower.layer import Array, Shape


class NoLayerError(Exception):
    """An op is part of no layer; the message says why."""


def as_picture(x: Value) -> Shape:
    """A tensor's shape as (batch, channels, rows, columns).

    Rows of a matrix are rows of a picture one column wide, so that they share weights, and its columns are
    channels; a signal has one row.
    """
    shape = x.type.shape
    if len(shape) == 4:
        return shape[0], shape[1], shape[2], shape[3]
    if len(shape) == 3:
        return shape[0], shape[1], 1, shape[2]
    if len(shape) == 2:
        return 1, shape[1], shape[0], 1
    raise NoLayerError(f"it reads a tensor of {len(shape)} axes")


def to_picture(array: Array) -> Array:
    """A tensor's elements in the shape that `as_picture` says."""
    if array.ndim == 2:
        return array.T[None, :, :, None]
    return array if array.ndim == 4 else array[:, :, None, :]


def from_picture(picture: Array, rank: int) -> Array:
    """The tensor of so many axes that a picture stands for."""
    if rank == 2:
        return picture[0, :, :, 0].T
    return picture if rank == 4 else picture[:, :, 0, :]
