"""Estimates of what a stage takes of the chip: LUTs, flip-flops, DSP slices and block RAMs of 18 Kbit.

There is no synthesizer for HLS C++ here, so these are models, documented in docs/dataflow.md with what they
were calibrated against: sums over multipliers, adders, memories and control of what the generated code
describes, in terms of 6-input LUTs, DSP48 slices and RAMB18 blocks (AMD UG474, UG479, UG473).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# A RAMB18 as depths and widths (UG473, table 1-7).
SHAPES = ((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18), (512, 36))
# LUTs, fitted to Yosys (docs/dataflow.md): for each pair of bits of a product, each bit that is multiplied by
# -1, 0 or 1, each bit that is negated or not, each bit of a sum, and each pair of bits compared.
PRODUCT_LUT, TERNARY_LUT, SIGN_LUT, ADDER_LUT, POPCOUNT_LUT = 1.55, 2.0, 1.2, 1.36, 2.2
CONTROL_LUT, CONTROL_FF = 60, 80  # of a process: counters, handshakes
KINDS = ("lut", "ff", "dsp", "bram")


@dataclass(frozen=True)
class Resources:
    """LUTs, flip-flops, DSP slices and RAMB18 blocks."""

    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.lut + other.lut, self.ff + other.ff, self.dsp + other.dsp, self.bram + other.bram
        )

    def __mul__(self, times: int) -> Resources:
        return Resources(self.lut * times, self.ff * times, self.dsp * times, self.bram * times)

    def fits(self, budget: Resources) -> bool:
        return all(mine <= theirs for mine, theirs in zip(self.amounts, budget.amounts, strict=True))

    @property
    def amounts(self) -> tuple[int, int, int, int]:
        return self.lut, self.ff, self.dsp, self.bram

    def share(self, budget: Resources) -> float:
        """The largest part of a budget that this takes."""
        return max(mine / max(theirs, 1) for mine, theirs in zip(self.amounts, budget.amounts, strict=True))


CONTROL = Resources(lut=CONTROL_LUT, ff=CONTROL_FF)


def block_rams(depth: int, width: int) -> int:
    """RAMB18 blocks of a memory of `depth` words of `width` bits, in the best of their shapes."""
    return min(math.ceil(depth / d) * math.ceil(width / w) for d, w in SHAPES)


def rom(depth: int, width: int, memory: str) -> Resources:
    """A read-only memory in block RAM or in LUTs, of which each holds 64 bits."""
    if depth == 1:
        return Resources()
    if memory == "bram":
        return Resources(ff=width, bram=block_rams(depth, width))
    return Resources(lut=width * math.ceil(depth / 64), ff=width)


def ram(depth: int, width: int) -> Resources:
    """A memory with one write and one read: registers, LUTs (32 bits each, with two ports) or block RAM."""
    if depth == 1:
        return Resources(ff=width)
    if depth * width <= 2048 or depth <= 64:
        return Resources(lut=math.ceil(depth / 32) * width, ff=width)
    return Resources(ff=width, bram=block_rams(depth, width))


def fifo(depth: int, width: int) -> Resources:
    """A FIFO in shift registers (32 bits a LUT) up to a depth of 64, then in block RAM."""
    if depth <= 64:
        return Resources(lut=width * math.ceil(depth / 32) + 12, ff=width + 12)
    return Resources(lut=30, ff=width + 30, bram=block_rams(depth, width))


def multiplier(a: int, b: int, where: str) -> Resources:
    """A product of a bits and b bits. Two bits (-1, 0, 1) need no more than a selection and a sign."""
    if where == "dsp":
        return Resources(dsp=math.ceil(max(a, b) / 25) * math.ceil(min(a, b) / 18))
    if min(a, b) <= 2:
        return Resources(lut=math.ceil(TERNARY_LUT * (max(a, b) + 1)))
    return Resources(lut=math.ceil(PRODUCT_LUT * a * b), ff=a + b)


def signed_input(bits: int) -> Resources:
    """A number of so many bits or its negative, as a sign says."""
    return Resources(lut=math.ceil(SIGN_LUT * bits))


def adder_tree(terms: int, width: int) -> Resources:
    """A sum of `terms` numbers of `width` bits, by pairs."""
    lut, level = 0, 0
    while terms > 1:
        lut += terms // 2 * (width + level)
        terms -= terms // 2
        level += 1
    return Resources(lut=math.ceil(ADDER_LUT * lut), ff=lut // 2)


def popcount(bits: int) -> Resources:
    """The number of equal bits in two words."""
    return Resources(lut=math.ceil(POPCOUNT_LUT * bits), ff=bits.bit_length() + bits // 3)
