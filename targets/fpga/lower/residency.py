"""Which slot of a buffer holds what, and when: loads are planned ahead for a known sequence of uses.

A buffer is cut into slots of one size for each kind of data of a layer. What is asked for and not on chip
replaces what is used again latest (Belady, IBM Systems Journal 1966), but not what the step before still
uses: loading could not overlap with it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

NEVER = 2**31


class Space:
    """The elements of a buffer: when each is free, and where the next region may begin.

    Times are numbers of operations in program order; what is last used by operation t is free behind it.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.free = np.full(depth, -1, np.int64)
        self._next = 0

    def place(self, sizes: Sequence[int]) -> list[int]:
        """Starts of disjoint regions of these sizes, behind those placed last where there is room."""
        for begin in (self._next, 0):
            starts, at, wrapped = [], begin, False
            for size in sizes:
                if at + size > self.depth and not wrapped:
                    at, wrapped = 0, True
                if at + size > (begin if wrapped else self.depth):
                    break
                starts.append(at)
                at += size
            else:
                self._next = at
                return starts
        raise AssertionError(f"regions {sizes} exceed {self.depth} elements")

    def use(self, start: int, size: int, time: int) -> None:
        """Notes a use of [start, start + size)."""
        part = self.free[start : start + size]
        np.maximum(part, time, out=part)

    def free_behind(self, start: int, size: int) -> int:
        """The operation behind which [start, start + size) is free; -1 for the beginning."""
        return int(self.free[start : start + size].max(initial=-1))


@dataclass
class Slots:
    """Slots of one size for one kind of data, with the times at which each key is used."""

    space: Space
    starts: list[int]
    size: int
    uses: dict[Hashable, list[int]] = field(default_factory=dict)
    _holds: list[Hashable | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._holds = [None] * len(self.starts)

    def request(self, key: Hashable, time: int, step_before: int) -> tuple[int, int | None]:
        """Where `key` lies at `time`, and, if it must be loaded, the operation behind which it can be.

        `step_before` is the time of the step before: slots that it uses are taken only if there is no other.
        """
        if key in self._holds:
            start, free = self.starts[self._holds.index(key)], None
        else:
            number = min(range(len(self.starts)), key=lambda n: self._rank(n, time, step_before))
            start = self.starts[number]
            free = self.space.free_behind(start, self.size)
            self._holds[number] = key
        self.space.use(start, self.size, time)
        return start, free

    def _rank(self, number: int, time: int, step_before: int) -> tuple[bool, int, int, int]:
        free = self.space.free_behind(self.starts[number], self.size)
        return free >= step_before, -self._next_use(self._holds[number], time), free, number

    def _next_use(self, key: Hashable | None, time: int) -> int:
        uses = self.uses.get(key, [])
        at = bisect_right(uses, time)
        return uses[at] if at < len(uses) else NEVER
