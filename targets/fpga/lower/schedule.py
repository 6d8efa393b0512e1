"""Plans of layers in sequence as one stream of instructions: what is loaded where and when.

Loads are written as early as their place on chip is free and their data is stored, so that they overlap with
what is computed before; weights of the next layer are among them. Tokens are inserted afterwards and keep
the order of the data alone, so nothing here waits at the end of a layer.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from typing import Any

import numpy as np

from hardy.targets.fpga.board import Memory
from hardy.targets.fpga.config import Config
from hardy.targets.fpga.elements import element_bytes
from hardy.targets.fpga.isa import Buffer, Load
from hardy.targets.fpga.lower.plan import RESERVED_INPUTS, Plan, Tile
from hardy.targets.fpga.lower.residency import Slots, Space
from hardy.targets.fpga.lower.tile import Places, Tensor, TileWriter, load_residual, load_window
from hardy.targets.fpga.lower.tokens import Draft

Array = np.ndarray[Any, Any]
ACC_SLOTS = 2
AHEAD = 128
"""Loads of a step's data that may be written ahead: each can be a token that waits (tokens.WAITING)."""


@dataclass(frozen=True)
class Job:
    """A plan with its tensors, and the DRAM elements where its weights and accumulator constants begin."""

    plan: Plan
    input: Tensor
    residuals: tuple[Tensor, ...]
    output: Tensor
    weights: int
    vectors: int


@dataclass
class _Pending:
    """Loads that are to be written behind operation `free` and before operation `need`."""

    loads: list[Load]
    layer: int
    free: int
    need: int


@dataclass
class _Operation:
    """A step of a layer's `number`-th tile, or the tile's end (`chunk` None), and where its data is."""

    layer: int
    number: int
    tile: Tile
    chunk: int | None
    first: bool = False
    last: bool = False
    at: dict[Hashable, int] = field(default_factory=dict)
    vectors: list[Load] = field(default_factory=list)


def schedule(
    jobs: Sequence[Job], config: Config, memory: Memory, constant: int, *, overlap: bool = True
) -> list[Draft]:
    """The drafts of all jobs in order; `constant` is the DRAM element of the constant input.

    The memory decides what is loaded first, nothing else. Without `overlap` there is one place for each kind
    of data, and nothing is loaded before it is needed.
    """
    return _Schedule(jobs, config, memory, constant, overlap).write()


