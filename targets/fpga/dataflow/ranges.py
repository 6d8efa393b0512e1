"""Ranges of integers: every type in the generated code is the narrowest that holds one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

I32 = (-(2**31), 2**31 - 1)


@dataclass(frozen=True)
class Range:
    """The integers low..high."""

    low: int
    high: int

    @staticmethod
    def of(low: Integers, high: Integers) -> Range:
        """What holds the ranges of all channels."""
        return Range(int(low.min()), int(high.max()))

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def bits(self) -> int:
        """Bits of the narrowest two's complement or unsigned type; at least one."""
        if self.signed:
            return max(self.high.bit_length(), (-self.low - 1).bit_length()) + 1
        return max(self.high.bit_length(), 1)

    @property
    def cpp(self) -> str:
        """The type in the generated code, which stands on `library/integers.h`."""
        return f"{'Int' if self.signed else 'UInt'}<{self.bits}>"

    @property
    def stored(self) -> str:
        """The type of an element in memory."""
        width = next(w for w in (8, 16, 32, 64) if w >= self.bits)
        return f"{'int' if self.signed else 'uint'}{width}_t"

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"


BIT = Range(0, 1)
SIGN = Range(-1, 1)
