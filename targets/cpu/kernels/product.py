"""The code of a matrix product's tiles, and the order in which they go through K.

A panel far too large for the first-level cache is cut into chunks of K, so that a chunk stays there while
every tile of the block uses it; between chunks the accumulators wait in the workspace. While a chunk is in
use, its tiles together prefetch the next one: weights come from the third-level cache or from memory, and
without this the first tile of every panel waits for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tvm import tirx

from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.dot import Dot
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr, Register
from hardy.targets.cpu.kernels.kernel import Output

CHUNK_BYTES = 24 << 10  # of a weight panel, half of a first-level cache
LARGE_PANEL_BYTES = 256 << 10  # below this, streaming a panel from the second-level cache costs nothing
NEAR_LINES = 256  # how far ahead a weight that is read only once is prefetched


@dataclass(frozen=True, slots=True)
class Reduction:
    """The loops over K, outermost first: (extent, step of the index into x).

    One step is one group of the dot product. The innermost loop goes over neighbouring elements. `part` is
    the number of its steps in a chunk; zero means that the tiles go through K at once.
    """

    loops: tuple[tuple[int, int], ...]
    part: int = 0

    @property
    def steps(self) -> int:
        total = 1
        for extent, _ in self.loops:
            total *= extent
        return total


def chunked(loops: tuple[tuple[int, int], ...], step_bytes: int) -> Reduction:
    """Cuts a reduction into chunks when its panel, of `step_bytes` a step, is too large for the cache."""
    whole = Reduction(loops)
    run = loops[-1][0]
    most = max(1, CHUNK_BYTES // step_bytes)
    if whole.steps * step_bytes <= LARGE_PANEL_BYTES:
        return whole
    parts = -(-run // most)
    return Reduction(loops, -(-run // parts))


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk inside its loops: where x and the panel begin, its loops, and whether it is first or last."""

    x_offset: Expr
    step: Expr
    loops: tuple[tuple[Expr, int], ...]
    first: Expr
    last: Expr


