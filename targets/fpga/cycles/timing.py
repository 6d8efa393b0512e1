"""The result of the cycle model: when each instruction ran, and what it waited for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hardy.targets.fpga.isa import Buffer
from hardy.targets.fpga.queues import Queue

Cycles = NDArray[np.int64]


class Wait(IntEnum):
    """What the last thing was that an instruction waited for before it began."""

    FETCH = 0
    LOAD = 1
    COMPUTE = 2
    STORE = 3


@dataclass(frozen=True)
class Timing:
    """When a program's instructions ran.

    Arrays have one entry an instruction: `queue`, `begin` and `end` in cycles (from the first fetch; the
    interval is that in which the queue was busy with it), `waited` for how long its queue stood idle before
    and `reason` (a `Wait`) for what, `work` the cycles in which its micro-ops entered the arithmetic,
    `nbytes` what it moved. `bytes` sums those by buffer, OUT being what was stored; `fetch_bytes` are the
    instructions themselves. `beats` is how long the memory was busy.
    """

    cycles: int
    queue: NDArray[np.int8]
    begin: Cycles
    end: Cycles
    waited: Cycles
    reason: NDArray[np.int8]
    work: Cycles
    nbytes: Cycles
    gemm_cycles: int
    alu_cycles: int
    bytes: Mapping[Buffer, int]
    fetch_bytes: int
    beats: int

    def busy(self, queue: Queue) -> list[tuple[int, int, int]]:
        """(instruction, begin, end) of all that a queue ran, in order."""
        (numbers,) = np.nonzero(self.queue == queue)
        rows = np.stack([numbers, self.begin[numbers], self.end[numbers]], axis=1)
        return [(n, begin, end) for n, begin, end in rows.tolist()]

    def busy_cycles(self, queue: Queue) -> int:
        """Cycles in which a queue ran something."""
        return int((self.end - self.begin)[self.queue == queue].sum())

    def stalls(self, queue: Queue = Queue.COMPUTE) -> dict[Wait, int]:
        """Cycles in which a queue stood idle, by what it waited for."""
        mine = self.queue == queue
        return {
            wait: int(self.waited[mine & (self.reason == wait)].sum())
            for wait in Wait
            if wait - 1 != queue  # nothing waits for its own queue
        }

    @property
    def memory_use(self) -> float:
        """The share of cycles in which the memory moved a beat."""
        return self.beats / max(self.cycles, 1)

    @property
    def gemm_use(self) -> float:
        """The share of cycles in which a GEMM micro-op began."""
        return self.gemm_cycles / max(self.cycles, 1)
