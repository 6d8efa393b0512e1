"""A layer cut into tiles: which tiles, in which order, what each needs on chip, and whether it fits.

A tile is a window of the result times some output blocks. It is computed in steps, one for each chunk of
input blocks; a step needs a chunk of the input and a chunk of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.config import Config
from hardy.targets.fpga.lower.constants import Constants
from hardy.targets.fpga.lower.geometry import Axis, Span, Window, axes, window
from hardy.targets.fpga.lower.layer import Layer
from hardy.targets.fpga.lower.layout import ceil_div

SPARE = 3
"""Accumulators of a tile that no result uses (kernels.spread)."""
RESERVED_INPUTS = 1
"""Input elements that hold the constant input, at the end of the buffer."""


@dataclass(frozen=True)
class Tiling:
    """Sizes of a tile: result rows and columns, output blocks, and input blocks of a step.

    `weights_first`: the tiles of one set of output blocks follow one another, so that weights stay; else the
    tiles of one window do, so that inputs stay. `carry`: where windows of a max pool overlap, a tile leaves
    the rows that the next one below shares in the accumulators (weights stay, then).
    """

    rows: int
    columns: int
    blocks: int
    chunk: int
    weights_first: bool = True
    carry: bool = False

    def __str__(self) -> str:
        stays = ["weights" if self.weights_first else "inputs"] + ["shared rows"] * self.carry
        size = f"{self.rows}x{self.columns}x{self.blocks}"
        return f"{size} in steps of {self.chunk}, {' and '.join(stays)} stay"


@dataclass(frozen=True)
class Tile:
    """A tile: the number of its window, number and range of its output blocks, the window that carries."""

    window: int
    group: int
    blocks: Span
    above: int | None = None


@dataclass(frozen=True)
class Shortage:
    """A buffer that holds too few elements, and what for."""

    buffer: str
    what: str
    has: int
    needs: int


class Plan:
    """A layer in tiles. Whether they fit is what `shortage` says."""

    def __init__(self, layer: Layer, constants: Constants, config: Config, tiling: Tiling) -> None:
        self.layer, self.constants, self.config, self.tiling = layer, constants, config, tiling
        self.rows, self.columns = axes(layer)
        images = ceil_div(layer.shape[0], config.batch)
        self.grid = _grid(images, self.rows, self.columns, tiling.rows, tiling.columns, tiling.carry)
        self.windows = self.grid.windows
        self.groups = _spans(constants.out_blocks, tiling.blocks)
        self.chunks = _spans(constants.weights.count, tiling.chunk)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """The tiles in order. The inner order turns round each time, so that what is on chip serves again."""
        windows, groups = range(len(self.windows)), range(len(self.groups))
        result = []
        for turn, outer in enumerate(groups if self.tiling.weights_first else windows):
            inner = windows if self.tiling.weights_first else groups
            for i in inner if turn % 2 == 0 or self.tiling.carry else reversed(inner):
                w, g = (i, outer) if self.tiling.weights_first else (outer, i)
                above = w - 1 if self.windows[w].carried else None
                result.append(Tile(w, g, self.groups[g], above))
        return tuple(result)

    def in_blocks(self, blocks: Span, chunk: Span) -> Span:
        """The input blocks that a step of some output blocks reads."""
        start = self.constants.weights.start
        return Span(start[blocks.start] + chunk.start, start[blocks.stop - 1] + chunk.stop)

    @property
    def full_width(self) -> bool:
        """Whether windows read whole rows of the input, every one: a block's are one piece of DRAM."""
        w = self.windows[0]
        return w.in_columns.size == self.columns.size and self.rows.step == 1

    @cached_property
    def blocks(self) -> int:
        """Output blocks of the largest tile."""
        return max(g.size for g in self.groups)

    @cached_property
    def chunk(self) -> int:
        """Input blocks of the largest step."""
        return max(c.size for c in self.chunks)

    @cached_property
    def taps(self) -> int:
        return self.layer.kernel[0] * self.layer.kernel[1]

    @cached_property
    def block_weights(self) -> int:
        """Weight elements of an output and an input block; none of their own where all are the same."""
        return self.taps if self.constants.uniform is None else 0

    @cached_property
    def spelled(self) -> int:
        """Weight elements that spell the bias of an output block."""
        return int(self.constants.spelled.shape[1])

    @cached_property
    def input_size(self) -> int:
        """Input elements of the largest step."""
        most = self.chunk
        if self.constants.weights.start[-1]:
            most = max(self.in_blocks(g, c).size for g in self.groups for c in self.chunks)
        return most * self.grid.plane

    @property
    def input_room(self) -> int:
        """Input elements that layers may use."""
        return self.config.inp_depth - RESERVED_INPUTS

    @property
    def weight_slots(self) -> int:
        """Places for the weights of steps."""
        return (self.config.wgt_depth - len(self.constants.extras)) // max(self.weight_size, 1)

    @property
    def input_slots(self) -> int:
        """Places for inputs that are worth having: one step's beside those of a whole tile."""
        return len(self.chunks) + 1

    @cached_property
    def residual_size(self) -> int:
        """Input elements of the largest tile of a residual; 0 without one."""
        if not self.layer.residuals:
            return 0
        return self.grid.positions * self.blocks

    @cached_property
    def weight_size(self) -> int:
        """Weight elements of the largest step, with the bias spelled in front of the last."""
        return self.blocks * (self.chunk * self.block_weights + self.spelled)

    @cached_property
    def acc_size(self) -> int:
        """Accumulators of the largest tile."""
        return self.grid.positions * self.blocks + SPARE

    @cached_property
    def vector_size(self) -> int:
        """Accumulators that hold constants of a tile's output blocks."""
        return len(self.constants.vectors) * self.blocks

    def shortage(self) -> Shortage | None:
        """The first buffer that a tile exceeds."""
        config, residuals = self.config, len(self.layer.residuals)
        for buffer, what, has, needs in (
            (
                "input",
                "a step's input" + (" and residuals" if residuals else ""),
                self.input_room,
                self.input_size + self.residual_size * residuals,
            ),
            (
                "weight",
                "a step's weights",
                config.wgt_depth,
                self.weight_size + len(self.constants.extras),
            ),
            (
                "accumulator",
                "a tile's sums and constants",
                config.acc_depth,
                self.acc_size * (2 if self.tiling.carry else 1) + self.vector_size,
            ),
        ):
            if needs > has:
                return Shortage(buffer, what, has, needs)
        return None

    def require_fit(self) -> None:
        """Raises TargetError where a tile exceeds a buffer."""
        if (short := self.shortage()) is not None:
            raise TargetError(
                f"a tile of {self.tiling} needs {short.needs} elements of the {short.buffer} buffer for "
                f"{short.what}; configuration {self.config.name} has {short.has}",
                where=f"{self.layer.name}: {self.layer}",
                hint=f"use a configuration with a larger {short.buffer} buffer, or split the layer",
            )

    def weights_of(self, blocks: Span, number: int, chunk: Span) -> int:
        """Weight elements that a step loads: the `number`-th of a tile."""
        spelled = self.spelled if number == len(self.chunks) - 1 else 0
        return blocks.size * (chunk.size * self.block_weights + spelled)

    @cached_property
    def weight_offsets(self) -> tuple[tuple[int, ...], ...]:
        """Where the weights of each group and chunk begin among the layer's, in elements."""
        offset = len(self.constants.extras)
        result = []
        for g in self.groups:
            row = []
            for number, c in enumerate(self.chunks):
                row.append(offset)
                offset += self.weights_of(g, number, c)
            result.append(tuple(row))
        return tuple(result)


