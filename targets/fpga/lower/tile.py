"""The instructions of a tile: sums cleared, products, residuals, max pool, shift and limits, store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hardy.targets.fpga.isa import AluOpcode, Buffer, Load, Store
from hardy.targets.fpga.lower.constants import LEFT_SHIFT, AluStep, ResidualStep
from hardy.targets.fpga.lower.gemm import step_kernels
from hardy.targets.fpga.lower.geometry import Axis, Span, Window, places
from hardy.targets.fpga.lower.kernels import ONCE, Kernel, Loop, run, uops
from hardy.targets.fpga.lower.layer import BYTES
from hardy.targets.fpga.lower.plan import SPARE, Plan, Tile
from hardy.targets.fpga.lower.pool import pool_kernels
from hardy.targets.fpga.lower.tokens import Draft

Array = np.ndarray[Any, Any]
FIELD = 2**16
"""Sizes and strides of loads and stores are below this."""


@dataclass(frozen=True)
class Tensor:
    """A packed activation in DRAM: its first element, image blocks, channel blocks, rows and columns."""

    base: int
    images: int
    blocks: int
    rows: int
    columns: int

    @property
    def plane(self) -> int:
        return self.rows * self.columns

    def at(self, image: int, block: int, row: int = 0, column: int = 0) -> int:
        """The DRAM element of a position."""
        return self.base + ((image * self.blocks + block) * self.rows + row) * self.columns + column


@dataclass(frozen=True)
class Places:
    """Where a tile finds its data on chip."""

    acc: int
    above: int
    """The sums of the tile above, which may have left rows there."""
    vectors: int
    extras: int
    constant: int


def transfers(
    tensor: Tensor, image: int, blocks: Span, rows: range, columns: Span, sram: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """Rectangles of several blocks as (sram, dram, x_size, y_size, x_stride), as few as can be."""
    height, width = len(rows), columns.size
    first = tensor.at(image, blocks.start, rows.start, columns.start)
    if width == tensor.columns and (rows.step == 1 or height == 1):
        height, width = 1, height * width
    if height == 1 and width < FIELD and tensor.plane < FIELD:
        yield sram, first, width, blocks.size, tensor.plane
        return
    for number in range(blocks.size):
        dram = first + number * tensor.plane
        yield sram + number * height * width, dram, width, height, rows.step * tensor.columns


def load_window(plan: Plan, w: Window, blocks: Span, tensor: Tensor, sram: int) -> list[Load]:
    """The loads of a step's input."""
    rows = range(w.in_rows.start, w.in_rows.stop, plan.rows.step)
    if not w.plane:
        return []
    parts = transfers(tensor, w.image, blocks, rows, w.in_columns, sram)
    return [Load(Buffer.INP, s, d, x, y, stride) for s, d, x, y, stride in parts]


def load_residual(w: Window, blocks: Span, tensor: Tensor, sram: int) -> list[Load]:
    """The loads of a tile of a residual."""
    rows = range(w.rows.start, w.rows.stop)
    parts = transfers(tensor, w.image, blocks, rows, w.columns, sram)
    return [Load(Buffer.INP, s, d, x, y, stride) for s, d, x, y, stride in parts]


