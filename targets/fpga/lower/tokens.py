"""Dependency tokens: inserted where data passes between queues, and checked in finished programs.

The program's order defines what it means: an instruction sees what those before it did. The three queues run
each in order and next to one another; `insert_tokens` keeps every dependency between them with as few tokens
as it can, and `check_tokens` proves of any program, from its bytes' meaning alone, that the tokens suffice:
for each read after write, write after read and write after write in a buffer or in DRAM, the first happens
before the second, and no queue waits for ever.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.isa import Alu, Buffer, Finish, Gemm, Instruction, Load, ProgramError, Tokens, layouts
from hardy.targets.fpga.lower.access import History, accesses
from hardy.targets.fpga.queues import Queue, queue_of
from hardy.targets.fpga.schedule import schedule

Array = np.ndarray[Any, Any]
Clock = tuple[int, int, int]
"""The last instruction of each queue that is known to be done."""

NOP = Load(Buffer.UOP, 0, 0, 0)
WAITING = 112
"""Tokens of written loads that may wait to be taken, before a load waits for one of them to be.

Loads written ahead of what takes theirs (at most schedule.AHEAD steps) come on top; every build counts
to 255.
"""


@dataclass(frozen=True, eq=False)
class Draft:
    """An instruction without tokens, the micro-ops int[n, 3] that it runs, and the layer that it serves.

    `spread` says that some of the micro-ops only keep others apart (kernels.spread).
    """

    instruction: Instruction
    uops: Array | None = None
    layer: int = 0
    spread: bool = False


@dataclass(eq=False)
class _Placed:
    """An instruction in its queue, the clock when it starts, and its tokens by queue."""

    draft: Draft
    queue: Queue
    number: int
    clock: Clock
    pops: set[Queue] = field(default_factory=set)
    pushes: set[Queue] = field(default_factory=set)

    def finish(self) -> Draft:
        previous, following = Queue(max(self.queue - 1, 0)), Queue(min(self.queue + 1, 2))
        tokens = Tokens(
            pop_prev=self.queue > 0 and previous in self.pops,
            pop_next=self.queue < 2 and following in self.pops,
            push_prev=self.queue > 0 and previous in self.pushes,
            push_next=self.queue < 2 and following in self.pushes,
        )
        return replace(self.draft, instruction=replace(self.draft.instruction, tokens=tokens))


def insert_tokens(drafts: Iterable[Draft], config: Config, dram_bytes: int) -> tuple[Draft, ...]:
    """The instructions with tokens, and a FINISH behind them that waits for everything.

    Loads and stores have no token between them: their dependencies pass through the compute queue, where an
    instruction that does nothing is put in if none that runs by then serves.
    """
    inserter = _Inserter(config, dram_bytes)
    for draft in drafts:
        inserter.add(draft)
    return inserter.finish()


class _Inserter:
    def __init__(self, config: Config, dram_bytes: int) -> None:
        self._config = config
        self._history = History(config, dram_bytes)
        self._queues: tuple[list[_Placed], ...] = ([], [], [])
        self._order: list[_Placed] = []
        self._stores_known: list[int] = []
        self._loads_known: list[int] = []
        self._takers: list[int] = []  # the compute instructions that take a token of a load, in order

    def add(self, draft: Draft) -> None:
        queue = queue_of(draft.instruction)
        made = list(accesses(draft.instruction, draft.uops, self._config))
        needed = np.full(len(Queue), -1)
        for access in made:
            needed = np.maximum(needed, self._history.needed(access))
        placed = self._place(draft, queue, needed.tolist())
        for access in made:
            self._history.record(access, queue, placed.number)

    def finish(self) -> tuple[Draft, ...]:
        last = self._order[-1].draft.layer if self._order else 0
        self._place(Draft(Finish(), layer=last), Queue.COMPUTE, [len(q) - 1 for q in self._queues])
        return tuple(placed.finish() for placed in self._order)

    def _place(self, draft: Draft, queue: Queue, needed: list[int]) -> _Placed:
        own = self._queues[queue]
        clock = list(own[-1].clock) if own else [-1, -1, -1]
        clock[queue] = len(own) - 1
        placed = _Placed(draft, queue, len(own), (-1, -1, -1))
        if queue == Queue.LOAD and len(self._takers) > WAITING:
            needed[Queue.COMPUTE] = max(needed[Queue.COMPUTE], self._takers[-1 - WAITING])
        if queue != Queue.COMPUTE:
            far = Queue.STORE if queue == Queue.LOAD else Queue.LOAD
            if needed[far] > clock[far]:
                needed[Queue.COMPUTE] = max(needed[Queue.COMPUTE], self._relay(far, needed[far], draft))
        for other in (Queue.LOAD, Queue.COMPUTE, Queue.STORE):
            if other == queue or abs(other - queue) > 1 or needed[other] <= clock[other]:
                continue
            source = self._queues[other][needed[other]]
            source.pushes.add(queue)
            placed.pops.add(other)
            clock = [max(a, b) for a, b in zip(clock, source.clock, strict=True)]
            clock[other] = max(clock[other], source.number)
        placed.clock = (clock[0], clock[1], clock[2])
        own.append(placed)
        self._order.append(placed)
        if queue == Queue.COMPUTE:
            if Queue.LOAD in placed.pops:
                self._takers.append(placed.number)
            self._loads_known.append(clock[0])
            self._stores_known.append(clock[2])
        return placed

    def _relay(self, far: Queue, number: int, draft: Draft) -> int:
        """The first compute instruction that starts after the far queue's `number`-th is done."""
        known = self._stores_known if far == Queue.STORE else self._loads_known
        at = bisect_left(known, number)
        if at == len(known):
            needed = [-1, -1, -1]
            needed[far] = number
            self._place(Draft(NOP, layer=draft.layer), Queue.COMPUTE, needed)
        return at