@dataclass(frozen=True)
class Grid:
    """The windows of a layer, with the largest and the sum of what they hold."""

    windows: tuple[Window, ...]
    positions: int
    plane: int
    outputs: int
    all_positions: int
    all_planes: int


@lru_cache(maxsize=4096)
def _grid(images: int, rows: Axis, columns: Axis, height: int, width: int, carry: bool) -> Grid:
    windows: list[Window] = []
    r_spans, c_spans = _spans(rows.out, height), _spans(columns.out, width)
    for image in range(images):
        if carry:
            for c in c_spans:
                above = None
                for r in r_spans:
                    above = window(image, r, c, rows, columns, above)
                    windows.append(above)
        else:
            windows.extend(window(image, r, c, rows, columns) for r in r_spans for c in c_spans)
    return Grid(
        tuple(windows),
        max(w.positions for w in windows),
        max(w.plane for w in windows),
        max(w.outputs for w in windows),
        sum(w.positions for w in windows),
        sum(w.plane for w in windows),
    )


@lru_cache(maxsize=4096)
def _spans(size: int, tile: int) -> tuple[Span, ...]:
    """[0, size) in as many spans as tiles of at most `tile` need, as even as they can be."""
    count = ceil_div(size, tile)
    edges = [size * i // count for i in range(count + 1)]
    return tuple(Span(a, b) for a, b in pairwise(edges))