class _Schedule:
    def __init__(
        self, jobs: Sequence[Job], config: Config, memory: Memory, constant: int, overlap: bool
    ) -> None:
        self.jobs, self.config, self.memory, self.constant = jobs, config, memory, constant
        self.overlap = overlap
        self.ahead: list[int] = []
        self.operations: list[_Operation] = []
        self.pending: dict[Buffer, deque[_Pending]] = {Buffer.WGT: deque(), Buffer.INP: deque()}
        self.stored: dict[Tensor, Array] = {}
        self._plan_operations()
        self._plan_places()

    def _plan_operations(self) -> None:
        for number, job in enumerate(self.jobs):
            count = len(job.plan.chunks)
            for n, tile in enumerate(job.plan.tiles):
                for chunk in range(count):
                    last = chunk == count - 1
                    self.operations.append(_Operation(number, n, tile, chunk, chunk == 0, last))
                self.operations.append(_Operation(number, n, tile, None))

    def _plan_places(self) -> None:
        config = self.config
        self.spaces = {
            Buffer.WGT: Space(config.wgt_depth),
            Buffer.INP: Space(config.inp_depth - RESERVED_INPUTS),
            Buffer.ACC: Space(config.acc_depth),
        }
        step_before = -1
        layer = -1
        for time, operation in enumerate(self.operations):
            if operation.layer != layer:
                layer = operation.layer
                self._enter(layer, time)
            self._request(operation, time, step_before)
            if operation.chunk is not None:
                step_before = time
            else:
                self._note_store(self.jobs[layer], operation.tile, time)

    def _enter(self, layer: int, time: int) -> None:
        """Cuts the buffers into slots for a layer, and loads what stays for all of it."""
        job, plan = self.jobs[layer], self.jobs[layer].plan
        tiles = [op for op in self.operations[time:] if op.layer == layer]
        uses: dict[str, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
        for offset, operation in enumerate(tiles):
            for kind, key, _ in self._needs(operation):
                uses[kind][key].append(time + offset)
        extras = len(plan.constants.extras)
        inputs, residuals, weights, sums, vectors = self._counts(plan, {k: len(v) for k, v in uses.items()})
        wgt, inp, acc = (self.spaces[b] for b in (Buffer.WGT, Buffer.INP, Buffer.ACC))
        at_wgt = wgt.place([extras] + [plan.weight_size] * weights)
        at_inp = inp.place([plan.input_size] * inputs + [plan.residual_size] * residuals)
        at_acc = acc.place([plan.acc_size] * sums + [plan.vector_size] * vectors)
        self.slots = {
            "weights": Slots(wgt, at_wgt[1:], plan.weight_size, uses["weights"]),
            "input": Slots(inp, at_inp[:inputs], plan.input_size, uses["input"]),
            "residual": Slots(inp, at_inp[inputs:], plan.residual_size, uses["residual"]),
            "vectors": Slots(acc, at_acc[sums:], plan.vector_size, uses["vectors"]),
        }
        self.sums = at_acc[:sums]
        self.extras_at = at_wgt[0]
        if extras:
            load = Load(Buffer.WGT, at_wgt[0], job.weights, extras)
            free = wgt.free_behind(at_wgt[0], extras)
            self.pending[Buffer.WGT].append(_Pending([load], layer, free, time))
            wgt.use(at_wgt[0], extras, time + len(tiles) - 1)

    def _counts(self, plan: Plan, wanted: Mapping[str, int]) -> tuple[int, int, int, int, int]:
        """How many places there are for inputs, residuals, weights, sums and vectors."""
        config, residuals = self.config, len(plan.layer.residuals)
        if not self.overlap:
            return 1, residuals, min(1, wanted.get("weights", 0)), 1, min(1, wanted.get("vectors", 0))
        inputs = min(plan.input_slots, wanted.get("input", 0))
        residual_slots = residuals * min(2, len(plan.tiles))
        while inputs * plan.input_size + residual_slots * plan.residual_size > plan.input_room:
            if residual_slots > residuals and inputs <= 2:
                residual_slots -= 1
            else:
                inputs -= 1
        sums, vectors = min(ACC_SLOTS, len(plan.tiles)), wanted.get("vectors", 0)
        while sums * plan.acc_size + vectors * plan.vector_size > config.acc_depth:
            if vectors > 1:
                vectors -= 1
            else:
                sums -= 1
        return inputs, residual_slots, min(wanted.get("weights", 0), plan.weight_slots), sums, vectors

    def _needs(self, operation: _Operation) -> Iterator[tuple[str, Hashable, Callable[[int], list[Load]]]]:
        """The kinds and keys of data that an operation needs, and what loads each to a place."""
        job = self.jobs[operation.layer]
        plan, tile = job.plan, operation.tile
        w = plan.windows[tile.window]
        early = {step.index for step in plan.constants.early}
        # The bias is spelled in front of the last step's weights, which the tile's end finds where they were.
        number = len(plan.chunks) - 1 if operation.chunk is None else operation.chunk
        chunk = plan.chunks[number]
        size = plan.weights_of(tile.blocks, number, chunk)
        if size and (operation.chunk is not None or plan.spelled):
            offset = job.weights + plan.weight_offsets[tile.group][number]
            yield "weights", (tile.group, number), lambda at: [Load(Buffer.WGT, at, offset, size)]
        if operation.chunk is not None and w.plane:
            blocks = plan.in_blocks(tile.blocks, chunk)
            yield "input", (tile.window, blocks), lambda at: load_window(plan, w, blocks, job.input, at)
        for index, tensor in enumerate(job.residuals):
            if (index in early and operation.first) or (index not in early and operation.chunk is None):
                yield (
                    "residual",
                    (index, tile.window, tile.group),
                    partial(load_residual, w, tile.blocks, tensor),
                )
        if operation.chunk is None and plan.vector_size:
            yield "vectors", tile.group, lambda at: self._load_vectors(job, tile, at)

    @staticmethod
    def _load_vectors(job: Job, tile: Tile, at: int) -> list[Load]:
        constants = job.plan.constants
        return [
            Load(
                Buffer.ACC,
                at + v * tile.blocks.size,
                job.vectors + v * constants.out_blocks + tile.blocks.start,
                tile.blocks.size,
            )
            for v in range(len(constants.vectors))
        ]

    def _request(self, operation: _Operation, time: int, step_before: int) -> None:
        operation.at["extras"] = self.extras_at
        operation.at["sums"] = self.sums[operation.number % len(self.sums)]
        operation.at["above"] = self.sums[(operation.number - 1) % len(self.sums)]
        for kind, key, loads in self._needs(operation):
            before = time if kind == "vectors" else step_before
            start, free = self.slots[kind].request(key, time, before)
            operation.at[kind, key[0] if kind == "residual" and isinstance(key, tuple) else None] = start
            if free is None:
                continue
            if kind == "vectors":
                operation.vectors = loads(start)
            else:
                written = loads(start)
                buffer = Buffer.WGT if kind == "weights" else Buffer.INP
                if buffer == Buffer.INP:
                    free = max(free, self._data_ready(operation, kind, key, time))
                self.pending[buffer].append(_Pending(written, operation.layer, free, time))

    def _data_ready(self, operation: _Operation, kind: str, key: Any, need: int) -> int:
        """The operation that stores the last of what is loaded; one later where there is time."""
        job = self.jobs[operation.layer]
        w = job.plan.windows[operation.tile.window]
        if kind == "input":
            tensor, blocks, rows = job.input, key[1], w.in_rows
        else:
            tensor, blocks, rows = job.residuals[key[0]], operation.tile.blocks, w.rows
        if tensor not in self.stored:
            return -1
        part = self.stored[tensor][w.image, blocks.start : blocks.stop, rows.start : rows.stop]
        ready = int(part.max(initial=-1))
        return ready + 1 if need > ready + 2 else ready

    def _note_store(self, job: Job, tile: Tile, time: int) -> None:
        out = job.output
        if out not in self.stored:
            self.stored[out] = np.full((out.images, out.blocks, out.rows), -1, np.int64)
        w = job.plan.windows[tile.window]
        rows = slice(w.out_rows.start, w.out_rows.stop)
        self.stored[out][w.image, tile.blocks.start : tile.blocks.stop, rows] = time

    def write(self) -> list[Draft]:
        drafts = [Draft(Load(Buffer.INP, self.config.inp_depth - 1, self.constant, 1))]
        writers = [TileWriter(job.plan, number) for number, job in enumerate(self.jobs)]
        cycles = [self._cycles(operation) for operation in self.operations]
        # When each operation would begin if nothing waited for loads; how far behind that computing is; when
        # the load queue is free.
        begins = np.concatenate([[0.0], np.cumsum(cycles)])
        late = busy = 0.0
        for time, operation in enumerate(self.operations):
            arrives = 0.0
            for pending in self._loads_before(time, begins + late, busy):
                busy = max(busy, begins[pending.free + 1] + late) + self._load_cycles(pending)
                arrives = busy if pending.need <= time else arrives
                drafts.extend(Draft(load, None, pending.layer) for load in pending.loads)
            late += max(0.0, arrives - begins[time] - late)
            drafts.extend(self._compute(operation, writers[operation.layer]))
        return drafts

    def _loads_before(self, time: int, begins: Array, busy: float) -> Iterator[_Pending]:
        """The loads to write before an operation, the most urgent first.

        The load queue runs in order. Where the most urgent load has to wait for its place, one that is needed
        later goes first if that does not make the urgent one late, or is done before anything else can be.
        """
        while self.ahead and self.ahead[0] <= time:
            heappop(self.ahead)
        while True:
            heads = [queue[0] for queue in self.pending.values() if queue]
            ready = [head for head in heads if head.free < time]
            if not ready:
                break
            chosen = min(ready, key=lambda head: head.need)
            if chosen.need > time and (not self.overlap or len(self.ahead) == AHEAD):
                break
            end = max(busy, begins[chosen.free + 1]) + self._load_cycles(chosen)
            if chosen.need > time and end > begins[time + 1]:
                urgent = [head for head in heads if head.free >= time and head.need < chosen.need]
                if any(end + self._load_cycles(head) > begins[head.need] for head in urgent):
                    break
            busy = end
            heappush(self.ahead, chosen.need)
            next(queue for queue in self.pending.values() if queue and queue[0] is chosen).popleft()
            yield chosen
        for queue in self.pending.values():
            if queue and queue[0].need <= time:
                raise AssertionError(f"a load is needed at {time} before it can be written: {queue[0]}")

    def _cycles(self, operation: _Operation) -> float:
        """About how many cycles an operation computes."""
        plan = self.jobs[operation.layer].plan
        w, blocks = plan.windows[operation.tile.window], operation.tile.blocks.size
        if operation.chunk is None:
            return blocks * (w.positions + 2 * len(plan.constants.epilogue) * w.outputs)
        return blocks * w.positions * plan.taps * plan.chunks[operation.chunk].size

    def _load_cycles(self, pending: _Pending) -> float:
        """About how many cycles loads take."""
        memory, total = self.memory, 0.0
        for load in pending.loads:
            rows = 1 if load.stride == load.x_size else load.y_size
            beats = memory.beats(load.x_size * load.y_size * element_bytes(load.buffer, self.config) // rows)
            total += memory.latency + rows * max(beats, (beats + memory.latency) / memory.outstanding)
        return total

    def _compute(self, operation: _Operation, writer: TileWriter) -> Iterator[Draft]:
        job, tile, at = self.jobs[operation.layer], operation.tile, operation.at
        plan = job.plan
        residuals = {i: at["residual", i] for i in range(len(job.residuals)) if ("residual", i) in at}
        places = Places(
            at["sums"], at["above"], at.get(("vectors", None), 0), at["extras"], self.config.inp_depth - 1
        )
        wgt = at.get(("weights", None), 0)
        if operation.chunk is None:
            for load in operation.vectors:
                yield Draft(load, None, operation.layer)
            yield from writer.finish(tile, places, wgt, residuals, job.output)
            return
        if operation.first:
            yield from writer.begin(tile, places, residuals)
        inp = at.get(("input", None), 0)
        chunk = plan.chunks[operation.chunk]
        if plan.constants.uniform is not None:
            wgt = at["extras"] + plan.constants.uniform
        elif operation.last:
            wgt += tile.blocks.size * plan.spelled
        yield from writer.step(tile, chunk, places, inp, wgt)
