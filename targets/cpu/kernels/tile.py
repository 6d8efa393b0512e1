"""Register tiles: which tile a matrix product uses, and how its weight is packed for it.

A tile is `rows` pixels (or matrix rows) by a few vectors of output channels. Output channels are cut into
panels; the packed weight holds one panel after the other, each as [K, panel width], so that a tile reads its
weight as one stream. A panel's width is a sum of vector widths; channels beyond the last full vector take
narrower vectors (13 = 8 + 4 + 1), so nothing is read or written out of bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels.dot import Dot
from hardy.targets.cpu.kernels.kernel import Array

LATENCY = 4  # cycles of a fused multiply-add
L2_BYTES_A_CYCLE = 32  # what one core sustains from its second-level cache


@dataclass(frozen=True, slots=True)
class Panels:
    """`count` neighbouring panels of the same vectors that start at output channel `start`."""

    start: int
    count: int
    lanes: tuple[int, ...]

    @property
    def width(self) -> int:
        return sum(self.lanes)


def cut_columns(columns: int, vectors: int, lanes: int) -> list[Panels]:
    """Cuts the output channels into panels of `vectors` full vectors, and one panel of what is left."""
    width = vectors * lanes
    panels = [Panels(0, columns // width, (lanes,) * vectors)] if columns >= width else []
    if rest := columns % width:
        panels.append(Panels(columns - rest, 1, _cut_vectors(rest, lanes)))
    return panels


def _cut_vectors(columns: int, lanes: int) -> tuple[int, ...]:
    cut = [lanes] * (columns // lanes)
    rest = columns % lanes
    cut += [1 << bit for bit in reversed(range(lanes.bit_length())) if rest >> bit & 1]
    return tuple(cut)


def packed_elements(k: int, columns: int, dot: Dot) -> int:
    """Elements of the packed weight: whole groups of K, four bytes a column for the shift's correction."""
    return (k + -k % dot.group + (4 if dot.shift else 0)) * columns


def pack_weight(weight: Array, panels: Sequence[Panels], dot: Dot) -> Array:
    """Packs [K, N] as the tiles read it: a panel after the other, [K / group, width, group] each.

    K is filled up to whole groups with zeros. Where x is shifted, the products of the shift with the weights,
    negated, follow as the bytes of an i32 for every column.
    """
    sums = weight.astype(np.int64).sum(0) if dot.shift else None
    if fill := -weight.shape[0] % dot.group:
        weight = np.concatenate([weight, np.zeros((fill, weight.shape[1]), weight.dtype)])
    weight = weight.astype(dot.w_dtype, copy=False)
    grouped = weight.reshape(-1, dot.group, weight.shape[1]).transpose(0, 2, 1)
    pieces = [
        grouped[:, p.start + i * p.width : p.start + (i + 1) * p.width].reshape(-1)
        for p in panels
        for i in range(p.count)
    ]
    if sums is not None:
        pieces.append((-dot.shift * sums).astype(np.int32).view(dot.w_dtype))
    return np.ascontiguousarray(np.concatenate(pieces))


@cache
def tile_cycles(rows: int, lanes: tuple[int, ...], isa: Isa) -> float:
    """Cycles of one step of K in a tile, estimated: two multiply-adds and two loads a cycle."""
    vectors = len(lanes)
    arithmetic = rows * vectors / 2 * (1 if isa.fma else 2)
    loads = (rows + vectors) / 2
    stream = sum(lanes) * 4 / L2_BYTES_A_CYCLE
    return max(arithmetic, loads, stream, LATENCY) + 0.5


def fitting_tiles(isa: Isa, columns: int, lanes: int) -> Iterator[tuple[int, int]]:
    """Every (rows, vectors) whose accumulators, weight vectors and one broadcast fit the register file."""
    widest = max(1, min(isa.registers // 2, -(-columns // lanes)))
    spare = 1 if isa.fma else 2
    for vectors in range(1, widest + 1):
        most = (isa.registers - spare - vectors) // vectors
        for rows in range(1, most + 1):
            yield rows, vectors


def column_cycles(rows: int, panels: Sequence[Panels], isa: Isa) -> float:
    """Cycles of one step of K for `rows` rows over all output channels, estimated."""
    return sum(p.count * tile_cycles(rows, p.lanes, isa) for p in panels)


def choose_tile(total: int, columns: int, isa: Isa, lanes: int, most_rows: int = 32) -> tuple[int, int]:
    """The (rows, vectors) of the tile that covers total x columns in the fewest estimated cycles."""

    def cost(tile: tuple[int, int]) -> tuple[float, int]:
        rows, vectors = tile
        panels = cut_columns(columns, vectors, lanes)
        cycles = total // rows * column_cycles(rows, panels, isa)
        if total % rows:
            cycles += column_cycles(total % rows, panels, isa)
        return cycles, -rows * vectors

    usable = [t for t in fitting_tiles(isa, columns, lanes) if t[0] <= min(total, most_rows)]
    return min(usable, key=cost)
