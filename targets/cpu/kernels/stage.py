"""Copies x into the workspace in the form the tiles read: padded, converted, without cache conflicts."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

from tvm import tirx

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.dot import Dot
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr

CACHE_LINE = 64
L1_SETS_BYTES = 4096  # addresses this far apart share a set of the first-level cache
SAFE_WAYS = 8  # lines of one set that a tile's rows may take (of 8 to 12 ways)


def conflicts(rows: int, stride_bytes: int) -> bool:
    """Whether that many rows, so far apart, fall into so few sets that they evict each other."""
    sets = L1_SETS_BYTES // gcd(stride_bytes, L1_SETS_BYTES)
    return -(-rows // sets) > SAFE_WAYS


def row_stride(elements: int, dot: Dot, bytes_each: int) -> int:
    """Elements between staged rows: whole groups and whole lines, an odd number of lines."""
    elements += -elements % dot.group
    lines = -(-elements * bytes_each // CACHE_LINE)
    return (lines | 1) * CACHE_LINE // bytes_each


def convert(value: Expr, source: str, dot: Dot) -> Expr:
    """Elements of type `source` as the tile wants them, `dot.shift` included."""
    lanes = emit.lanes_of(value)
    if dot.shift:
        flipped = tirx.reinterpret(emit.vector("uint8", lanes), value)
        return flipped ^ emit.const(128, "uint8", lanes)
    return value if source == dot.x_dtype else tirx.Cast(emit.vector(dot.x_dtype, lanes), value)


def runs(length: int, lanes: int) -> Iterator[tuple[int, int, int]]:
    """Cuts a row into loops of equal vectors: (start, vectors, lanes)."""
    if length >= lanes:
        yield 0, length // lanes, lanes
    start = length - length % lanes
    width = lanes
    while start < length:
        width //= 2
        if start + width <= length:
            yield start, 1, width
            start += width


def copy_row(
    code: Code, isa: Isa, dot: Dot, x: Buffer, source: str, x_at: Expr, to: Buffer, to_at: Expr, length: int
) -> None:
    """Copies `length` neighbouring elements, converted."""
    for start, count, lanes in runs(length, isa.lanes(dot.x_dtype)):
        with code.loop(count, "c") as i:
            at = i * lanes + start
            code.store(to, to_at + at, convert(code.load(x, x_at + at, lanes), source, dot))


def fill_row(code: Code, isa: Isa, dot: Dot, to: Buffer, to_at: Expr, length: int, value: int) -> None:
    """Stores `value` (with `dot.shift` added) in `length` neighbouring elements."""
    for start, count, lanes in runs(length, isa.lanes(dot.x_dtype)):
        with code.loop(count, "c") as i:
            code.store(to, to_at + (i * lanes + start), emit.const(value + dot.shift, dot.x_dtype, lanes))
