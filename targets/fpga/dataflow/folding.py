"""Folding: how many outputs and inputs of a layer are computed at once, and on what.

A layer is folded PE-fold in its outputs and SIMD-fold in its inputs (the terms of FINN, Umuroglu et al.,
2017, arXiv:1612.07119), both divisors of their channels; windows come a tap or all taps at a time. That
sets its initiation interval, the cycles between two frames; the slowest stage sets that of the
accelerator.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hardy.targets.fpga.dataflow.layers import (
    Elementwise,
    Layer,
    MaxPool,
    Product,
    WholeImage,
    Window,
)
from hardy.targets.fpga.dataflow.ranges import Range
from hardy.targets.fpga.dataflow.resources import (
    CONTROL,
    Resources,
    adder_tree,
    multiplier,
    popcount,
    ram,
    rom,
    signed_input,
)
from hardy.targets.fpga.dataflow.steps import Affine, Join, Limit, RoundShift, Threshold

ROW_GAP = 4  # cycles between two rows of a window: the loop over a row is entered anew


@dataclass(frozen=True)
class Fold:
    """`pe` outputs at once from `lanes` channels of `taps` taps; products on "dsp" or "lut", weights in
    "bram" or "lut"."""

    pe: int
    lanes: int
    taps: int = 1
    multiply: str = "lut"
    memory: str = "lut"

    @property
    def simd(self) -> int:
        return self.lanes * self.taps


@dataclass(frozen=True)
class Option:
    """A folding of a layer with what it takes: cycles a frame, and resources."""

    fold: Fold
    cycles: int
    resources: Resources


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def folds(layer: Layer) -> Iterator[Fold]:
    """Every way to fold a layer."""
    head = layer.head
    taps = sorted({1, layer.taps})
    if isinstance(head, Product):
        outputs = divisors(head.weights.shape[0] // head.groups)
        inputs = divisors(head.weights.shape[1])
    else:
        outputs, inputs = divisors(layer.channels), [0]
    uses = ["lut"] if layer.weights is None or _is_cheap(layer) else ["dsp", "lut"]
    memories = ["lut"] if layer.weights is None else ["bram", "lut"]
    for pe, lanes, t, multiply, memory in itertools.product(outputs, inputs, taps, uses, memories):
        yield Fold(pe, lanes or pe, t, multiply, memory)


def _is_cheap(layer: Layer) -> bool:
    """Whether products are of bits or signs, for which a DSP slice would be a waste."""
    return layer.sign_weights or min(layer.x.bits, layer.w.bits) <= 2


def steps_of(layer: Layer, fold: Fold) -> int:
    """Tokens of inputs for one fold of outputs."""
    taps = layer.taps // fold.taps
    if isinstance(layer.head, Product):
        return int(layer.head.weights.shape[1]) // fold.lanes * taps
    return int(layer.head.weights.shape[1]) if isinstance(layer.head, WholeImage) else taps


def folds_of(layer: Layer, fold: Fold) -> int:
    """Vectors of outputs in a pixel; of each group, for a product."""
    head = layer.head
    if isinstance(head, Product):
        return int(head.weights.shape[0]) // head.groups // fold.pe
    return layer.channels // fold.pe


def head_cycles(layer: Layer, fold: Fold) -> int:
    groups = layer.head.groups if isinstance(layer.head, Product) else 1
    return layer.output.pixels * groups * folds_of(layer, fold) * steps_of(layer, fold)


def window_rows(window: Window, tokens: int) -> list[tuple[int, int]]:
    """Of a window that sends a tap at a time: tokens taken in and sent while each row of positions is sent.

    A pixel is `tokens` tokens. The first entry is what must be there before the first frame; the last row
    of a frame takes in what the next one needs.
    """
    height, width = window.size
    rows, columns = window.positions
    ends = [y * window.strides[0] - window.padding[0][0] + window.span[0] for y in range(rows)]
    seen = [min(max(end, 0), height) for end in ends]
    wanted = [*seen, height + seen[0]]
    loads = [seen[0], *[after - before for before, after in itertools.pairwise(wanted)]]
    sends = columns * tokens * window.taps
    return [(n * width * tokens, sends if i else 0) for i, n in enumerate(loads)]


def rows_ahead(window: Window) -> int:
    """The most rows that a window takes in while it sends a row."""
    width = window.size[1]
    return max(loads // width for loads, sends in window_rows(window, 1) if sends)


def padded(window: Window) -> tuple[int, int]:
    """Rows and columns that a window sees which sends all taps at once."""
    return tuple(  # type: ignore[return-value]  # two of each
        max((count - 1) * step + span, low + n)
        for count, step, span, (low, _), n in zip(
            window.positions, window.strides, window.span, window.padding, window.size, strict=True
        )
    )


def window_cycles(layer: Layer, fold: Fold) -> int:
    if layer.window is None:
        return 0
    tokens = layer.channels // fold.lanes
    if fold.taps == layer.taps and fold.taps > 1:
        return math.prod(padded(layer.window)) * tokens
    return sum(max(pair) + ROW_GAP for pair in window_rows(layer.window, tokens)[1:])


def cycles(layer: Layer, fold: Fold) -> int:
    """The initiation interval of a layer with its window."""
    return max(head_cycles(layer, fold), window_cycles(layer, fold))


def options(layer: Layer) -> list[Option]:
    """The foldings of a layer that no other beats in everything, fastest first."""
    every = [Option(f, cycles(layer, f), layer_resources(layer, f)) for f in folds(layer)]
    every.sort(key=lambda o: (o.cycles, o.resources.amounts))
    amounts = np.array([o.resources.amounts for o in every])
    kept: list[int] = []
    for i in range(len(every)):
        if not (amounts[kept] <= amounts[i]).all(1).any():
            kept.append(i)
    return [every[i] for i in kept]


def layer_resources(layer: Layer, fold: Fold) -> Resources:
    """An estimate for a layer with its window."""
    total = CONTROL + tail_resources(layer, fold)
    if layer.window is not None:
        total += window_resources(layer, layer.window, fold)
    sums = layer.sums.bits
    if isinstance(layer.head, MaxPool):
        return total + Resources(lut=2 * sums, ff=sums) * (fold.pe * fold.taps)
    if isinstance(layer.head, Elementwise):
        return total
    terms = fold.simd if isinstance(layer.head, Product) else fold.taps
    total += _terms(layer, fold, terms) * fold.pe
    total += Resources(lut=sums, ff=sums) * fold.pe
    assert layer.weights is not None
    depth = layer.weights.size // (fold.pe * terms)
    total += rom(depth, terms * layer.w.bits, fold.memory) * fold.pe
    if isinstance(layer.head, Product) and folds_of(layer, fold) > 1:
        total += ram(steps_of(layer, fold), fold.simd * layer.x.bits)
    if isinstance(layer.head, WholeImage):
        total += ram(folds_of(layer, fold), fold.pe * sums)
    return total


def _terms(layer: Layer, fold: Fold, terms: int) -> Resources:
    """The sum of `terms` products."""
    if layer.is_xnor:
        return popcount(terms)
    x, w = layer.x.bits, layer.w.bits
    if layer.sign_weights:
        return signed_input(x) * terms + adder_tree(terms, x + 1)
    return multiplier(x, w, fold.multiply) * terms + adder_tree(terms, x + w)


def window_resources(layer: Layer, window: Window, fold: Fold) -> Resources:
    """Line buffers and their control."""
    width = layer.input.range.bits * fold.lanes
    tokens = layer.channels // fold.lanes
    if fold.taps == layer.taps and fold.taps > 1:
        width = layer.x.bits * fold.lanes
        rows, columns = window.span
        line = ram(padded(window)[1] * tokens, width) * (rows - 1)
        taps = ram(tokens, width) * (rows * columns)
        return line + taps + CONTROL + Resources(lut=80)
    rows = window.span[0] + rows_ahead(window)
    return ram(rows * window.size[1] * tokens, width) + CONTROL + Resources(lut=120, ff=60)


def tail_resources(layer: Layer, fold: Fold) -> Resources:
    """The steps after a sum, once for each output at a time, and the memories of their constants."""
    total = Resources()
    widths = layer.widths
    places = layer.output.channels // fold.pe

    def constants(values: int, bits: int) -> Resources:
        return Resources() if values == 1 else rom(places, bits, "lut")

    for step, before, after in zip(layer.steps, widths, widths[1:], strict=False):
        if isinstance(step, Affine | Join):
            offset = Range(int(step.offset.min()), int(step.offset.max()))
            scale = Range(int(step.scale.min()), int(step.scale.max()))
            if step.offset.any() or isinstance(step, Join):
                total += Resources(lut=after.bits, ff=after.bits)
            total += constants(step.offset.size, offset.bits)
            if (abs(step.scale) & (abs(step.scale) - 1)).any():
                total += multiplier(before.bits, scale.bits, "lut")
            total += constants(step.scale.size, scale.bits)
        elif isinstance(step, RoundShift):
            shifter = before.bits * 2 if step.shift.size > 1 else 0
            total += Resources(lut=before.bits + shifter, ff=after.bits)
            total += constants(step.shift.size, 5)
        elif isinstance(step, Limit):
            total += Resources(lut=before.bits // 2 + after.bits, ff=after.bits)
            total += constants(step.least.size, before.bits) + constants(step.most.size, before.bits)
        elif isinstance(step, Threshold):
            total += Resources(lut=(before.bits + 1) // 2, ff=1)
            total += constants(step.least.size, before.bits)
    return total * fold.pe
