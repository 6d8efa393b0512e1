"""How deep the FIFOs must be: a cycle-approximate model of the processes, token by token.

Processes wait for tokens and for room, and nothing else. Such a network is determinate (Kahn, 1974; with
bounded FIFOs, Parks, 1995, chapter 4): whether it stops halfway depends on the order of each process's
port operations and on the depths alone, not on how long anything takes. So a run of the model in which all
tokens arrive proves that the accelerator cannot deadlock, though its cycle times are estimates.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from hardy.compiler.errors import HardyError
from hardy.targets.fpga.dataflow.pipeline import Fifo, Pipeline
from hardy.targets.fpga.dataflow.schedule import Schedule, schedule

# Of a run. The middle two show the interval: the first frame finds everything empty, and the last has none
# behind it whose rows its windows would take in.
FRAMES = 4
SLACK = 1.02  # of the interval, which FIFOs may cost
USUAL = 2
# Depths of ordinary FIFOs that are tried, and rows of an image in front of a window that skips some: it sends
# nothing for a while and then a row of windows at once.
LEVELS = ((32, 0), (64, 0), (64, 1), (64, 2), (256, 2))


class DeadlockError(HardyError):
    """A network that stops halfway: every process waits for another."""

    exit_code = 8


@dataclass(frozen=True)
class Timing:
    """What the model says, in cycles, all estimates: from the start to the end of the first frame, and
    between the ends of two. `held`: the most tokens in each FIFO at once."""

    latency: int
    interval: int
    held: dict[str, int]


@dataclass(frozen=True)
class Depths:
    """Depths that keep the pace, and for FIFOs that would deadlock at the usual depth the least that does
    not."""

    chosen: dict[str, int]
    least: dict[str, int]
    timing: Timing


def find_depths(pipeline: Pipeline, interval: int) -> Depths:
    """Depths for a pipeline whose slowest stage takes `interval` cycles a frame: of the levels that keep
    the pace the first, or the best, and of it only what was used."""
    schedules = [schedule(pipeline, p, FRAMES) for p in pipeline.processes]
    least = _least(pipeline, schedules)
    best: Timing | None = None
    for shallow, rows in LEVELS:
        room = {n: max(shallow, rows * tokens) for n, tokens in _before_windows(pipeline).items()}
        depths = {**dict.fromkeys(pipeline.fifos, shallow), **room}
        # FIFOs that wait for another branch get all the room they ask for, which the other branch bounds.
        depths |= {n: pipeline.fifos[n].tokens * FRAMES for n in least}
        timing = Run(pipeline, schedules, depths).finish()
        if best is None or timing.interval < best.interval:
            best = timing
        if timing.interval <= SLACK * interval:
            break
    assert best is not None
    # With no more than what was held at once, every token comes and goes at the same time as before.
    chosen = {n: max(best.held[n], least.get(n, 0), USUAL) for n in pipeline.fifos}
    return Depths(chosen, least, best)


def _before_windows(pipeline: Pipeline) -> dict[str, int]:
    """The FIFOs in front of windows that skip rows: the tokens of the rows between two positions."""
    found = {}
    for process in pipeline.processes:
        if process.kind.startswith("window") and process.layer is not None:
            window = process.layer.window
            assert window is not None
            if window.strides[0] > 1:
                tokens = pipeline.fifos[process.reads[0]].tokens // window.size[0]
                found[process.reads[0]] = tokens * window.strides[0]
    return found


def simulate(pipeline: Pipeline) -> Timing:
    """A run with the pipeline's own depths; DeadlockError names who waits for what."""
    schedules = [schedule(pipeline, p, FRAMES) for p in pipeline.processes]
    return Run(pipeline, schedules, {n: f.depth for n, f in pipeline.fifos.items()}).finish()


def _least(pipeline: Pipeline, schedules: list[Schedule]) -> dict[str, int]:
    """The least depths above the usual one that are needed to finish: a FIFO grows when all are stuck."""
    run = Run(pipeline, schedules, dict.fromkeys(pipeline.fifos, USUAL))
    grown: dict[str, int] = {}
    while not run.advance():
        name = run.bottleneck()
        run.depth[run.index[name]] += 1
        grown[name] = run.depth[run.index[name]]
    return grown


