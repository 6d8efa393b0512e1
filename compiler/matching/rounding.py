"""Numbers as files and types round them."""

from __future__ import annotations

import math

import numpy as np
import torch

from hardy.compiler.types import DType


def same_number(a: float, b: float, dtype: DType) -> bool:
    """Equal but for the rounding of constants in a file or in the type itself."""
    if not dtype.is_float or a == b:
        return a == b
    near = max(4 * torch.finfo(dtype.torch).eps, 1e-8)
    return math.isclose(a, b, rel_tol=near)


def shortest(number: float, dtype: DType) -> float:
    """The number with the fewest digits that rounds to this one in the type: 1e-5 for 9.99999974e-6."""
    kind = {DType.f32: np.float32, DType.f16: np.float16}.get(dtype)
    return number if kind is None else float(str(kind(number)))
