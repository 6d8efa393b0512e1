"""Micro-ops that follow too closely on others for a pipeline without interlocks.

The published HLS build declares that iterations do not depend on one another, so that a micro-op reads ACC
before one shortly in front of it has written. TVM's run time keeps any three micro-ops in a row apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hardy.targets.fpga.isa import Alu, Gemm

PUBLISHED_SPACING = 3


def too_close(i: Gemm | Alu, uops: NDArray[np.int32], spacing: int) -> int | None:
    """The first ACC element that is used again within `spacing` micro-ops; None where there is none.

    `uops` are the buffer's micro-ops, i32[depth, 3].
    """
    if isinstance(i, Gemm) and i.reset:
        return None
    written = _sequence(i, uops, 0, i.dst)
    used = [written]
    if isinstance(i, Alu) and i.imm is None:
        used.append(_sequence(i, uops, 1, i.src))
    for distance in range(1, min(spacing, written.size)):
        for later in used:
            same = later[distance:] == written[:-distance]
            if same.any():
                return int(later[distance:][same][0])
    return None


def _sequence(
    i: Gemm | Alu, uops: NDArray[np.int32], column: int, factors: tuple[int, int]
) -> NDArray[np.int32]:
    """The indices of one operand in the order of the micro-ops."""
    outer, inner = (np.arange(n, dtype=np.int32) * f for n, f in zip(i.loops, factors, strict=True))
    each = uops[i.uops[0] : i.uops[1], column]
    return (outer[:, None, None] + inner[:, None] + each).reshape(-1)