class Run:
    """A run of the model: each process goes as far as tokens and room allow, with the time of every token."""

    def __init__(self, pipeline: Pipeline, schedules: list[Schedule], depths: dict[str, int]) -> None:
        self.pipeline = pipeline
        self.schedules = schedules
        self.names = list(pipeline.fifos)
        self.index = {n: i for i, n in enumerate(self.names)}
        self.depth = [depths[n] for n in self.names]
        self.written: list[list[int]] = [[] for _ in self.names]
        self.read: list[list[int]] = [[] for _ in self.names]
        count = len(schedules)
        self.position = [0] * count  # events done
        self.operation = [0] * count  # operations done of the event at hand
        self.clock = [-1] * count
        self.waits: list[tuple[int, bool] | None] = [None] * count
        self.ports = [tuple(self.index[n] for n in (*p.reads, *p.writes)) for p in pipeline.processes]

    def finish(self) -> Timing:
        if not self.advance():
            lines = [
                f"{p.name} waits for {self.names[w[0]]}, which is {'full' if w[1] else 'empty'} "
                f"(depth {self.depth[w[0]]})"
                for p, w in zip(self.pipeline.processes, self.waits, strict=True)
                if w is not None
            ]
            raise DeadlockError("the network stops halfway: " + "; ".join(lines))
        last = [
            self.read[port[0]]
            for p, port in zip(self.pipeline.processes, self.ports, strict=True)
            if p.kind == "store"
        ]
        ends = [max(times[len(times) * (i + 1) // FRAMES - 1] for times in last) for i in range(FRAMES)]
        held = {n: _held(w, r) for n, w, r in zip(self.names, self.written, self.read, strict=True)}
        return Timing(ends[0] + 1, ends[-2] - ends[-3], held)

    def advance(self) -> bool:
        """Go on until every process has ended (true) or none can go on (false)."""
        moved = True
        while moved:
            moved = False
            for i in range(len(self.schedules)):
                moved |= self._go(i)
        return all(w is None for w in self.waits)

    def _go(self, i: int) -> bool:
        """Let a process run until it must wait; whether it did anything."""
        s, ports = self.schedules[i], self.ports[i]
        position, operation, clock = self.position[i], self.operation[i], self.clock[i]
        written, read, depth = self.written, self.read, self.depth
        end = len(s.codes)
        began = (position, operation)
        gaps, codes, operations, lag = s.gaps, s.codes, s.operations, s.latency
        self.waits[i] = None
        while position < end:
            if operation == 0:
                clock += gaps[position]
            todo = operations[codes[position]]
            while operation < len(todo):
                port, writes = todo[operation]
                f = ports[port]
                if writes:
                    slot = len(written[f]) - depth[f]
                    if slot >= len(read[f]):
                        break
                    if slot >= 0 and read[f][slot] + 1 - lag > clock:
                        clock = read[f][slot] + 1 - lag
                    written[f].append(clock + lag)
                else:
                    token = len(read[f])
                    if token >= len(written[f]):
                        break
                    if written[f][token] + 1 > clock:
                        clock = written[f][token] + 1
                    read[f].append(clock)
                operation += 1
            else:
                position, operation = position + 1, 0
                continue
            self.waits[i] = (f, writes)
            if operation == 0:
                clock -= gaps[position]
            break
        self.position[i], self.operation[i], self.clock[i] = position, operation, clock
        return (position, operation) != began

    def bottleneck(self) -> str:
        """The FIFO to enlarge when all are stuck: of the full ones on the way from a process that copies
        to one that waits for its other input, the one whose tokens of a frame take the fewest bits."""
        processes = self.pipeline.processes
        reader = {f: i for i, ports in enumerate(self.ports) for f in ports[: len(processes[i].reads)]}
        for i, process in enumerate(processes):
            wait = self.waits[i]
            if process.kind != "copies" or wait is None or not wait[1]:
                continue
            chain = []
            step: tuple[int, bool] | None = wait
            while step is not None and step[1]:
                chain.append(step[0])
                step = self.waits[reader[step[0]]]
            if step is not None:
                fifos: list[Fifo] = [self.pipeline.fifos[self.names[f]] for f in chain]
                return min(fifos, key=lambda f: f.width * f.tokens).name
        raise DeadlockError("the network stops halfway, and no deeper FIFO would help")


def _held(written: list[int], read: list[int]) -> int:
    """The least depth that would have made no write wait."""
    gone = np.array([bisect_left(read, t) for t in written])
    return int((np.arange(1, len(written) + 1) - gone).max(initial=0))
