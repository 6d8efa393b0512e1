"""What a layer does to its sums before they leave: bias, scale, skip connection, shift, limits, sign.

A step maps the range of each channel, low and high i64 [channels], to that of its result; so every width
is known before there is hardware, and what could wrap is refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from hardy.targets.fpga.dataflow.ranges import Integers, Range

Bounds = tuple[Integers, Integers]


class Step(ABC):
    """An elementwise function of an integer and its channel."""

    @abstractmethod
    def bounds(self, low: Integers, high: Integers) -> Bounds:
        """The range of the result in each channel."""

    def passing(self, low: Integers, high: Integers) -> list[Bounds]:
        """Ranges that the computation passes through besides its result: they too must fit."""
        return []


@dataclass(frozen=True, eq=False)
class Affine(Step):
    """scale * x + offset, each i64 [channels] (or [1])."""

    scale: Integers
    offset: Integers

    def bounds(self, low: Integers, high: Integers) -> Bounds:
        ends = np.stack([self.scale * low, self.scale * high])
        return ends.min(0) + self.offset, ends.max(0) + self.offset

    def passing(self, low: Integers, high: Integers) -> list[Bounds]:
        ends = np.stack([self.scale * low, self.scale * high])
        return [(ends.min(0), ends.max(0))]


@dataclass(frozen=True, eq=False)
class Join(Step):
    """x + (scale * y + offset) for y of a second stream, whose range in each channel is low..high."""

    scale: Integers
    offset: Integers
    low: Integers
    high: Integers

    @property
    def addend(self) -> Bounds:
        return Affine(self.scale, self.offset).bounds(self.low, self.high)

    def bounds(self, low: Integers, high: Integers) -> Bounds:
        least, most = self.addend
        return low + least, high + most

    def passing(self, low: Integers, high: Integers) -> list[Bounds]:
        return [*Affine(self.scale, self.offset).passing(self.low, self.high), self.addend]


@dataclass(frozen=True, eq=False)
class Limit(Step):
    """min(max(x, least), most), each i64 [channels] (or [1])."""

    least: Integers
    most: Integers

    def bounds(self, low: Integers, high: Integers) -> Bounds:
        return (
            np.minimum(np.maximum(low, self.least), self.most),
            np.minimum(np.maximum(high, self.least), self.most),
        )


@dataclass(frozen=True, eq=False)
class RoundShift(Step):
    """(x + 2^(shift - 1)) >> shift, shift i64 [channels] (or [1]); a shift of 0 adds nothing."""

    shift: Integers

    @property
    def half(self) -> Integers:
        return np.left_shift(np.int64(1), self.shift) >> 1

    def bounds(self, low: Integers, high: Integers) -> Bounds:
        return (low + self.half) >> self.shift, (high + self.half) >> self.shift

    def passing(self, low: Integers, high: Integers) -> list[Bounds]:
        return [(low + self.half, high + self.half)]


@dataclass(frozen=True, eq=False)
class Threshold(Step):
    """1 where x >= least, i64 [channels] (or [1]), else 0."""

    least: Integers

    def bounds(self, low: Integers, high: Integers) -> Bounds:
        return (low >= self.least).astype(np.int64), (high >= self.least).astype(np.int64)


def ranges(low: Integers, high: Integers, steps: tuple[Step, ...]) -> list[Range]:
    """The range before the first step and after each."""
    result = [Range.of(low, high)]
    for step in steps:
        low, high = step.bounds(low, high)
        result.append(Range.of(low, high))
    return result
