"""Max pools in the accumulators: along the columns, then along the rows, in place.

A window's result replaces its position of phase 0 (geometry.places). Windows go in ascending order, so that a
position is read by the windows before its own first, and none behind it reads it. Pools of stride 1, whose
windows all overlap, run in passes instead: each widens every maximum by one position to the right, and a last
one joins it with the maximum that ends where it begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.isa import AluOpcode
from hardy.targets.fpga.lower.geometry import Axis, Span, Window, places
from hardy.targets.fpga.lower.kernels import Kernel, Loop, is_hazardous, pieces, spread, uops
from hardy.targets.fpga.lower.plan import SPARE, Plan

Array = np.ndarray[Any, Any]


def check_pool(name: str, axes: tuple[Axis, Axis]) -> None:
    """Raises TargetError for a max pool that cannot be done in place."""
    for axis in axes:
        if axis.pool_kernel == 1 and axis.pool_padding == 0:
            continue
        if axis.pool_padding >= axis.pool_stride and not _in_passes(axis):
            raise TargetError(
                f"a max pool with kernel {axis.pool_kernel}, stride {axis.pool_stride} and padding "
                f"{axis.pool_padding} overwrites what its next window reads",
                where=name,
                hint="pad less than the stride, or, with stride 1, half the kernel",
            )
        if (axis.out - 1) * axis.pool_stride >= axis.conv:
            raise TargetError(
                "a window of the max pool begins behind the last position", where=name, hint="pad less"
            )


def _in_passes(axis: Axis) -> bool:
    return axis.pool_stride == 1 and axis.pool_kernel == 2 * axis.pool_padding + 1


@dataclass(frozen=True, eq=False)
class _Side:
    """Sums of a window as lines along an axis, int[lines, positions], and the span of those positions."""

    lines: Array
    span: Span
    window: Window

    def at(self, position: int) -> Array:
        return np.asarray(self.lines[:, position - self.span.start])


def pool_kernels(plan: Plan, w: Window, above: Window | None, blocks: int) -> Iterator[tuple[Kernel, bool]]:
    """The kernels of MAX for a tile, at accumulator 0; True for those whose `src` lies in the tile above."""
    columns, rows = plan.columns, plan.rows
    kept = np.arange(w.out_columns.start, w.out_columns.stop) * columns.pool_stride - w.columns.start
    place = places(w, rows, columns)
    across, down = _Side(place, w.columns, w), _Side(place[:, kept].T, w.rows, w)
    for kernel in _kernels(plan, columns, w.out_columns, across, across, blocks):
        yield kernel, False
    if above is not None:
        left = _Side(places(above, rows, columns)[:, kept].T, above.rows, above)
        for kernel in _kernels(plan, rows, w.out_rows, down, left, blocks):
            yield kernel, True
    for kernel in _kernels(plan, rows, w.out_rows, down, down, blocks):
        yield kernel, False


def _kernels(plan: Plan, axis: Axis, out: Span, to: _Side, source: _Side, blocks: int) -> list[Kernel]:
    """The kernels along an axis, of windows whose results replace positions of one side, from another."""
    order = _passes(axis, out, source.span) if _in_passes(axis) else _ascending(axis, out, source.span)
    pairs = [uops(to.at(target), source.at(read)) for target, read in order]
    if not pairs:
        return []
    steps = to.window.positions, source.window.positions
    kernel = Kernel(np.concatenate(pairs), Loop(blocks, *steps))
    if _hazardous(kernel, to is source):
        number = np.arange(blocks)[:, None]
        spelled = [uops(*(p[None, :, c] + number * steps[c] for c in (0, 1))) for p in pairs]
        kernel = Kernel(np.concatenate(spelled))
        if _hazardous(kernel, to is source):
            spare = range(steps[0] * blocks, steps[0] * blocks + SPARE)
            kernel = spread(kernel, spare, reads_acc=to is source)
    return pieces(kernel, plan.config.uop_depth // 2)


def _ascending(axis: Axis, out: Span, span: Span) -> Iterator[tuple[int, int]]:
    """Positions (replaced, read): window after window."""
    for o in range(out.start, out.stop):
        target = o * axis.pool_stride
        for read in range(target - axis.pool_padding, target - axis.pool_padding + axis.pool_kernel):
            if read != target and span.start <= read < span.stop:
                yield target, read


def _passes(axis: Axis, out: Span, span: Span) -> Iterator[tuple[int, int]]:
    """Positions (replaced, read) of a pool of stride 1 that reaches as far to the left as to the right."""
    reach = axis.pool_padding
    for _ in range(reach):
        for position in range(span.start, span.stop - 1):
            yield position, position + 1
    for target in reversed(range(out.start, out.stop)):
        if (read := max(target - reach, span.start)) != target:
            yield target, read


def _hazardous(kernel: Kernel, one_side: bool) -> bool:
    # Indices of another side lie elsewhere in the accumulators, so that destinations alone can meet.
    return is_hazardous(kernel, kernel.alu(AluOpcode.MAX) if one_side else kernel.gemm())
