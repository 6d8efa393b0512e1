"""The event-driven cycle model: fetch, the three queues, their tokens, and the memory that they share.

An instruction begins when its queue is free, it was fetched, and its tokens are there; it decodes, then moves
its bursts or runs its micro-ops, and then sends its tokens. docs/vta.md says what is modelled and what is
not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from hardy.targets.fpga.board import Memory
from hardy.targets.fpga.config import Config
from hardy.targets.fpga.cycles.costs import HLS, Costs, Traffic, traffic
from hardy.targets.fpga.cycles.memory import Bus, Stream
from hardy.targets.fpga.cycles.timing import Timing, Wait
from hardy.targets.fpga.isa import INSTRUCTION_BYTES, Buffer, Finish, Gemm, Instruction, Load, ProgramError
from hardy.targets.fpga.queues import COMMAND_DEPTH, CONSUMER, PRODUCER, Channel, Queue, links
from hardy.targets.fpga.schedule import schedule

# Kinds of events, in the order in which those of one cycle happen.
END, WAKE, BURST = range(3)
FETCH = len(Queue)  # the stream of instructions, beside those of the queues
NEVER = 1 << 62


def estimate(
    instructions: Sequence[Instruction], config: Config, memory: Memory, costs: Costs = HLS
) -> Timing:
    """When the instructions run, in cycles of the accelerator's clock.

    Raises ProgramError where the program cannot run to its end, as the simulator does.
    """
    model = _Model(instructions, config, memory, costs)
    model.run()
    if model.remaining:
        schedule(instructions)
        raise ProgramError(f"{model.remaining} instructions never begin")
    return model.timing()


class _Model:
    """The state at one moment of time; events lead from one to the next."""

    def __init__(self, program: Sequence[Instruction], config: Config, memory: Memory, costs: Costs) -> None:
        if not program or not isinstance(program[-1], Finish):
            raise ProgramError("a program ends with FINISH")
        count = len(program)
        self.program, self.memory, self.costs = program, memory, costs
        self.links = [links(number, i) for number, i in enumerate(program)]
        self.traffic = [traffic(i, config, memory) for i in program]
        self.work = [costs.micro_ops(i) for i in program]
        self.members: list[list[int]] = [[] for _ in Queue]
        for number, link in enumerate(self.links):
            self.members[link.queue].append(number)
        self.remaining = count
        self.begin, self.end, self.waited, self.reason = ([0] * count for _ in range(4))
        self.tokens: list[deque[int]] = [deque() for _ in Channel]
        self.heads, self.free, self.waiting = [0, 0, 0], [0, 0, 0], [0, 0, 0]
        self.running = [False, False, False]
        self.bus = Bus(memory)
        self.streams: list[Stream | None] = [None] * (len(Queue) + 1)
        self.events: list[tuple[int, int, int]] = []
        # Instructions up to `arrived` are in the fetch unit, those up to `fetched` in their queues.
        self.available = [0] * count
        self.arrived = self.fetched = 0
        self.last_fetch = 0
        self._ask_instructions(0)

    def run(self) -> None:
        """Runs until FINISH is done or nothing happens any more."""
        events = self.events
        last = len(self.program) - 1
        while events and not self.end[last]:
            now, kind, which = heappop(events)
            if kind == BURST:
                self._burst(which, now)
            elif kind == END:
                self._finish(Queue(which), now)
            else:
                self._start(Queue(which), now)

    # Fetching.

    def _ask_instructions(self, now: int) -> None:
        """Asks for the next burst of instructions: as many as it holds."""
        left = len(self.program) - self.arrived
        most = max(1, self.memory.burst * self.memory.bytes_per_cycle // INSTRUCTION_BYTES)
        self.arriving = min(left, most)
        if self.arriving:
            beats = self.memory.beats(self.arriving * INSTRUCTION_BYTES)
            self._transfer(FETCH, Traffic((beats,), 1), now)

    def _dispatch(self, now: int) -> None:
        """Puts fetched instructions into their queues, in order, one a cycle, as long as there is room."""
        while self.fetched < self.arrived:
            number = self.fetched
            queue = self.links[number].queue
            if self.waiting[queue] == COMMAND_DEPTH:
                return
            self.last_fetch = max(self.available[number], self.last_fetch + 1, now)
            self.available[number] = self.last_fetch
            self.waiting[queue] += 1
            self.fetched += 1
            if not self.running[queue] and self.members[queue][self.heads[queue]] == number:
                heappush(self.events, (self.last_fetch, WAKE, queue))
        if self.arriving == 0 and self.arrived < len(self.program):
            self._ask_instructions(self.last_fetch)

    # Memory.

    def _transfer(self, which: int, bursts: Traffic, begin: int) -> None:
        stream = Stream(self.bus, bursts, begin)
        self.streams[which] = stream
        heappush(self.events, (begin + self.memory.latency, BURST, which))

    def _burst(self, which: int, now: int) -> None:
        """Serves a stream's bursts up to the next event of anyone else."""
        stream = self.streams[which]
        assert stream is not None
        end = stream.serve(max(now, self.events[0][0] - 1) if self.events else NEVER)
        if (ready := stream.ready) is not None:
            heappush(self.events, (ready, BURST, which))
        elif which == FETCH:
            self._arrive(end)
        else:
            number = self.members[which][self.heads[which]]
            heappush(self.events, (end + self.traffic[number].pads, END, which))

    def _arrive(self, end: int) -> None:
        """A burst of instructions came in; its last beat was at `end`."""
        first = self.arrived
        for number in range(first, first + self.arriving):
            left = (first + self.arriving - number - 1) * INSTRUCTION_BYTES
            self.available[number] = end - left // self.memory.bytes_per_cycle
        self.arrived += self.arriving
        self.arriving = 0
        self._dispatch(0)

    # Instructions.

    def _start(self, queue: Queue, now: int) -> None:
        """Begins the queue's next instruction, if all that it waits for is there."""
        head = self.heads[queue]
        if self.running[queue] or head == len(self.members[queue]):
            return
        number = self.members[queue][head]
        link = self.links[number]
        if number >= self.fetched or not all(self.tokens[c] for c in link.pops):
            return
        if self.available[number] > now:
            heappush(self.events, (self.available[number], WAKE, queue))
            return
        last, reason = self.available[number], Wait.FETCH
        for channel in link.pops:
            came = self.tokens[channel].popleft()
            if came >= last:
                last, reason = came, Wait(PRODUCER[channel] + 1)
        self.begin[number], self.waited[number], self.reason[number] = now, now - self.free[queue], reason
        self.running[queue] = True
        self.waiting[queue] -= 1
        self._dispatch(now)
        decoded = now + self.costs.decode
        bursts = self.traffic[number]
        if bursts.bursts:
            self._transfer(queue, bursts, decoded)
        else:
            work = self.work[number]
            busy = work + self.costs.pipeline if work else bursts.pads
            heappush(self.events, (decoded + busy, END, queue))

    def _finish(self, queue: Queue, now: int) -> None:
        """Ends what the queue runs, and sends its tokens."""
        number = self.members[queue][self.heads[queue]]
        self.end[number] = self.free[queue] = now
        self.running[queue] = False
        self.heads[queue] += 1
        self.remaining -= 1
        self._start(queue, now)
        for channel in self.links[number].pushes:
            self.tokens[channel].append(now)
            self._start(CONSUMER[channel], now)

    def timing(self) -> Timing:
        moved = dict.fromkeys(Buffer, 0)
        for i, t in zip(self.program, self.traffic, strict=True):
            moved[i.buffer if isinstance(i, Load) else Buffer.OUT] += t.nbytes
        gemm = sum(w for i, w in zip(self.program, self.work, strict=True) if isinstance(i, Gemm))
        return Timing(
            cycles=self.end[-1],
            queue=np.array([link.queue for link in self.links], np.int8),
            begin=np.array(self.begin, np.int64),
            end=np.array(self.end, np.int64),
            waited=np.array(self.waited, np.int64),
            reason=np.array(self.reason, np.int8),
            work=np.array(self.work, np.int64),
            nbytes=np.array([t.nbytes for t in self.traffic], np.int64),
            gemm_cycles=gemm,
            alu_cycles=sum(self.work) - gemm,
            bytes=moved,
            fetch_bytes=len(self.program) * INSTRUCTION_BYTES,
            beats=self.bus.beats,
        )