def check_tokens(instructions: Sequence[Instruction], dram: Array, config: Config) -> None:
    """Raises ProgramError if the queues can get stuck, tokens are left over, or an access can come too early.

    The micro-ops that instructions run are followed through their buffer: `dram` u8[bytes] is the image that
    the program starts from.
    """
    history = History(config, len(dram))
    buffer = np.zeros((config.uop_depth, 3), np.int64)
    queues: tuple[list[int], ...] = ([], [], [])
    needed: list[Array] = []
    for position, instruction in enumerate(instructions):
        queue = queue_of(instruction)
        uops = None
        if isinstance(instruction, Load) and instruction.buffer == Buffer.UOP:
            loaded = load_uops(dram, instruction.dram, instruction.x_size, config)
            buffer[instruction.sram : instruction.sram + instruction.x_size] = loaded
        elif isinstance(instruction, Gemm | Alu):
            uops = buffer[instruction.uops[0] : instruction.uops[1]]
        made = list(accesses(instruction, uops, config))
        needed.append(np.max([np.full(len(Queue), -1), *map(history.needed, made)], axis=0))
        for access in made:
            history.record(access, queue, len(queues[queue]))
        queues[queue].append(position)

    for position, (need, clock) in enumerate(zip(needed, schedule(instructions).clocks, strict=True)):
        for queue in Queue:
            if queue != queue_of(instructions[position]) and need[queue] >= clock[queue]:
                earlier = queues[queue][int(need[queue])]
                raise ProgramError(
                    f"instruction {position} may run before instruction {earlier} is done, whose data it "
                    f"depends on: no token orders them",
                    where=f"{earlier}: {instructions[earlier]}; {position}: {instructions[position]}",
                )


def load_uops(dram: Array, first: int, count: int, config: Config) -> Array:
    """Micro-ops int64[count, 3] (dst, src, wgt) from a DRAM image; `first` is in micro-ops."""
    start = first * config.uop_bytes
    words = (
        np.ascontiguousarray(dram[start : start + count * config.uop_bytes]).view(np.uint32).astype(np.int64)
    )
    return np.stack([words >> f.low & f.mask for f in layouts(config).uop], axis=1)
