"""The DRAM image of a program: constants that stay, and activations that share what is left free.

Offsets are in bytes and multiples of `ALIGNMENT` or of the element that is addressed, whichever is larger.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ALIGNMENT = 64


def align(offset: int, element: int) -> int:
    """The next offset at which an element of so many bytes may begin; both are powers of two."""
    unit = max(element, ALIGNMENT)
    return -(-offset // unit) * unit


@dataclass
class Image:
    """Constants one behind the other, and the bytes of the whole."""

    parts: list[tuple[int, bytes]] = field(default_factory=list)
    size: int = 0

    def add(self, data: Array, element: int) -> int:
        """Places an array; returns its first element's number."""
        start = align(self.size, element)
        raw = np.ascontiguousarray(data).tobytes()
        self.parts.append((start, raw))
        self.size = start + len(raw)
        return start // element

    def reserve(self, size: int, element: int) -> int:
        """Room for activations; returns its first byte."""
        start = align(self.size, element)
        self.size = start + size
        return start

    def array(self) -> Array:
        """The image: u8[size], zeros where nothing was placed."""
        image = np.zeros(align(self.size, ALIGNMENT), np.uint8)
        for start, raw in self.parts:
            image[start : start + len(raw)] = np.frombuffer(raw, np.uint8)
        return image


@dataclass(frozen=True)
class Lifetime:
    """A tensor of `size` bytes that is needed from step `first` to step `last`, both included."""

    key: Hashable
    size: int
    first: int
    last: int


def share(lifetimes: list[Lifetime], element: int) -> tuple[dict[Hashable, int], int]:
    """Offsets that keep tensors apart whose lives overlap, the largest placed first; and the total size."""
    placed: list[tuple[Lifetime, int]] = []
    for tensor in sorted(lifetimes, key=lambda t: (-t.size, t.first)):
        size = align(tensor.size, element)
        busy = sorted(
            (at, at + align(other.size, element))
            for other, at in placed
            if other.first <= tensor.last and tensor.first <= other.last
        )
        offset = 0
        for start, stop in busy:
            if offset + size <= start:
                break
            offset = max(offset, stop)
        placed.append((tensor, offset))
    total = max((at + align(t.size, element) for t, at in placed), default=0)
    return {t.key: at for t, at in placed}, total
