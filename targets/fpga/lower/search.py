"""Chooses the tiling of each layer: an analytic model ranks all that fit, the cycle model tries the best.

The analytic model knows what the compute queue does and what is loaded how often; the cycle model runs the
layer's own program. Layers that look alike are searched once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from heapq import nsmallest
from itertools import product
from typing import Any

from hardy.targets.fpga.board import Memory
from hardy.targets.fpga.config import Config
from hardy.targets.fpga.isa import AluOpcode
from hardy.targets.fpga.lower.constants import Constants
from hardy.targets.fpga.lower.geometry import Axis, Span, Window, axes, window
from hardy.targets.fpga.lower.layer import Layer
from hardy.targets.fpga.lower.layout import ceil_div
from hardy.targets.fpga.lower.plan import Plan, Tiling

CONFIRMED = 6
"""Tilings of a layer that are tried in the cycle model."""
LEAST, OPERATIONS = 3, 1500
"""Tilings that are always tried; further ones while all have so many steps and ends of tiles together."""
WINDOWS = 256
"""Tilings of more windows are not looked at where others fit."""
INSTRUCTION_CYCLES = 9
LOAD_CYCLES = 25
"""Cycles of an instruction beside its micro-ops, and of a load beside its bytes."""


@dataclass(frozen=True)
class Work:
    """What a layer needs at the least, in cycles, whatever its tiles.

    `gemm`: one micro-op for each product of whole blocks that reads real inputs (no padding) and for each
    residual's element; `alu`: two cycles each for shift and limits of every result (not for limits that no
    sum exceeds) and for the maxima of a pool; `bytes`: inputs, weights and results once.
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
    alu = sum(step.opcode != AluOpcode.ADD for step in constants.epilogue) * results
    if layer.pool is not None:
        rows, columns = axes(layer)
        alu += images * blocks * (rows.conv * _maxima(columns) + columns.out * _maxima(rows))
    moved = (
        images * ceil_div(layer.shape[1], config.block) * layer.shape[2] * layer.shape[3]
        + conv * len(layer.residuals)
        + results
    )
    weights = blocks * constants.weights.count * layer.kernel[0] * layer.kernel[1]
    weights = weights if constants.uniform is None else 1
    return Work(
        gemm=products * taps + conv * len(layer.residuals),
        alu=2 * alu,
        bytes=moved * config.inp_bytes + weights * config.wgt_bytes,
        padding=products * (padded - taps),
    )


def _maxima(axis: Axis) -> int:
    """The least maxima along an axis.

    One for each position of a window behind its first; windows that share more than one position can share
    maxima too, and need as many as doubling takes.
    """
    sizes = [axis.conv_span(Span(o, o + 1)).size for o in range(axis.out)]
    shared = axis.pool_kernel - axis.pool_stride > 1
    return sum((size - 1).bit_length() if shared else size - 1 for size in sizes)


def candidates(layer: Layer, constants: Constants, config: Config) -> Iterator[Plan]:
    """Plans worth a look that fit. Raises TargetError, naming the buffer, if the smallest does not."""
    Plan(layer, constants, config, Tiling(1, 1, 1, 1)).require_fit()
    rows, columns = axes(layer)
    many = False
    for r, c in product(_parts(rows.out), _parts(columns.out, 6)):
        first = window(0, Span(0, r), Span(0, c), rows, columns)
        if first.positions > config.acc_depth or first.plane > config.inp_depth:
            continue
        if many and ceil_div(rows.out, r) * ceil_div(columns.out, c) > WINDOWS:
            continue
        for b, k in product(_parts(constants.out_blocks, 12), _parts(constants.weights.count, 8)):
            plan = Plan(layer, constants, config, Tiling(r, c, b, k))
            if plan.shortage() is not None:
                continue
            many = True
            yield plan
            for other in _orders(plan):
                if other.shortage() is None:
                    yield other


def plain(layer: Layer, constants: Constants, config: Config) -> Plan:
    """A fixed tiling: 7x7 results of one output block over all input blocks, halved until it fits."""
    rows, columns = axes(layer)
    sizes = [min(7, rows.out), min(7, columns.out), constants.weights.count]
    while True:
        r, c, k = sizes
        plan = Plan(layer, constants, config, Tiling(r, c, 1, k))
        if plan.shortage() is None:
            return plan
        if r == c == k == 1:
            plan.require_fit()
        at = 2 if k > 1 else 0 if r >= c else 1
        sizes[at] = ceil_div(sizes[at], 2)


def _orders(plan: Plan) -> Iterator[Plan]:
    """The same tiles in another order."""
    if len(plan.groups) > 1 and len(plan.windows) > 1:
        tiling = replace(plan.tiling, weights_first=False)
        yield Plan(plan.layer, plan.constants, plan.config, tiling)
    if plan.rows.carries and plan.tiling.rows < plan.rows.out:
        tiling = replace(plan.tiling, carry=True)
        yield Plan(plan.layer, plan.constants, plan.config, tiling)


