"""When each process reads and writes: the order of port operations that the generated code has, with its
cycles.

A process is a loop that is pipelined at one iteration a cycle. Its events are the iterations that touch a
FIFO; an iteration reads before it writes, and reads its ports in order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardy.targets.fpga.dataflow.folding import ROW_GAP, folds_of, padded, steps_of, window_rows
from hardy.targets.fpga.dataflow.layers import Product
from hardy.targets.fpga.dataflow.pipeline import Pipeline, Process

Flags = NDArray[np.bool_]
BUS_BYTES = 8  # of a memory port, a cycle


@dataclass(frozen=True, eq=False)
class Schedule:
    """A run of a process: `gaps` [events], cycles since the event before, and `codes` [events], which of
    `operations` (port number, whether it writes) an event does. `length`: cycles; `latency`: cycles
    from an iteration's reads to its writes."""

    gaps: list[int]
    codes: list[int]
    operations: tuple[tuple[tuple[int, bool], ...], ...]
    length: int
    latency: int


def schedule(pipeline: Pipeline, process: Process, frames: int) -> Schedule:
    """The events of a process in a run of some frames; its ports are numbered `reads` first, then
    `writes`."""
    if process.kind == "window_taps":
        reads, writes, times = _window_taps(process, frames)
        gap = ROW_GAP + 1
    else:
        reads, writes, gap = _iterations(pipeline, process)
        reads, writes = np.tile(reads, frames), np.tile(writes, frames)
        times = np.arange(len(reads)) * gap
    first = len(process.reads)
    sends = tuple((first + i, True) for i in range(len(process.writes)))
    takes: tuple[tuple[int, bool], ...] = ((0, False),) if process.reads else ()
    second: tuple[tuple[int, bool], ...] = ((1, False),) if len(process.reads) > 1 else ()
    operations = ((), takes, second + sends, takes + second + sends)
    codes = reads.astype(np.int64) + 2 * writes.astype(np.int64)
    busy = np.nonzero(codes)[0]
    gaps = np.diff(times[busy], prepend=-1)
    length = int(times[-1]) + gap
    return Schedule(gaps.tolist(), codes[busy].tolist(), operations, length, latency(process))


def _iterations(pipeline: Pipeline, process: Process) -> tuple[Flags, Flags, int]:
    """For each iteration of a frame whether it reads and whether it writes, and the cycles of an
    iteration."""
    kind = process.kind
    if kind in ("load", "store"):
        fifo = pipeline.fifos[(process.reads + process.writes)[0]]
        gap = math.ceil(fifo.lanes * max(8, fifo.type.bits) / 8 / BUS_BYTES)
        always, never = np.ones(fifo.tokens, bool), np.zeros(fifo.tokens, bool)
        return (never, always, gap) if kind == "load" else (always, never, gap)
    if kind == "copies":
        tokens = pipeline.fifos[process.reads[0]].tokens
        return np.ones(tokens, bool), np.ones(tokens, bool), 1
    if kind in ("widen", "narrow"):
        wide = min(pipeline.fifos[process.reads[0]].tokens, pipeline.fifos[process.writes[0]].tokens)
        turn = np.tile(np.arange(process.times), wide)
        always = np.ones(len(turn), bool)
        return (always, turn == process.times - 1, 1) if kind == "widen" else (turn == 0, always, 1)
    return (*(_window_whole(process) if kind == "window_whole" else _head(process)), 1)


def _head(process: Process) -> tuple[Flags, Flags]:
    layer, fold = process.layer, process.fold
    assert layer is not None
    assert fold is not None
    pixels, steps, folds = layer.output.pixels, steps_of(layer, fold), folds_of(layer, fold)
    if process.kind == "whole_image":
        count = np.arange(steps * folds)
        return np.ones(len(count), bool), count >= (steps - 1) * folds
    if isinstance(layer.head, Product):
        one = np.arange(folds * steps)
        repeats = pixels * layer.head.groups
        return np.tile(one < steps, repeats), np.tile(one % steps == steps - 1, repeats)
    steps = steps if layer.window is not None else 1
    turn = np.tile(np.arange(steps), pixels * folds)
    return np.ones(len(turn), bool), turn == steps - 1


def _window_taps(process: Process, frames: int) -> tuple[Flags, Flags, NDArray[np.int64]]:
    """Reads, writes and times of all iterations: rows of a frame take in the first rows of the next."""
    layer, fold = process.layer, process.fold
    assert layer is not None
    assert fold is not None
    assert layer.window is not None
    first, *rows = window_rows(layer.window, layer.channels // fold.lanes)
    loads, sends = rows[-1]
    run = [first, *rows * (frames - 1), *rows[:-1], (loads - first[0], sends)]
    counts = [np.arange(max(pair)) for pair in run]
    reads = np.concatenate([n < pair[0] for n, pair in zip(counts, run, strict=True)])
    writes = np.concatenate([n < pair[1] for n, pair in zip(counts, run, strict=True)])
    entered = np.repeat(np.arange(1, len(run) + 1) * ROW_GAP, [len(n) for n in counts])
    return reads, writes, np.arange(len(reads)) + entered


def _window_whole(process: Process) -> tuple[Flags, Flags]:
    layer, fold = process.layer, process.fold
    assert layer is not None
    assert fold is not None
    assert layer.window is not None
    window = layer.window
    height, width = padded(window)
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    (top, _), (left, _) = window.padding
    inside = (y >= top) & (y < top + window.size[0]) & (x >= left) & (x < left + window.size[1])
    sent = np.ones((height, width), bool)
    for at, span, count, step in zip((y, x), window.span, window.positions, window.strides, strict=True):
        place = at - (span - 1)
        sent &= (place >= 0) & (place < count * step) & (place % step == 0)
    tokens = layer.channels // fold.lanes
    return np.repeat(inside.reshape(-1), tokens), np.repeat(sent.reshape(-1), tokens)


def latency(process: Process) -> int:
    """An estimate of the depth of the pipeline: memory, multiplier, adder tree, and the steps at the end."""
    layer, fold = process.layer, process.fold
    if process.kind in ("load", "store"):
        return 60  # a memory access
    if process.kind in ("copies", "widen", "narrow"):
        return 2
    if process.kind.startswith("window") or layer is None or fold is None:
        return 4
    terms = fold.simd if isinstance(layer.head, Product) else fold.taps
    return 4 + 2 * max(terms - 1, 0).bit_length() // 2 + len(layer.steps)