class TileWriter:
    """Writes the tiles of a plan as drafts; kernels are made once for tiles that look alike."""

    def __init__(self, plan: Plan, layer: int) -> None:
        self.plan, self.number = plan, layer
        self._steps: dict[Any, list[Kernel]] = {}
        self._pools: dict[Any, list[tuple[Kernel, bool]]] = {}

    def begin(self, tile: Tile, at: Places, residuals: dict[int, int]) -> Iterator[Draft]:
        """Clears the tile's sums and adds what must be shifted left before anything else."""
        w = self.plan.windows[tile.window]
        count = w.positions * tile.blocks.size
        yield self._draft(run(at.acc, count + SPARE), reset=True)
        for step in self.plan.constants.early:
            yield from self._residual(step, tile, at, residuals[step.index])
            left = step.left
            while left:
                part = min(left, LEFT_SHIFT)
                yield self._alu(run(at.acc, count), AluOpcode.SHR, -part)
                left -= part

    def step(self, tile: Tile, chunk: Span, at: Places, inp: int, wgt: int) -> Iterator[Draft]:
        """The products of a step."""
        w = self.plan.windows[tile.window]
        for kernel in self._step_kernels(w, tile.blocks, chunk):
            moved = replace(kernel, uops=kernel.uops + np.asarray((at.acc, inp, wgt)))
            yield self._draft(moved)

    def finish(
        self, tile: Tile, at: Places, spelled: int, residuals: dict[int, int], out: Tensor
    ) -> Iterator[Draft]:
        """Everything behind the products, and the store. `spelled` is where the bias's weights are."""
        w = self.plan.windows[tile.window]
        constants = self.plan.constants
        sums = [(at.acc + b * w.positions, w.positions) for b in range(tile.blocks.size)]
        for late in constants.late:
            yield from self._residual(late, tile, at, residuals[late.index])
        for operation in constants.before_pool:
            yield self._operate(operation, w, tile, at, self._all(w))
        yield from self._pool(w, tile, at)
        results = self._results(w)
        yield from self._bias(w, tile, at, spelled, results)
        for operation in constants.epilogue:
            yield self._operate(operation, w, tile, at, results)
        yield from self._store(w, tile, out, sums, results)
        if self.plan.layer.wide:
            for byte in range(1, BYTES):
                yield self._operate(AluStep(AluOpcode.SHR, imm=8), w, tile, at, results)
                yield from self._store(w, tile, out, sums, results, byte * out.rows // BYTES)

    def _draft(self, kernel: Kernel, reset: bool = False) -> Draft:
        return Draft(kernel.gemm(reset), kernel.uops, self.number, kernel.spread)

    def _alu(self, kernel: Kernel, opcode: AluOpcode, imm: int | None = None) -> Draft:
        return Draft(kernel.alu(opcode, imm), kernel.uops, self.number, kernel.spread)

    def _step_kernels(self, w: Window, blocks: Span, chunk: Span) -> list[Kernel]:
        starts = self.plan.constants.weights.start[blocks.start : blocks.stop]
        relative = tuple(s - starts[0] for s in starts)
        key = _shape(w, self.plan.rows, self.plan.columns), relative, chunk.size
        if key not in self._steps:
            self._steps[key] = step_kernels(self.plan, w, blocks, chunk)
        return self._steps[key]

    def _residual(self, step: ResidualStep, tile: Tile, at: Places, inp: int) -> Iterator[Draft]:
        w = self.plan.windows[tile.window]
        element = at.extras + step.element + (tile.blocks.start if step.by_block else 0)
        if step.by_block:
            place = places(w, self.plan.rows, self.plan.columns).ravel()
            listed = uops(at.acc + place, inp + np.arange(w.positions), element)
            kernel = Kernel(listed, Loop(tile.blocks.size, w.positions, w.positions, 1))
        elif self.plan.layer.pool is None:
            count = w.positions * tile.blocks.size
            kernel = run(at.acc, count, inp, element, step=Loop(count, 1, 1))
        else:
            place = places(w, self.plan.rows, self.plan.columns).ravel()
            listed = uops(at.acc + place, inp + np.arange(w.positions), element)
            kernel = Kernel(listed, Loop(tile.blocks.size, w.positions, w.positions))
        for _ in range(step.times):
            yield self._draft(kernel)

    def _all(self, w: Window) -> Array:
        return np.arange(w.positions)

    def _results(self, w: Window) -> Array:
        """The accumulators, among an output block's, that hold the results, row by row."""
        rows, columns = self.plan.rows, self.plan.columns
        if self.plan.layer.pool is None:
            return self._all(w)
        y = np.arange(w.out_rows.start, w.out_rows.stop) * rows.pool_stride - w.rows.start
        x = np.arange(w.out_columns.start, w.out_columns.stop) * columns.pool_stride - w.columns.start
        return np.asarray(places(w, rows, columns)[np.ix_(y, x)].ravel())

    def _bias(self, w: Window, tile: Tile, at: Places, spelled: int, where: Array) -> Iterator[Draft]:
        per_block = self.plan.spelled
        for number in range(per_block):
            yield self._draft(
                self._over(w, tile, at.acc, where, at.constant, spelled + number, Loop(1, wgt=per_block))
            )

    def _operate(self, operation: AluStep, w: Window, tile: Tile, at: Places, where: Array) -> Draft:
        if operation.vector is None:
            return self._alu(self._over(w, tile, at.acc, where), operation.opcode, operation.imm)
        operand = at.vectors + operation.vector * tile.blocks.size
        return self._alu(self._over(w, tile, at.acc, where, operand, 0, Loop(1, src=1)), operation.opcode)

    def _over(
        self, w: Window, tile: Tile, acc: int, where: Array, src: int = 0, wgt: int = 0, move: Loop = ONCE
    ) -> Kernel:
        """A kernel over some accumulators of every output block, the other operands moved by block."""
        blocks = Loop(tile.blocks.size, w.positions, move.src, move.wgt)
        if np.array_equal(where, np.arange(len(where)) + where[0]):
            return run(acc + int(where[0]), len(where), src, wgt, groups=blocks)
        return Kernel(uops(acc + where, src, wgt), blocks)

    def _pool(self, w: Window, tile: Tile, at: Places) -> Iterator[Draft]:
        if self.plan.layer.pool is None:
            return
        rows, columns = self.plan.rows, self.plan.columns
        above = None if tile.above is None else self.plan.windows[tile.above]
        key = tuple(None if v is None else _shape(v, rows, columns) for v in (w, above)), tile.blocks.size
        if key not in self._pools:
            self._pools[key] = list(pool_kernels(self.plan, w, above, tile.blocks.size))
        for kernel, carried in self._pools[key]:
            base = np.asarray((at.acc, at.above if carried else at.acc, 0))
            yield self._alu(replace(kernel, uops=kernel.uops + base), AluOpcode.MAX)

    def _store(
        self, w: Window, tile: Tile, out: Tensor, sums: list[tuple[int, int]], results: Array, below: int = 0
    ) -> Iterator[Draft]:
        """Stores a tile's results, `below` rows further down than they are in the picture."""
        grid = results.reshape(w.out_rows.size, w.out_columns.size)
        whole = np.array_equal(results, np.arange(len(results)) + results[0])
        rows = range(w.out_rows.start + below, w.out_rows.stop + below)
        if whole and len(results) == w.positions:
            parts = transfers(out, w.image, tile.blocks, rows, w.out_columns, sums[0][0])
        elif whole:
            parts = (
                part
                for number, (acc, _) in enumerate(sums)
                for part in transfers(
                    out, w.image, _one(tile, number), rows, w.out_columns, acc + int(results[0])
                )
            )
        else:
            parts = (
                part
                for number, (acc, _) in enumerate(sums)
                for y, line in zip(rows, grid, strict=True)
                for part in transfers(
                    out, w.image, _one(tile, number), range(y, y + 1), w.out_columns, acc + int(line[0])
                )
            )
        for sram, dram, x, y, stride in parts:
            yield Draft(Store(sram, dram, x, y, stride), None, self.number)


def _one(tile: Tile, number: int) -> Span:
    return Span(tile.blocks.start + number, tile.blocks.start + number + 1)


def _shape(w: Window, rows: Axis, columns: Axis) -> tuple[Any, ...]:
    """What of a window its kernels depend on."""
    return tuple(
        (
            span.size,
            out.size,
            span.start % axis.pool_stride,
            out.start * axis.pool_stride - span.start,
            read.size,
            *(
                (tap.start - span.start, tap.size, axis.input_at(tap.start, k) - read.start)
                for k in range(axis.kernel)
                for tap in (axis.tap_span(k, span),)
            ),
        )
        for axis, span, read, out in (
            (rows, w.rows, w.in_rows, w.out_rows),
            (columns, w.columns, w.in_columns, w.out_columns),
        )
    )