def _parts(size: int, most: int = 64) -> list[int]:
    """Sizes of even parts, the whole first."""
    found = {ceil_div(size, count) for count in range(1, size + 1)}
    return sorted(found, reverse=True)[:most]


def predict(plan: Plan, least: Work, memory: Memory) -> float:
    """About how many cycles a plan takes; `least` is the layer's work."""
    layer, constants, config, grid = plan.layer, plan.constants, plan.config, plan.grid
    windows, groups, chunks = len(plan.windows), len(plan.groups), len(plan.chunks)
    tiles, steps = windows * groups, windows * groups * chunks
    positions = grid.all_positions * constants.out_blocks
    images = ceil_div(layer.shape[0], config.batch)
    repeated = positions / (images * constants.out_blocks * layer.conv_shape[2] * layer.conv_shape[3])
    compute = (
        (least.gemm + least.alu) * repeated
        + positions * (1 + plan.spelled)
        + tiles * INSTRUCTION_CYCLES * (4 + len(constants.epilogue) + len(layer.residuals))
        + steps * INSTRUCTION_CYCLES
    )

    # Micro-ops: what the best pair of loops leaves, for every place that the data of a step may have.
    height = max(w.rows.size for w in plan.windows[:3])
    listed = grid.positions
    if layer.pool is None:
        listed = min(listed, plan.blocks * grid.positions // height, plan.chunk * grid.positions // height)
    listed *= plan.taps
    if not any(map(any, layer.padding)):
        listed = min(listed, plan.blocks * plan.chunk * grid.positions)
    kernels = min(steps, chunks * min(tiles, 2) * min(windows, 3))
    uops = listed * (kernels if listed * kernels <= config.uop_depth else steps) / 2

    wgt_slots = plan.weight_slots
    free = plan.input_room - plan.residual_size * len(layer.residuals)
    inp_slots = free // max(plan.input_size, 1)
    input_blocks = ceil_div(layer.shape[1], config.block)
    # How often everything is loaded: inputs for each group of output blocks, weights for each window.
    dense = constants.weights.count == input_blocks
    input_turns = 1 if not dense or windows * chunks <= inp_slots else groups
    weight_turns = 1 if groups * chunks <= wgt_slots else windows
    if plan.tiling.weights_first and chunks <= wgt_slots:
        weight_turns = 1
    elif not plan.tiling.weights_first and chunks <= inp_slots:
        input_turns = 1
    step_input, step_weights = (
        _load_cycles(memory, plan.chunk, grid.plane * config.inp_bytes, plan.full_width, plan.windows[0]),
        _load_cycles(memory, 1, plan.weight_size * config.wgt_bytes, True, plan.windows[0]),
    )
    input_loads = windows * chunks * input_turns * (1 if dense else groups)
    weight_loads = groups * chunks * weight_turns if plan.weight_size else 0
    loads = input_loads * step_input + weight_loads * step_weights
    residual = positions * len(layer.residuals) * config.inp_bytes / memory.bytes_per_cycle
    start = step_input + step_weights
    end = plan.acc_size * config.out_bytes / memory.bytes_per_cycle
    stored = (
        images * constants.out_blocks * layer.stored_shape[2] * layer.stored_shape[3] * config.out_bytes
    ) / memory.bytes_per_cycle
    # With one place for what changes, nothing is loaded while the step before computes.
    serial = 0.0
    if inp_slots < 2 and input_loads > 1:
        serial += input_loads * step_input
    if wgt_slots < 2 and weight_loads > 1:
        serial += weight_loads * step_weights
    return max(compute + uops, loads + residual + stored) + start + end + serial


def _load_cycles(memory: Memory, blocks: int, nbytes: int, whole: bool, w: Window) -> float:
    """Cycles of the loads of `blocks` planes of `nbytes`, row by row unless as wide as the tensor."""
    rows = 1 if whole else max(w.in_height, 1)
    beats = nbytes / rows / memory.bytes_per_cycle
    bursts = max(1.0, beats / memory.burst)
    each = max(beats, (beats + memory.latency * bursts) / memory.outstanding)
    return blocks * rows * each + (1 if whole else blocks) * LOAD_CYCLES


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
    least = work(layer, constants, config)
    ranked = [
        (predict(plan, least, memory), n, plan) for n, plan in enumerate(candidates(layer, constants, config))
    ]
    tried: list[tuple[float, int, Plan]] = []
    operations = 0
    for _, n, plan in nsmallest(CONFIRMED, ranked):
        operations += len(plan.tiles) * (len(plan.chunks) + 1)
        if len(tried) >= LEAST and operations > OPERATIONS:
            break
        tried.append((measure(plan), n, plan))
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
        layer.pool,
        constants.spelled.shape,
        constants.vectors.shape,
        constants.early,
        constants.late,
        tuple((s.opcode, s.imm is None) for s in constants.epilogue),
        len(constants.before_pool),
        constants.uniform,
    )
