"""Arrays that people pass in, as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hardy.compiler.errors import InputError
from hardy.compiler.types import DType, TensorType

Array = torch.Tensor | np.ndarray[Any, Any]

# Element types that NumPy only has through ml_dtypes, by the name they have there.
_EXTENDED = {
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


def as_tensor(name: str, array: Array, expected: TensorType | None = None) -> torch.Tensor:
    """A contiguous CPU tensor of the same elements; InputError for what is no array of numbers.

    Arrays of bytes (as `np.load` gives for bf16 and f8) are read as `expected` if the width fits.
    """
    if isinstance(array, torch.Tensor):
        return array.detach().cpu().contiguous()
    if not isinstance(array, np.ndarray):
        raise InputError(f"input {name!r} must be a tensor or an array, got {type(array).__name__}")
    extended = _EXTENDED.get(array.dtype.name)
    if array.dtype.kind == "V" and extended is None and expected is not None:
        wanted = expected.dtype.torch
        if wanted in _EXTENDED.values() and wanted.itemsize == array.dtype.itemsize:
            extended = wanted
    # torch has no views of read-only or foreign-endian memory.
    array = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
    if extended is not None:
        flat = torch.from_numpy(array.reshape(-1).view(np.uint8))
        return flat.view(extended).reshape(array.shape)
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"input {name!r} cannot be used: no tensor holds elements of type {array.dtype}",
            hint=f"hardy has {', '.join(map(str, DType))}",
        ) from error
