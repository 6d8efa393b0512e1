"""The products of a step as micro-op kernels.

A step multiplies over six dimensions: output rows and columns, output blocks, input blocks, filter rows and
columns. Two of them become the loops of an instruction, which cost nothing; the micro-ops spell out the rest,
positions innermost so that a sum is not added to twice in a row. Micro-ops have to be loaded, so the pair of
loops that leaves the fewest is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from hardy.targets.fpga.lower.geometry import Span, Window, places
from hardy.targets.fpga.lower.kernels import ONCE, Kernel, Loop, is_hazardous, pieces, spread, uops
from hardy.targets.fpga.lower.plan import SPARE, Plan

Array = np.ndarray[Any, Any]

INSTRUCTION_COST = 10.0
"""Cycles of an instruction besides its micro-ops, for choosing between kernels."""
UOP_COST = 0.25
"""Cycles to load a micro-op (two a cycle), which serves twice on average."""


@dataclass(frozen=True)
class _Tap:
    """A filter position: where it is valid within the tile, and its first input and weight element."""

    rows: Span
    columns: Span
    src: int
    wgt: int


def step_kernels(plan: Plan, w: Window, blocks: Span, chunk: Span) -> list[Kernel]:
    """The kernels of a step, with input, weights and accumulators at index 0."""
    builder = _Step(plan, w, blocks, chunk)
    if not builder.taps:
        return []
    options = [kernels for kernels in builder.options() if kernels is not None]
    chosen = min(options, key=_cost)
    return [part for kernel in chosen for part in pieces(kernel, plan.config.uop_depth // 2)]


def _cost(kernels: list[Kernel]) -> float:
    return sum(k.cycles + len(k.uops) * UOP_COST + INSTRUCTION_COST for k in kernels)


class _Step:
    def __init__(self, plan: Plan, w: Window, blocks: Span, chunk: Span) -> None:
        self.plan, self.w = plan, w
        self.place = places(w, plan.rows, plan.columns)
        self.width = w.in_columns.size
        self.row_step = (
            plan.rows.stride // plan.rows.step
        )  # input rows on chip from one output row to the next
        self.column_step = plan.columns.stride
        self.tap_wgt = min(plan.block_weights, 1)
        self.taps = tuple(self._taps())
        starts = np.asarray(plan.constants.weights.start)[blocks.start : blocks.stop]
        starts = starts - starts[0]
        taps = plan.block_weights
        self.block_src = starts * w.plane
        self.block_dst = np.arange(blocks.size) * w.positions
        self.block_wgt = np.arange(blocks.size) * chunk.size * taps
        self.chunk_src = np.arange(chunk.size) * w.plane
        self.chunk_wgt = np.arange(chunk.size) * taps
        self.spare = range(w.positions * blocks.size, w.positions * blocks.size + SPARE)

    def _taps(self) -> Iterable[_Tap]:
        w, rows, columns = self.w, self.plan.rows, self.plan.columns
        for ky in range(rows.kernel):
            y = rows.tap_span(ky, w.rows)
            for kx in range(columns.kernel):
                x = columns.tap_span(kx, w.columns)
                if y.size and x.size:
                    row = (rows.input_at(y.start, ky) - w.in_rows.start) // rows.step
                    column = columns.input_at(x.start, kx) - w.in_columns.start
                    wgt = (ky * columns.kernel + kx) * self.tap_wgt
                    yield _Tap(y, x, row * self.width + column, wgt)

    def options(self) -> Iterable[list[Kernel] | None]:
        pool = self.plan.layer.pool
        yield self._kernels(("blocks", "chunk"))
        yield self._kernels(("chunk",))
        if pool is None:
            yield self._kernels(("chunk", "rows"))
            yield self._kernels(("blocks", "rows"))
        if len({(t.rows, t.columns) for t in self.taps}) == 1 and len(self.taps) == self.plan.taps > 1:
            yield self._kernels(("filter",))

    def _kernels(self, loops: tuple[str, ...]) -> list[Kernel] | None:
        """The kernels with these dimensions as loops; None if that cannot be or is hazardous."""
        chosen: list[Loop] = []
        if "blocks" in loops:
            distances = set(np.diff(self.block_src).tolist()) or {0}
            if len(distances) > 1:
                return None
            chosen.append(self._loop(self.block_dst, self.block_src, self.block_wgt))
        if "chunk" in loops:
            chosen.append(self._loop(self.chunk_dst, self.chunk_src, self.chunk_wgt))
        if "rows" in loops:
            groups = [list(g) for _, g in groupby(self.taps, key=lambda t: (t.rows.start, t.rows.stop))]
        else:
            groups = [list(self.taps)]
        kernels = []
        for taps in groups:
            outer, inner = (*chosen, ONCE, ONCE)[:2]
            if "rows" in loops:
                inner = Loop(taps[0].rows.size, self.w.columns.size, self.row_step * self.width)
            if "filter" in loops:
                rows, columns = self.plan.rows, self.plan.columns
                down = rows.dilation * self.width if rows.kernel > 1 else 0
                outer = Loop(rows.kernel, 0, down, columns.kernel * self.tap_wgt)
                inner = Loop(columns.kernel, 0, columns.dilation, self.tap_wgt)
                taps = taps[:1]
            listed = np.concatenate([self._list(tap, loops) for tap in taps])
            kernel = Kernel(listed, outer, inner)
            if is_hazardous(kernel, kernel.gemm()):
                if any(loop.dst and loop.count > 1 for loop in (outer, inner)):
                    return None
                kernel = spread(kernel, self.spare)
            kernels.append(kernel)
        return kernels

    @property
    def chunk_dst(self) -> Array:
        return np.zeros_like(self.chunk_src)

    @staticmethod
    def _loop(dst: Array, src: Array, wgt: Array) -> Loop:
        if len(dst) == 1:
            return ONCE
        return Loop(len(dst), int(dst[1] - dst[0]), int(src[1] - src[0]), int(wgt[1] - wgt[0]))

    def _list(self, tap: _Tap, loops: tuple[str, ...]) -> Array:
        """The micro-ops of a tap over what the loops leave: chunk, blocks, rows, columns."""
        rows = Span(tap.rows.start, tap.rows.start + 1) if "rows" in loops else tap.rows
        y = np.arange(rows.size)[:, None]
        x = np.arange(tap.columns.size)[None, :]
        top, left = rows.start - self.w.rows.start, tap.columns.start - self.w.columns.start
        dst = self.place[top : top + rows.size, left : left + tap.columns.size]
        src = tap.src + y * self.row_step * self.width + x * self.column_step
        one = np.zeros(1, np.int64)
        blocks = (one, one, one) if "blocks" in loops else (self.block_dst, self.block_src, self.block_wgt)
        chunk = (one, one, one) if "chunk" in loops else (self.chunk_dst, self.chunk_src, self.chunk_wgt)
        d, s, g = (
            c[:, None, None, None] + b[None, :, None, None] for c, b in zip(chunk, blocks, strict=True)
        )
        return uops(d + dst, s + src, g + tap.wgt)
