"""The grid of real numbers that an integer type stands for, once its range is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.errors import UsageError
from hardy.compiler.types import DType

# The least scale: a smaller one is no normal f32, so that x / scale could become infinite.
LEAST_SCALE = 2.0**-100


@dataclass(frozen=True)
class Grid:
    """(q - zero_point) * scale for the integers q of a type.

    `symmetric`: the zero point is in the middle of the type (0 for signed types), except that an
    unsigned type starts at zero where no number is negative; signed types leave out their least
    integer. `power_of_two`: scales are powers of two. `real_zero`: zero points need not be whole, nor
    zero be on the grid.
    """

    dtype: DType
    symmetric: bool = False
    power_of_two: bool = False
    real_zero: bool = False

    def __post_init__(self) -> None:
        if not (self.dtype.is_integer and self.dtype.bits <= 8):
            raise UsageError(f"cannot quantize to {self.dtype}", hint="use i8, u8, i4 or u4")
        if self.symmetric and self.real_zero:
            raise UsageError("a symmetric grid has its zero point in the middle")

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest integer that is used."""
        low, high = self.dtype.range
        return (-high, high) if self.symmetric and low < 0 else (low, high)

    @property
    def levels(self) -> int:
        low, high = self.limits
        return high - low + 1

    def parameters(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Scales (f32) and zero points (f32, whole) that cover [low, high] and zero, elementwise.

        With `real_zero` they cover [low, high] alone, and zero points are any numbers. A range of one
        number gets the scale 1, so that no scale is ever zero.
        """
        least, greatest = self.limits
        low, high = low.double(), high.double()
        if not self.real_zero:
            low, high = low.clamp(max=0), high.clamp(min=0)
        if self.symmetric:
            bound = torch.maximum(-low, high)
            half = float(greatest) if least < 0 else (greatest - least) // 2
            scale = bound / half
            zero = torch.zeros_like(scale) if least < 0 else torch.full_like(scale, half + 1)
            if least == 0:
                positive = low == 0
                scale = torch.where(positive, bound / greatest, scale)
                zero = torch.where(positive, 0.0, zero)
        else:
            scale = (high - low) / (greatest - least)
            zero = torch.zeros_like(scale)
        scale = torch.where(scale == 0, 1.0, scale.clamp(min=LEAST_SCALE))
        if self.power_of_two:
            scale = torch.exp2(torch.ceil(torch.log2(scale)))
        scale = scale.float()
        if self.real_zero:
            zero = least - low / scale.double()
        elif not self.symmetric:
            zero = (least - low / scale.double()).round().clamp(least, greatest)
        return scale, zero.float()

    def quantize(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """The integers of x, as f32; scale and zero point broadcast with it."""
        if self.real_zero:
            return (x.float() / scale).add(zero).round().clamp(*self.limits)
        return (x.float() / scale).round().add(zero).clamp(*self.limits)

    def rounded(self, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """What x becomes when it is quantized and dequantized, f32."""
        return (self.quantize(x, scale, zero) - zero) * scale