@contextmanager
def chunks(code: Code, reduction: Reduction) -> Iterator[Chunk]:
    """The loops over the chunks. `first` and `last` are True where there is only one."""
    if not reduction.part:
        yield Chunk(0, 0, reduction.loops, True, True)
        return
    *outer, (run, stride) = reduction.loops
    parts = -(-run // reduction.part)
    with ExitStack() as stack:
        x_offset: Expr = 0
        index: Expr = 0
        for extent, step in outer:
            i = stack.enter_context(code.loop(extent, "chunk"))
            x_offset, index = x_offset + i * step, index * extent + i
        p = stack.enter_context(code.loop(parts, "part"))
        done = p * reduction.part
        steps = reduction.part if run % reduction.part == 0 else emit.minimum(reduction.part, run - done)
        count = reduction.steps // run * parts
        number = code.let(index * parts + p, "number")
        yield Chunk(
            x_offset + done * stride,
            index * run + done,
            ((code.let(steps), stride),),
            number < 1,
            number > count - 2,
        )


@dataclass(frozen=True, slots=True)
class Ahead:
    """What a tile prefetches: `pace` elements of the weight in every step, from element `at` on."""

    at: Expr
    pace: int


@dataclass(frozen=True, slots=True)
class Product:
    """What all tiles of a product share. `columns` are the output channels of a group of channels."""

    code: Code
    dot: Dot
    x: Buffer
    w: Buffer
    bias: Buffer | None
    output: Output
    k: int
    columns: int
    partial: Buffer | None = None

    def tile(
        self,
        chunk: Chunk,
        x_at: Sequence[Expr],
        y_at: Sequence[Expr],
        lanes: Sequence[int],
        *,
        column: Expr,
        channel: Expr,
        w_at: Expr = 0,
        partial_at: Expr = 0,
        turn: tuple[Expr, int] = (0, 1),
        total_at: Sequence[Expr] = (),
    ) -> None:
        """One tile's share of a chunk: rows begin in x at `x_at`, their outputs at `y_at`.

        `column` is the panel's first column in the group whose packed weight begins at `w_at`, `channel` its
        place among all channels. `partial_at` is where the accumulators wait. The tile is number turn[0] of
        the turn[1] that use the chunk. `total_at` are the elements where the totals of a row's channels
        begin, for a dot product that counts.
        """
        code = self.code
        tile = [[code.register(self.dot.acc_dtype, n) for n in lanes] for _ in x_at]

        def begin() -> None:
            start = self._start(column, channel, w_at, lanes)
            for row in tile:
                for register, value in zip(row, start, strict=True):
                    register.set(value)

        def finish() -> None:
            for number, (row, at) in enumerate(zip(tile, y_at, strict=True)):
                offset = 0
                for register, n in zip(row, lanes, strict=True):
                    value = register.get()
                    if self.dot.counts:
                        total = code.load(self.bias, total_at[number] + channel + offset, n)
                        value = total - value - value
                    self.output.store(at + offset, channel + offset, value)
                    offset += n

        waiting = list(_places(tile, lanes, partial_at))

        def resume() -> None:
            for register, at, n in waiting:
                register.set(code.load(self.partial, at, n))

        def pause() -> None:
            for register, at, _ in waiting:
                code.store(self.partial, at, register.get())

        code.choose(chunk.first, begin, resume)
        x_at = [at + chunk.x_offset for at in x_at]
        panel_at = code.let(w_at + column * self.k + chunk.step * (sum(lanes) * self.dot.group))
        ahead = self._ahead(chunk, panel_at, sum(lanes) * self.dot.group, *turn)
        accumulate(code, self.dot, self.x, x_at, self.w, panel_at, lanes, chunk.loops, tile, ahead)
        code.choose(chunk.last, finish, pause)

    def _ahead(self, chunk: Chunk, panel_at: Expr, step_elements: int, turn: Expr, turns: int) -> Ahead:
        """This tile's share of prefetching what follows the chunk in the packed weight."""
        steps: Expr = 1
        for extent, _ in chunk.loops:
            steps = steps * extent
        pace = -(-step_elements // turns)
        distance = steps * step_elements if turns > 2 else NEAR_LINES * self.dot.line
        return Ahead(self.code.let(panel_at + distance + turn * (steps * pace)), pace)

    def _start(self, column: Expr, channel: Expr, w_at: Expr, lanes: Sequence[int]) -> list[Expr]:
        """What a panel's accumulators start from: the bias and the correction for a shifted x."""
        values = []
        for n in lanes:
            value = emit.const(0, self.dot.acc_dtype, n)
            if self.bias is not None and not self.dot.counts:
                value = self.code.load(self.bias, channel, n)
            if self.dot.shift:
                at = w_at + self.columns * self.k + column * 4
                correction = tirx.reinterpret(emit.vector("int32", n), emit.load(self.w, at, 4 * n))
                value = self.code.let(value + correction)
            values.append(value)
            channel, column = channel + n, column + n
        return values


def _places(
    tile: list[list[Register]], lanes: Sequence[int], at: Expr
) -> Iterator[tuple[Register, Expr, int]]:
    """Every accumulator with its place in the workspace and its lanes."""
    offset = 0
    for row in tile:
        for register, n in zip(row, lanes, strict=True):
            yield register, at + offset, n
            offset += n


def accumulate(
    code: Code,
    dot: Dot,
    x: Buffer,
    x_at: Sequence[Expr],
    w: Buffer,
    w_at: Expr,
    lanes: Sequence[int],
    loops: Sequence[tuple[Expr, int]],
    tile: list[list[Register]],
    ahead: Ahead = Ahead(0, 0),
) -> None:
    """Adds to a tile's accumulators, [row][vector], the products of the steps of `loops`.

    `x_at` are the elements of x where each row begins, `w_at` the element where the panel begins.
    """
    width = sum(lanes) * dot.group

    def step(x_offset: Expr, w_offset: Expr) -> None:
        vectors = []
        column = 0
        for n in lanes:
            vectors.append(code.let(dot.load_w(w, w_offset + column * dot.group, n)))
            column += n
        for row, at in zip(tile, x_at, strict=True):
            value = code.let(dot.load_x(x, at + x_offset))
            spread: dict[int, Expr] = {}
            for register, weights, n in zip(row, vectors, lanes, strict=True):
                if n not in spread:
                    spread[n] = code.let(dot.spread(value, n))
                register.set(dot.accumulate(register.get(), spread[n], weights))

    def nest(depth: int, x_offset: Expr, index: Expr) -> None:
        if depth == len(loops):
            for element in range(0, ahead.pace, dot.line):
                emit.prefetch(code, w, ahead.at + index * ahead.pace + element)
            step(x_offset, w_at + index * width)
            return
        extent, stride = loops[depth]
        with code.loop(extent, f"k{depth}") as k:
            nest(depth + 1, x_offset + k * stride, index * extent + k)

    nest(0, 0, 0)
