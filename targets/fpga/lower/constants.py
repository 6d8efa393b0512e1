"""What a layer's arithmetic becomes on VTA: weights in blocks, biases spelled as products, shifts, limits.

- The bias and the rounding term 2^(shift-1) are one number an output. The product of a constant input vector
  (127, ..., 127, 1) with a weight element whose rows spell that number in base 127 adds it in one micro-op of
  one cycle; the vector unit's ADD takes two cycles and an operand in the accumulators. It is used where the
  number is too large to spell.
- A residual enters the accumulators as a product with a diagonal of powers of two; beyond 2^7 it is
  accumulated first and shifted left before the convolution is added.
- The vector unit shifts by at most 15 to the right and 16 to the left at once.
- Limits that no sum can exceed are not applied.
- Where all weights are one number on the diagonal, as in pools and additions, they are one weight element.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
    """A residual accumulated by `times` products with the `element`-th extra weight, then a shift left.

    `by_block` says that the extra weights from `element` on are one an output block.
    """

    index: int
    element: int
    times: int
    left: int = 0
    by_block: bool = False


@dataclass(frozen=True, eq=False)
class Constants:
    """A layer's constants and steps for one configuration.

    `spelled` i8[output blocks, n, block, block]: the bias as weight elements, n to an output block; `extras`
    i8[m, block, block]: diagonals of powers of two for residuals; `vectors` i32[v, output blocks, batch,
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
    if layer.wide:
        epilogue.append(AluStep(AluOpcode.ADD, imm=0))
    elif not certain or np.any(least < layer.low):
        epilogue.append(AluStep(AluOpcode.MAX, imm=layer.low))
    if not layer.wide and (not certain or np.any(greatest > layer.high)):
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
    residual = sum((1 << np.asarray(k, np.int64) for k in layer.residuals), np.int64(0))
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
    elements: list[Array] = []

    def element(diagonals: Array) -> int:
        """The number of the first of some weight elements, given as i64[count, block]."""
        made = np.stack([np.diag(d) for d in diagonals]).astype(np.int8)
        for at in range(len(elements) - len(made) + 1):
            if np.array_equal(np.stack(elements[at : at + len(made)]), made):
                return at
        elements.extend(made)
        return len(elements) - len(made)

    first: list[ResidualStep] = []
    late: list[ResidualStep] = []
    for index, shifts in enumerate(layer.residuals):
        if np.ndim(shifts) == 0:
            k = int(shifts)
            left = k - IDENTITY_SHIFT if k > IDENTITY_SHIFT + 1 else 0
            small = min(k, IDENTITY_SHIFT)
            diagonals = np.full((1, config.block), 1 << small, np.int64)
            step = ResidualStep(index, element(diagonals), 1 << (k - left - small), left)
            (first if left else late).append(step)
        else:
            bands = list(_bands(np.asarray(shifts, np.int64), config.block))
            steps = [ResidualStep(index, element(d), 1, left, by_block=True) for left, d in bands]
            # All together, while the residual is on chip.
            (first if bands[0][0] else late).extend(steps)
    # The largest shift first: what is accumulated is shifted left on the way to the next.
    first.sort(key=lambda step: (-step.left, step.index))
    following = [step.left for step in first[1:]] + [0]
    early = [replace(step, left=step.left - after) for step, after in zip(first, following, strict=False)]
    stacked = np.stack(elements) if elements else np.zeros((0, config.block, config.block), np.int8)
    return tuple(early), tuple(late), stacked


def _bands(shifts: Array, block: int) -> Iterator[tuple[int, Array]]:
    """Shifts of the outputs by how far they are left of what a weight holds: that distance, and the weights'
    diagonals i64[output blocks, block], zero for outputs of another band."""
    padded = np.full(ceil_div(len(shifts), block) * block, -1, np.int64)
    padded[: len(shifts)] = shifts
    rest = padded.copy()
    while np.any(rest >= 0):
        left = max(int(rest.max()) - IDENTITY_SHIFT, 0)
        inside = rest >= left
        yield left, np.where(inside, 1 << np.maximum(rest - left, 0), 0).reshape(-1, block)
        rest[inside] = -1
