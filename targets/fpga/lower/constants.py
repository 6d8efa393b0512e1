"""What a layer's arithmetic becomes on VTA: weights in blocks, biases spelled as products, shifts, limits.

- The bias and the rounding term 2^(shift-1) are one number an output. The product of a constant input vector
  (127, ..., 127, 1) with a weight element whose rows spell that number in base 127 adds it in one micro-op of
  one cycle; the vector unit's ADD takes two cycles and an operand in the accumulators. It is used where the
  number is too large to spell.
- A residual enters the accumulators as a product with 2^k times the identity; beyond 2^7 it is accumulated
  first and shifted left before the convolution is added.
- The vector unit shifts by at most 15 to the right and 16 to the left at once.
- Limits that no sum can exceed are not applied.
- Where all weights are one number on the diagonal, as in pools and additions, they are one weight element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.isa import AluOpcode
from hardy.targets.fpga.lower.layer import Layer
from hardy.targets.fpga.lower.layout import BlockWeights, ceil_div, pack_vectors, pack_weights

Array = np.ndarray[Any, Any]

SPELLED_MICRO_OPS = 2
"""Micro-ops that a spelled bias may take: beyond, the vector unit is as fast."""
RIGHT_SHIFT = 15
LEFT_SHIFT = 16
IDENTITY_SHIFT = 6
"""The largest power of two that an i8 weight holds."""


@dataclass(frozen=True)
class AluStep:
    """An operation on every result, with an immediate or with the `vector`-th constant of its channels."""

    opcode: AluOpcode
    imm: int | None = None
    vector: int | None = None


@dataclass(frozen=True)
class ResidualStep:
    """A residual accumulated by `times` products with the `element`-th extra weight, then a shift left."""

    index: int
    element: int
    times: int
    left: int = 0


@dataclass(frozen=True, eq=False)
class Constants:
    """A layer's constants and steps for one configuration.

    `spelled` i8[output blocks, n, block, block]: the bias as weight elements, n to an output block; `extras`
    i8[m, block, block]: multiples of the identity for residuals; `vectors` i32[v, output blocks, batch,
    block]: operands of the vector unit. `uniform` is the number of the extra that is every weight element, if
    one is. `early` residuals come before the convolution, `late` ones behind.
    The spelled bias is added behind the pool, where there is less to add it to; where sums may wrap, which a
    maximum would notice, `before_pool` adds it.
    """

    weights: BlockWeights
    spelled: Array
    extras: Array
    vectors: Array
    early: tuple[ResidualStep, ...]
    late: tuple[ResidualStep, ...]
    epilogue: tuple[AluStep, ...]
    before_pool: tuple[AluStep, ...]
    uniform: int | None

    @property
    def out_blocks(self) -> int:
        return len(self.spelled)


def constant_input(config: Config) -> Array:
    """The input element that spelled biases are multiplied with: i8[batch, block]."""
    element = np.full((config.batch, config.block), 127, np.int8)
    element[:, -1] = 1
    return element


def spell(values: Array, config: Config, most: int = SPELLED_MICRO_OPS) -> Array | None:
    """i64[outputs] as i8[blocks, n, block, block] with the sum over n of rows times the constant input.

    None if that takes more than `most` elements.
    """
    block = config.block
    rest = np.zeros(ceil_div(len(values), block) * block, np.int64)
    rest[: len(values)] = values
    elements: list[Array] = []
    while np.any(rest):
        if len(elements) == most:
            return None
        element = np.zeros((len(rest), block), np.int64)
        for column in range(block - 1):
            element[:, column] = np.clip(np.rint(rest / 127), -127, 127).astype(np.int64)
            rest = rest - 127 * element[:, column]
        element[:, -1] = np.clip(rest, -127, 127)
        rest = rest - element[:, -1]
        elements.append(element.reshape(-1, block, block).astype(np.int8))
    if not elements:
        return np.zeros((len(rest) // block, 0, block, block), np.int8)
    return np.stack(elements, axis=1)


def constants(layer: Layer, config: Config) -> Constants:
    """The constants of a layer."""
    shifts = layer.shifts.astype(np.int64)
    bias = np.zeros(layer.outputs, np.int64) if layer.bias is None else layer.bias.astype(np.int64)
    added = bias + np.where(shifts > 0, 1 << np.maximum(shifts - 1, 0), 0)
    low, high = _sum_range(layer)
    least, greatest = np.minimum(low, low + added), np.maximum(high, high + added)
    wraps = bool(np.any(least < -(2**31)) or np.any(greatest >= 2**31))

    vectors: list[Array] = []
    epilogue: list[AluStep] = []
    before_pool: list[AluStep] = []
    if wraps and layer.pool is not None and np.any(bias):
        before_pool.append(AluStep(AluOpcode.ADD, vector=len(vectors)))
        vectors.append(bias.astype(np.int32))
        added = added - bias
    spelled = spell(added, config)
    if spelled is None:
        spelled = np.zeros((ceil_div(layer.outputs, config.block), 0, config.block, config.block), np.int8)
        epilogue.append(AluStep(AluOpcode.ADD, vector=len(vectors)))
        vectors.append(added.astype(np.int32))
    for step in _right_shifts(shifts):
        if isinstance(step, int):
            epilogue.append(AluStep(AluOpcode.SHR, imm=step))
        else:
            epilogue.append(AluStep(AluOpcode.SHR, vector=len(vectors)))
            vectors.append(step)
    # Where padding alone is read, nothing but an ALU operation may be what makes a result ready to be stored.
    certain = not wraps and not any(map(any, layer.padding))
    least, greatest = low + added >> shifts, high + added >> shifts
    if not certain or np.any(least < layer.low):
        epilogue.append(AluStep(AluOpcode.MAX, imm=layer.low))
    if not certain or np.any(greatest > layer.high):
        epilogue.append(AluStep(AluOpcode.MIN, imm=layer.high))

    early, late, extras = _residual_steps(layer, config)
    uniform = None
    if layer.groups == layer.shape[1] == layer.outputs and np.all(layer.weights == layer.weights.flat[0]):
        uniform = len(extras)
        element = np.eye(config.block, dtype=np.int8) * layer.weights.flat[0]
        extras = np.concatenate([extras, element[None]])
    packed = [pack_vectors(v, config) for v in vectors]
    return Constants(
        pack_weights(layer, config),
        spelled,
        extras,
        np.stack(packed) if packed else np.zeros((0, len(spelled), config.batch, config.block), np.int32),
        early,
        late,
        tuple(epilogue),
        tuple(before_pool),
        uniform,
    )


def _sum_range(layer: Layer) -> tuple[Array, Array]:
    """Bounds of an output's sum without its bias, whatever the inputs: i64[outputs] each."""
    weights = layer.weights.reshape(layer.outputs, -1).astype(np.int64)
    positive, negative = np.maximum(weights, 0).sum(1), np.minimum(weights, 0).sum(1)
    residual = sum(1 << k for k in layer.residuals)
    return (
        -128 * positive + 127 * negative - 128 * residual,
        127 * positive - 128 * negative + 127 * residual,
    )


