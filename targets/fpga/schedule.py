"""An order in which tokens let instructions run, and what each of them knows to be done by then.

The queues run beside one another, so the order of a program is a partial one. It is kept as vector clocks:
for every instruction, how many instructions of each queue have finished before it begins, in any run (Fidge
1988, Mattern 1989). Two instructions that touch the same memory must be ordered by them, or the program has a
race.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from hardy.targets.fpga.disassemble import line
from hardy.targets.fpga.isa import Finish, Instruction, ProgramError
from hardy.targets.fpga.queues import (
    COMMAND_DEPTH,
    CONSUMER,
    TOKEN_DEPTH,
    Channel,
    Links,
    Queue,
    links,
)

Clock = tuple[int, int, int]
PRIORITY = (Queue.LOAD, Queue.COMPUTE, Queue.STORE)


@dataclass(frozen=True)
class Schedule:
    """One legal order of a program.

    `order` numbers the instructions as they run; `queues[q]` those of a queue. For instruction n,
    `positions[n]` is its place in its queue, from 1, and `clocks[n]` what has finished before it.
    """

    order: tuple[int, ...]
    queues: tuple[tuple[int, ...], ...]
    positions: tuple[int, ...]
    clocks: tuple[Clock, ...]


def schedule(instructions: Sequence[Instruction], priority: Sequence[Queue] = PRIORITY) -> Schedule:
    """Runs whatever can run, preferring the queues in the order of `priority`.

    ProgramError where nothing can (a deadlock, with what waits for which token), where tokens are left over,
    where a channel could hold more than every implementation counts, or where FINISH is not the end of
    everything.
    """
    _check_finish(instructions)
    run = _Run([links(number, i) for number, i in enumerate(instructions)])
    while any(run.step(queue) for queue in priority):
        pass
    if len(run.order) < len(instructions):
        raise ProgramError(f"nothing can run any more:{run.waiting(instructions)}", hint="check the tokens")
    for channel, tokens in zip(Channel, run.channels, strict=True):
        if tokens:
            raise ProgramError(f"{len(tokens)} tokens from {channel} are never taken")
    run.check_end(instructions)
    run.check_counts(instructions)
    return Schedule(tuple(run.order), tuple(map(tuple, run.queues)), tuple(run.positions), tuple(run.clocks))


def _check_finish(instructions: Sequence[Instruction]) -> None:
    ends = [number for number, i in enumerate(instructions) if isinstance(i, Finish)]
    if ends != [len(instructions) - 1]:
        where = f"it has {len(instructions)} instructions, and FINISH at {ends or 'none'}"
        raise ProgramError("a program ends with its only FINISH", where=where)


class _Run:
    """The state of the queues: which instructions are fetched, which ran, and the tokens on their way."""

    def __init__(self, program: list[Links]) -> None:
        self.program = program
        self.queues: list[list[int]] = [[] for _ in Queue]
        self.positions = []
        for number, i in enumerate(program):
            self.queues[i.queue].append(number)
            self.positions.append(len(self.queues[i.queue]))
        self.order: list[int] = []
        self.clocks: list[Clock] = [(0, 0, 0)] * len(program)
        self.channels: list[deque[Clock]] = [deque() for _ in Channel]
        self._heads = [0, 0, 0]
        self._known: list[Clock] = [(0, 0, 0)] * len(Queue)
        self._waiting = [0, 0, 0]
        self._fetched = 0
        self._fetch()

    def _fetch(self) -> None:
        """Instructions enter their queues in program order; a full queue holds up all that follow."""
        while self._fetched < len(self.program):
            queue = self.program[self._fetched].queue
            if self._waiting[queue] == COMMAND_DEPTH:
                return
            self._waiting[queue] += 1
            self._fetched += 1

    def step(self, queue: Queue) -> bool:
        """Runs the queue's next instruction if it can; whether it could."""
        number = self._next(queue)
        if number is None:
            return False
        i = self.program[number]
        if not all(self.channels[c] for c in i.pops):
            return False
        known = self._known[queue]
        for channel in i.pops:
            known = _join(known, self.channels[channel].popleft())
        self.clocks[number] = known
        self.order.append(number)
        done = (known[0] + (queue == 0), known[1] + (queue == 1), known[2] + (queue == 2))
        self._known[queue] = done
        for channel in i.pushes:
            self.channels[channel].append(done)
        self._heads[queue] += 1
        self._waiting[queue] -= 1
        self._fetch()
        return True

    def _next(self, queue: Queue) -> int | None:
        """The number of the queue's next instruction, if it is fetched."""
        members, head = self.queues[queue], self._heads[queue]
        if head == len(members) or members[head] >= self._fetched:
            return None
        return members[head]

    def waiting(self, instructions: Sequence[Instruction]) -> str:
        """What each queue waits for, one a line."""
        lines = []
        for queue in Queue:
            members, head = self.queues[queue], self._heads[queue]
            if head == len(members):
                continue
            number = members[head]
            missing = [str(c) for c in self.program[number].pops if not self.channels[c]]
            why = f"waits for a token from {' and '.join(missing)}"
            if number >= self._fetched:
                full = self.program[self._fetched].queue.name.lower()
                why = f"is not fetched: {COMMAND_DEPTH} instructions wait in the {full} queue"
            lines.append(
                f"\n    {queue.name.lower()}: instruction {number}, {line(instructions[number])}, {why}"
            )
        return "".join(lines)

    def check_end(self, instructions: Sequence[Instruction]) -> None:
        """FINISH must not overtake what still runs."""
        end = len(instructions) - 1
        for queue in (Queue.LOAD, Queue.STORE):
            known, members = self.clocks[end][queue], self.queues[queue]
            if known < len(members):
                number = members[known]
                raise ProgramError(
                    f"FINISH does not wait for instruction {number}, {line(instructions[number])}",
                    hint="send a token from the queue's last instruction to FINISH",
                )

    def check_counts(self, instructions: Sequence[Instruction]) -> None:
        """No channel may hold more tokens than are counted, however late their consumer is."""
        taken: list[list[int]] = [[] for _ in Channel]
        for number, i in enumerate(self.program):
            for channel in i.pops:
                taken[channel].append(self.positions[number])
        sent = [0] * len(Channel)
        for number, i in enumerate(self.program):
            for channel in i.pushes:
                sent[channel] += 1
                done = bisect_right(taken[channel], self.clocks[number][CONSUMER[channel]])
                if sent[channel] - done > TOKEN_DEPTH:
                    raise ProgramError(
                        f"up to {sent[channel] - done} tokens from {channel} can wait to be taken; "
                        f"{TOKEN_DEPTH} are counted",
                        where=f"instruction {number}, {line(instructions[number])}",
                    )


def _join(a: Clock, b: Clock) -> Clock:
    return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2])
