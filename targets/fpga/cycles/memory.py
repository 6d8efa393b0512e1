"""The memory that all queues share: bursts, their latency, and one beat a cycle."""

from __future__ import annotations

from collections import deque

from hardy.targets.fpga.board import Memory
from hardy.targets.fpga.cycles.costs import Traffic


class Bus:
    """When the memory moves which burst: first answered, first served."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.beats = 0
        self._free = 0

    def serve(self, ready: int, beats: int) -> int:
        """Moves a burst whose first beat is there at `ready`, and gives the cycle after its last.

        Bursts are served in the order of the calls.
        """
        self._free = (ready if ready > self._free else self._free) + beats
        self.beats += beats
        return self._free


class Stream:
    """The bursts of one instruction, some of them on their way: at most as many as the memory allows."""

    def __init__(self, bus: Bus, traffic: Traffic, begin: int) -> None:
        self._bus = bus
        self._beats, self._total = traffic.beats, traffic.bursts
        self._served = 0
        first = min(self._total, bus.memory.outstanding)
        latency = bus.memory.latency
        # When each burst on its way is answered; one is asked for a cycle.
        self._ready = deque(begin + n + latency for n in range(first))
        self._asked, self._requested = first, begin + first - 1

    @property
    def ready(self) -> int | None:
        """When the next burst is answered; None where all were served."""
        return self._ready[0] if self._ready else None

    def serve(self, until: int) -> int:
        """Serves the bursts that are answered up to a cycle, and gives the end of the last one served."""
        bus, ready, beats, total = self._bus, self._ready, self._beats, self._total
        kinds, latency = len(beats), bus.memory.latency
        end = 0
        while ready and ready[0] <= until:
            end = bus.serve(ready.popleft(), beats[self._served % kinds])
            self._served += 1
            if self._asked < total:
                self._requested = max(self._requested + 1, end)
                self._asked += 1
                ready.append(self._requested + latency)
        return end