def _right_shifts(shifts: Array) -> list[int | Array]:
    """Shifts that the vector unit can do at once: numbers where all outputs agree, else i32[outputs]."""
    steps: list[int | Array] = []
    rest = shifts
    while np.any(rest):
        step = np.minimum(rest, RIGHT_SHIFT)
        steps.append(int(step[0]) if np.all(step == step[0]) else step.astype(np.int32))
        rest = rest - step
    return steps


def _residual_steps(
    layer: Layer, config: Config
) -> tuple[tuple[ResidualStep, ...], tuple[ResidualStep, ...], Array]:
    exponents: list[int] = []

    def element(exponent: int) -> int:
        if exponent not in exponents:
            exponents.append(exponent)
        return exponents.index(exponent)

    early: list[ResidualStep] = []
    late: list[ResidualStep] = []
    # The largest shift first: what is accumulated is shifted left on the way to the next.
    widened = sorted(
        ((k - IDENTITY_SHIFT, i) for i, k in enumerate(layer.residuals) if k > IDENTITY_SHIFT + 1),
        reverse=True,
    )
    for position, (left, index) in enumerate(widened):
        following = widened[position + 1][0] if position + 1 < len(widened) else 0
        early.append(ResidualStep(index, element(IDENTITY_SHIFT), 1, left - following))
    for index, k in enumerate(layer.residuals):
        if k <= IDENTITY_SHIFT + 1:
            small = min(k, IDENTITY_SHIFT)
            late.append(ResidualStep(index, element(small), 1 << (k - small)))
    identity = np.eye(config.block, dtype=np.int64)
    extras = [(identity << e).astype(np.int8) for e in exponents]
    stacked = np.stack(extras) if extras else np.zeros((0, config.block, config.block), np.int8)
    return tuple(early), tuple(late), stacked
