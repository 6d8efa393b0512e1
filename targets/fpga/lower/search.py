"""Chooses the tiling of each layer: an analytic model ranks all that fit, the cycle model decides among the best.

The analytic model knows what the compute queue does and what is loaded how often; the cycle model runs the
layer's own program. Layers that look alike are searched once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from itertools import product
from typing import Any

from hardy.targets.fpga.board import Memory
from hardy.targets.fpga.config import Config
from hardy.targets.fpga.lower.constants import Constants
from hardy.targets.fpga.lower.geometry import Axis, Span, axes
from hardy.targets.fpga.lower.layer import Layer
from hardy.targets.fpga.lower.layout import ceil_div
from hardy.targets.fpga.lower.plan import Plan, Tiling

CONFIRMED = 10
"""Tilings of a layer that are tried in the cycle model."""
INSTRUCTION_CYCLES = 9
LOAD_CYCLES = 25
"""Cycles of an instruction beside its micro-ops, and of a load beside its bytes."""


@dataclass(frozen=True)
class Work:
    """What a layer needs at the least, in cycles, whatever its tiles.

    `gemm`: one micro-op for each product of whole blocks that reads real inputs (no padding) and for each
    residual's element; `alu`: shift and two limits, two cycles each, of every result, and for a max pool one
    maximum for each further row and column of a window; `bytes`: inputs, weights and results once.
    """

    gemm: int
    alu: int
    bytes: int
    padding: int
    """Further products of the layer that multiply padding."""

    def dma(self, memory: Memory) -> int:
        return ceil_div(self.bytes, memory.bytes_per_cycle) + memory.latency

    def bound(self, memory: Memory) -> int:
        """Cycles below which no program gets."""
        return max(self.gemm + self.alu, self.dma(memory))


def work(layer: Layer, constants: Constants, config: Config) -> Work:
    """The least work of a layer."""
    images, blocks = ceil_div(layer.shape[0], config.batch), constants.out_blocks
    taps, padded = 1, 1
    for axis in axes(layer):
        taps *= sum(axis.tap_span(k, Span(0, axis.conv)).size for k in range(axis.kernel))
        padded *= axis.kernel * axis.conv
    conv = images * blocks * layer.conv_shape[2] * layer.conv_shape[3]
    results = images * blocks * layer.out_shape[2] * layer.out_shape[3]
    products = images * blocks * constants.weights.count
    alu = 3 * results
    if layer.pool is not None:
        rows, columns = axes(layer)
        alu += images * blocks * (rows.conv * _maxima(columns) + columns.out * _maxima(rows))
    moved = (
        images * ceil_div(layer.shape[1], config.block) * layer.shape[2] * layer.shape[3]
        + conv * len(layer.residuals)
        + results
    )
    weights = blocks * constants.weights.count * layer.kernel[0] * layer.kernel[1]
    return Work(
        gemm=products * taps + conv * len(layer.residuals),
        alu=2 * alu,
        bytes=moved * config.inp_bytes + weights * config.wgt_bytes,
        padding=products * (padded - taps),
    )


def _maxima(axis: Axis) -> int:
    """Maxima along an axis: of each window, one for each position behind its first."""
    return sum(axis.conv_span(Span(o, o + 1)).size - 1 for o in range(axis.out))


def candidates(layer: Layer, constants: Constants, config: Config) -> Iterator[Plan]:
    """Plans worth a look that fit. Raises TargetError, naming the buffer, if the smallest does not."""
    Plan(layer, constants, config, Tiling(1, 1, 1, 1)).require_fit()
    rows, columns = axes(layer)
    for r, c in product(_parts(rows.out), _parts(columns.out, 6)):
        if r * c > config.acc_depth:
            continue
        for b, k in product(_parts(constants.out_blocks, 12), _parts(constants.weights.count, 8)):
            plan = Plan(layer, constants, config, Tiling(r, c, b, k))
            if plan.shortage() is not None:
                continue
            yield plan
            if len(plan.groups) > 1 and len(plan.windows) > 1:
                yield Plan(layer, constants, config, Tiling(r, c, b, k, weights_first=False))


def _parts(size: int, most: int = 64) -> list[int]:
    """Sizes of even parts, the whole first."""
    found = {ceil_div(size, count) for count in range(1, size + 1)}
    return sorted(found, reverse=True)[:most]


def predict(plan: Plan, memory: Memory) -> float:
    """About how many cycles a plan takes."""
    layer, constants, config = plan.layer, plan.constants, plan.config
    windows, groups, chunks = len(plan.windows), len(plan.groups), len(plan.chunks)
    tiles, steps = windows * groups, windows * groups * chunks
    least = work(layer, constants, config)
    positions = sum(w.positions for w in plan.windows) * constants.out_blocks
    conv = positions / max(1, constants.out_blocks * layer.conv_shape[2] * layer.conv_shape[3])
    compute = (
        least.gemm * conv
        + least.alu
        + positions * (1 + plan.spelled)
        + tiles * INSTRUCTION_CYCLES * (4 + len(constants.epilogue) + len(layer.residuals))
        + steps * INSTRUCTION_CYCLES
    )
    widest = max(w.positions for w in plan.windows)
    rows = max(w.rows.size for w in plan.windows)
    blocks, chunk = max(g.size for g in plan.groups), max(c.size for c in plan.chunks)
    listed = plan.taps * min(
        widest, *((blocks * widest // rows, chunk * widest // rows) if layer.pool is None else (widest,))
    )
    kernels = min(steps, chunks * (2 if tiles > 1 else 1) * min(windows, 3))
    uops = listed * (kernels if listed * kernels <= config.uop_depth else steps) / 2

    wgt_slots = config.wgt_depth // plan.weight_size
    inp_slots = (config.inp_depth - 1 - plan.residual_size * len(layer.residuals)) // plan.input_size
    weight_bytes = (steps // windows) * plan.weight_size * config.wgt_bytes
    input_bytes = sum(w.plane for w in plan.windows) * ceil_div(layer.shape[1], config.block) * config.inp_bytes
    if plan.tiling.weights_first:
        again = 1 if chunks <= wgt_slots else windows
        weight_traffic = weight_bytes * again
        input_traffic = input_bytes * (1 if windows * chunks <= inp_slots else groups)
        grouped = constants.weights.count < ceil_div(layer.shape[1], config.block)
        input_traffic = input_bytes if grouped else input_traffic
    else:
        input_traffic = input_bytes * (1 if chunks <= inp_slots else groups)
        weight_traffic = weight_bytes * (1 if groups * chunks <= wgt_slots else windows)
    results = windows and sum(w.outputs for w in plan.windows) * constants.out_blocks * config.out_bytes
    residual = positions * len(layer.residuals) * config.inp_bytes
    dma = (weight_traffic + input_traffic + results + residual) / memory.bytes_per_cycle
    dma += steps * LOAD_CYCLES
    start = (plan.weight_size * config.wgt_bytes + plan.input_size * config.inp_bytes) / memory.bytes_per_cycle
    end = plan.acc_size * config.out_bytes / memory.bytes_per_cycle
    serial = 0.0
    if inp_slots < 2 and input_traffic > plan.input_size * config.inp_bytes:
        serial += input_traffic / memory.bytes_per_cycle
    if wgt_slots < 2 and weight_traffic > plan.weight_size * config.wgt_bytes:
        serial += weight_traffic / memory.bytes_per_cycle
    return max(compute + uops, dma) + start + end + serial


@dataclass(frozen=True)
class Found:
    """The tiling chosen for a layer, the cycles of the layer alone with it, and how many were looked at."""

    tiling: Tiling
    cycles: float
    considered: int


def search(
    layer: Layer, constants: Constants, config: Config, memory: Memory, measure: Callable[[Plan], float]
) -> Found:
    """The best tiling of a layer. `measure` gives the cycles of a plan in the cycle model."""
    ranked = []
    for plan in candidates(layer, constants, config):
        ranked.append((predict(plan, memory), len(ranked), plan))
    tried = [(measure(plan), rank, plan) for rank, (_, _, plan) in enumerate(nsmallest(CONFIRMED, ranked))]
    cycles, _, plan = min(tried)
    return Found(plan.tiling, cycles, len(ranked))


def signature(layer: Layer, constants: Constants) -> tuple[Any, ...]:
    """What the cycles of a layer depend on: everything but the values of its constants."""
    return (
        layer.shape,
        layer.weights.shape,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.residuals,
        layer.pool,
        constants.spelled.shape,
        constants.vectors.shape,
        constants.early,
        constants.late,
        tuple((s.opcode, s.imm is None) for s in constants.epilogue),
        len(constants.before_pool),
    )
