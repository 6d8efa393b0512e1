"""Micro-op kernels: lists of (dst, src, wgt) indices, and the two loops of an instruction around them.

The published bitstream is pipelined without a check for reuse: the same accumulator must not come twice
within `PUBLISHED_SPACING` consecutive micro-ops of an instruction. Lists here keep to that; where a tile has
too few accumulators, micro-ops on spare ones are put in between (`spread`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from hardy.targets.fpga.isa import Alu, AluOpcode, Gemm
from hardy.targets.fpga.simulator.hazards import PUBLISHED_SPACING, too_close

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Loop:
    """A loop of an instruction: its count, and how far it moves each index."""

    count: int
    dst: int = 0
    src: int = 0
    wgt: int = 0


ONCE = Loop(1)


@dataclass(frozen=True, eq=False)
class Kernel:
    """Micro-ops int[n, 3] (dst, src, wgt) within an outer and an inner loop."""

    uops: Array
    outer: Loop = ONCE
    inner: Loop = ONCE
    spread: bool = field(default=False)
    """Whether micro-ops on spare accumulators were put in between."""

    @property
    def cycles(self) -> int:
        """Micro-ops that run."""
        return len(self.uops) * self.outer.count * self.inner.count

    def gemm(self, reset: bool = False) -> Gemm:
        """The instruction; its micro-op range is filled in when micro-ops are placed."""
        o, i = self._loops()
        return Gemm(
            (0, len(self.uops)), (o.count, i.count), (o.dst, i.dst), (o.src, i.src), (o.wgt, i.wgt), reset
        )

    def alu(self, opcode: AluOpcode, imm: int | None = None) -> Alu:
        """The instruction; its micro-op range is filled in when micro-ops are placed."""
        o, i = self._loops()
        return Alu(opcode, (0, len(self.uops)), (o.count, i.count), (o.dst, i.dst), (o.src, i.src), imm)

    def _loops(self) -> tuple[Loop, Loop]:
        # A factor of a loop that runs once means nothing; left in, it might not fit its field.
        outer, inner = (loop if loop.count > 1 else ONCE for loop in (self.outer, self.inner))
        return outer, inner


def uops(dst: Any, src: Any = 0, wgt: Any = 0) -> Array:
    """Micro-ops of arrays that broadcast together, in row-major order."""
    columns = np.broadcast_arrays(dst, src, wgt)
    return np.stack([np.asarray(c, np.int64).ravel() for c in columns], axis=1)


def run(
    dst: int, count: int, src: int = 0, wgt: int = 0, *, step: Loop | None = None, groups: Loop = ONCE
) -> Kernel:
    """One micro-op over `count` neighbouring accumulators, within a loop of groups."""
    return Kernel(uops(dst, src, wgt), groups, step or Loop(count, dst=1))


def is_hazardous(kernel: Kernel, instruction: Gemm | Alu) -> bool:
    """Whether the published bitstream would run a kernel's instruction wrongly."""
    return too_close(instruction, kernel.uops.astype(np.int32), PUBLISHED_SPACING) is not None


def spread(kernel: Kernel, spare: Sequence[int], *, reads_acc: bool = False) -> Kernel:
    """The kernel with micro-ops on spare accumulators wherever one would come too early.

    `reads_acc` says that `src` is an accumulator too (ALU). The loops must not move `dst`. A spare micro-op
    multiplies what the one before it does, or reads its own accumulator, whose value is never used.
    """
    if kernel.outer.dst * (kernel.outer.count - 1) or kernel.inner.dst * (kernel.inner.count - 1):
        raise AssertionError("spare accumulators need loops that do not move the destination")
    rows: list[tuple[int, int, int]] = []

    for dst, src, wgt in kernel.uops.tolist():
        needed = {dst, src} if reads_acc else {dst}
        while needed & (recent := {row[0] for row in rows[1 - PUBLISHED_SPACING :]}):
            free = next(s for s in spare if s not in recent)
            rows.append((free, free if reads_acc else rows[-1][1], rows[-1][2]))
        rows.append((dst, src, wgt))
    if kernel.outer.count * kernel.inner.count > 1:
        rows.extend((dst, *rows[-1][1:]) for dst in _seam([row[0] for row in rows], spare))
    return replace(kernel, uops=np.asarray(rows, np.int64), spread=True)


def _seam(sequence: list[int], spare: Sequence[int]) -> tuple[int, ...]:
    """The fewest spare accumulators between a sequence and its repetition."""
    reach = PUBLISHED_SPACING - 1
    end, begin = sequence[-reach:], (sequence * reach)[:reach]
    for count in range(PUBLISHED_SPACING + 1):
        for between in product(spare, repeat=count):
            # A short sequence meets itself again behind the seam.
            around = [*end, *between, *begin] if len(sequence) >= reach else [*(sequence + [*between]) * 3]
            near = (around[i : i + PUBLISHED_SPACING] for i in range(len(around)))
            if all(len(set(part)) == len(part) for part in near):
                return between
    raise AssertionError(f"{len(spare)} spare accumulators do not keep {sequence} from its repetition")


def pieces(kernel: Kernel, most: int) -> list[Kernel]:
    """The kernel in parts of at most `most` micro-ops, in order."""
    count = -(-len(kernel.uops) // most)
    return (
        [replace(kernel, uops=part) for part in np.array_split(kernel.uops, count)] if count > 1 else [kernel]
    )
