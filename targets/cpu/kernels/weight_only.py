"""Matrix product of few rows of f32 with a weight of 8 or 4 bits, dequantized in registers.

With few rows a product waits for its weight: one of 4 bits and its scales are read in a fifth of the time of
f32. The packed integers are signed; unsigned ones are moved by half their range, as are their zero points.
Within a block of K that shares scales, x times integers is summed first; the block's scale multiplies the
sum. A zero point z enters as -z times the block's sum of x, which is computed once for all columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr, Register
from hardy.targets.cpu.kernels.kernel import Array, Epilogue, Kernel, Output
from hardy.targets.cpu.kernels.tile import Panels, cut_columns

NIBBLES = 8  # of one i32, for neighbouring elements of K of one column
UNROLLED = 4  # elements of K in a turn of the loop over 8-bit weights
SUMS = 8  # chains of additions in a sum of x
AHEAD = 2048  # bytes of the weight between what is used and what is prefetched


@dataclass(frozen=True)
class Layout:
    """How a weight [N, K] of `bits` with a scale for every `block` elements of K lies in memory.

    One panel of columns after the other, each [K, width] i8, or [K / 8, width] i32 of eight 4-bit integers,
    lowest first, where each block is filled up to whole i32. Scales and zero points are [blocks, width].
    """

    m: int
    n: int
    k: int
    bits: int
    block: int
    isa: Isa

    @property
    def lanes(self) -> int:
        return self.isa.lanes("float32")

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and vectors of a tile: each has an accumulator and the sum of a block."""
        pairs = (self.isa.registers - 6) // 2
        rows = min(self.m, pairs)
        return rows, max(1, min(pairs // rows, 8, -(-self.n // self.lanes)))

    @property
    def panels(self) -> list[Panels]:
        return cut_columns(self.n, self.tile[1], self.lanes)

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """Runs of equal blocks along K: (first block, how many, elements of each)."""
        whole, rest = divmod(self.k, self.block)
        return [(0, whole, self.block)] * bool(whole) + [(whole, 1, rest)] * bool(rest)

    @property
    def count(self) -> int:
        return -(-self.k // self.block)

    def steps(self, size: int) -> int:
        """Elements of the packed weight that a column of a block of this size takes."""
        return size if self.bits == 8 else -(-size // NIBBLES)

    @property
    def total_steps(self) -> int:
        return sum(many * self.steps(size) for _, many, size in self.blocks)

    def pack(self, integers: Array) -> Array:
        """Signed integers [N, K] in the order in which they are read."""
        columns = integers.T
        if self.bits == 4:
            columns = np.concatenate(list(self._words(columns)))
        return self._in_panels(columns)

    def _words(self, columns: Array) -> Iterator[Array]:
        for first, many, size in self.blocks:
            part = columns[first * self.block :][: many * size].reshape(many, size, -1)
            filled = np.zeros((many, self.steps(size) * NIBBLES, self.n), np.uint32)
            filled[:, :size] = part.astype(np.uint8) & 15
            nibbles = filled.reshape(-1, NIBBLES, self.n)
            shifts = np.arange(0, 32, 4, dtype=np.uint32)[None, :, None]
            yield np.bitwise_or.reduce(nibbles << shifts, axis=1).view(np.int32)

    def pack_parameter(self, parameter: Array) -> Array:
        """Scales or zero points [N, blocks]."""
        return self._in_panels(parameter.T)

    def _in_panels(self, rows: Array) -> Array:
        pieces = [
            rows[:, p.start + i * p.width : p.start + (i + 1) * p.width].reshape(-1)
            for p in self.panels
            for i in range(p.count)
        ]
        return np.ascontiguousarray(np.concatenate(pieces))


def weight_only_matmul(
    layout: Layout, *, zero: str = "", epilogue: Epilogue | None = None, threads: int = 1
) -> Kernel:
    """y[M, N] = epilogue(x[M, K] @ w[N, K]^T), w = (integers - zero points) * scales.

    Inputs: x, weight and scale as `layout` packs them, [zero_point], epilogue operands, output,
    [workspace]. `zero` is the zero points' type: int8 or float32.
    """
    code = Code()
    m, n, k, count = layout.m, layout.n, layout.k, layout.count
    x = code.pointer("x", "float32", m * k)
    dtype = "int8" if layout.bits == 8 else "int32"
    w = code.pointer("weight", dtype, layout.total_steps * n)
    scale = code.pointer("scale", "float32", count * n)
    zeros = code.pointer("zero_point", zero, count * n) if zero else None
    output = Output(code, epilogue or Epilogue(), m * n, n)
    sums = code.pointer("workspace", "float32", m * count) if zero else None
    if sums is not None:
        with code.loop(m, "row") as r:
            _sum_blocks(code, layout, x, r * k, sums, r * count)
    tile = _Tile(code, layout, x, w, scale, zeros, sums, output)
    for panel in layout.panels:
        with code.loop(panel.count, "panel", parallel=threads > 1) as p:
            column = p * panel.width + panel.start
            rows = layout.tile[0]
            with code.loop(m // rows, "tile") as t:
                tile.write(t * rows, rows, panel, column)
            if m % rows:
                tile.write(m - m % rows, m % rows, panel, column)
    inputs = ("x", "weight", "scale", *(("zero_point",) if zero else ()), *output.names)
    return Kernel(code.finish(), (*inputs, *(("workspace",) if zero else ())), m * count * 4 if zero else 0)


def _sum_blocks(code: Code, layout: Layout, x: Buffer, x_at: Expr, sums: Buffer, at: Expr) -> None:
    """The sum of a row's x in each block."""
    for first, many, size in layout.blocks:
        with code.loop(many, "block") as g:
            start = x_at + (g + first) * layout.block
            chains = [code.register("float32", 1) for _ in range(min(SUMS, size))]
            for i, chain in enumerate(chains):
                chain.set(emit.load(x, start + i, 1))
            turns, rest = divmod(size - len(chains), len(chains))
            if turns:
                with code.loop(turns, "i") as turn:
                    for i, chain in enumerate(chains):
                        chain.set(chain.get() + emit.load(x, start + (turn + 1) * len(chains) + i, 1))
            for i in range(rest):
                chains[i].set(chains[i].get() + emit.load(x, start + (size - rest + i), 1))
            total = chains[0].get()
            for chain in chains[1:]:
                total = total + chain.get()
            code.store(sums, at + (g + first), total)


@dataclass(frozen=True)
class _Tile:
    """What the tiles share."""

    code: Code
    layout: Layout
    x: Buffer
    w: Buffer
    scale: Buffer
    zeros: Buffer | None
    sums: Buffer | None
    output: Output

    def write(self, first: Expr, count: int, panel: Panels, column: Expr) -> None:
        """The code of `count` rows from `first` on by the columns of a panel."""
        code, layout = self.code, self.layout
        totals = self._registers(count, panel)
        for row in totals:
            for register, lanes in zip(row, panel.lanes, strict=True):
                register.set(emit.const(0, "float32", lanes))
        w_at: Expr = code.let(column * layout.total_steps)
        for number, many, size in layout.blocks:
            with code.loop(many, "block") as g:
                block = g + number
                parts = self._registers(count, panel)
                self._start(parts, first, panel, column, block)
                here = code.let(w_at + g * (layout.steps(size) * panel.width))
                self._add_products(parts, first, panel, here, block * layout.block, size)
                at = code.let(column * layout.count + block * panel.width)
                for v, (offset, lanes) in enumerate(_places(panel)):
                    scales = code.load(self.scale, at + offset, lanes)
                    for row, part in zip(totals, parts, strict=True):
                        row[v].set(emit.fma(part[v].get(), scales, row[v].get()))
            w_at = w_at + many * layout.steps(size) * panel.width
        for r, row in enumerate(totals):
            for register, (offset, _) in zip(row, _places(panel), strict=True):
                self.output.store((first + r) * layout.n + column + offset, column + offset, register.get())

    def _registers(self, count: int, panel: Panels) -> list[list[Register]]:
        return [[self.code.register("float32", lanes) for lanes in panel.lanes] for _ in range(count)]

    def _start(
        self, parts: list[list[Register]], first: Expr, panel: Panels, column: Expr, block: Expr
    ) -> None:
        """What a block's sums start from: -z sum(x)."""
        code, count = self.code, self.layout.count
        for v, (offset, lanes) in enumerate(_places(panel)):
            if self.zeros is None:
                for row in parts:
                    row[v].set(emit.const(0, "float32", lanes))
                continue
            integers = emit.load(self.zeros, column * count + block * panel.width + offset, lanes)
            zero = code.let(tirx.Cast(emit.vector("float32", lanes), integers))
            for r, row in enumerate(parts):
                total = code.load(self.sums, (first + r) * count + block, 1)
                row[v].set(zero * emit.splat(tirx.const(0.0, "float32") - total, lanes))

    def _add_products(
        self, parts: list[list[Register]], first: Expr, panel: Panels, w_at: Expr, start: Expr, size: int
    ) -> None:
        """Add x times the integers of a block that begins at element `start` of K."""
        layout = self.layout
        together = UNROLLED if layout.bits == 8 else NIBBLES
        turns, rest = divmod(size, together)
        stored = together if layout.bits == 8 else 1
        if turns:
            with self.code.loop(turns, "k") as t:
                at = w_at + t * (stored * panel.width)
                self._turn(parts, first, panel, at, start + t * together, together)
        if rest:
            at = w_at + turns * stored * panel.width
            self._turn(parts, first, panel, at, start + turns * together, rest)

    def _turn(
        self, parts: list[list[Register]], first: Expr, panel: Panels, w_at: Expr, start: Expr, count: int
    ) -> None:
        """`count` elements of K, unrolled."""
        code, layout = self.code, self.layout
        width = panel.width
        bytes_each = 1 if layout.bits == 8 else 4
        for line in range(0, (count if layout.bits == 8 else 1) * width, max(1, 64 // bytes_each)):
            emit.prefetch(code, self.w, w_at + (AHEAD // bytes_each + line))
        words = []
        if layout.bits == 4:
            words = [code.load(self.w, w_at + offset, lanes) for offset, lanes in _places(panel)]
        for i in range(count):
            x = [code.load(self.x, (first + r) * layout.k + start + i, 1) for r in range(len(parts))]
            for v, (offset, lanes) in enumerate(_places(panel)):
                if layout.bits == 8:
                    integers = emit.load(self.w, w_at + (i * width + offset), lanes)
                    weight = code.let(tirx.Cast(emit.vector("float32", lanes), integers))
                else:
                    weight = code.let(_nibble(words[v], i, layout.isa))
                for value, row in zip(x, parts, strict=True):
                    row[v].set(emit.fma(emit.splat(value, lanes), weight, row[v].get()))


def _places(panel: Panels) -> list[tuple[int, int]]:
    """The first column of each vector of a panel, and its lanes."""
    starts = np.cumsum([0, *panel.lanes[:-1]])
    return [(int(start), lanes) for start, lanes in zip(starts, panel.lanes, strict=True)]


def _nibble(words: Expr, i: int, isa: Isa) -> Expr:
    """The i-th signed 4-bit integer of each i32, as f32."""
    lanes = emit.lanes_of(words)
    if lanes == 16 and isa.arch == "x86_64":
        # A table of all values: the permutation looks at the lowest four bits only.
        unsigned = tirx.reinterpret("uint32x16", words)
        index = tirx.reinterpret("int32x16", unsigned >> emit.const(4 * i, "uint32", 16)) if i else words
        return emit.intrinsic("float32x16", "llvm.x86.avx512.permvar.sf.512", _table(), index)
    top = words << emit.const(28 - 4 * i, "int32", lanes) if i < 7 else words
    return tirx.Cast(emit.vector("float32", lanes), top >> emit.const(28, "int32", lanes))


def _table() -> Expr:
    """The value of each of the 16 codes; LLVM makes a constant of it."""
    top = emit.const(28, "int32", 16)
    codes = tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), 16)
    return tirx.Cast("float32x16", (codes << top) >> top)
