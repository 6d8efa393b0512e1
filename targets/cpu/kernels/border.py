"""The border of an image: which output pixels of a convolution find which taps of its kernel inside.

Pixels that find the same taps are a class. On each axis the pixels of one class are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tvm import tirx

from hardy.targets.cpu.kernels.emit import Expr


@dataclass(frozen=True)
class Axis:
    """One axis: `count` windows of `kernel` taps over `size` elements, `before` of them padded."""

    count: int
    size: int
    kernel: int
    stride: int
    before: int
    dilation: int

    def taps(self, position: int) -> list[int]:
        """The taps of a window that lie inside."""
        first = position * self.stride - self.before
        return [t for t in range(self.kernel) if 0 <= first + t * self.dilation < self.size]

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """The first window of each class."""
        return tuple(i for i in range(self.count) if i == 0 or self.taps(i) != self.taps(i - 1))

    def number(self, position: Expr) -> Expr:
        """The class of a window."""
        number: Expr = 0
        for first in self.firsts[1:]:
            reached = position >= first
            number = number + (int(reached) if isinstance(reached, bool) else tirx.Cast("int32", reached))
        return number


@dataclass(frozen=True)
class Border:
    """Both axes of an image."""

    lines: Axis
    columns: Axis

    @property
    def classes(self) -> int:
        return len(self.lines.firsts) * len(self.columns.firsts)

    def number(self, line: Expr, column: Expr) -> Expr:
        """The class of an output pixel."""
        return self.lines.number(line) * len(self.columns.firsts) + self.columns.number(column)
