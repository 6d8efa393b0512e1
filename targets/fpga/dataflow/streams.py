"""Tensors as the streams of elements that the accelerator reads and writes, and back."""

from __future__ import annotations

import numpy as np
import torch

from hardy.compiler.types import TensorType
from hardy.targets.fpga.dataflow.ranges import Integers


def to_stream(value: torch.Tensor, order: Integers, bits: int = 0) -> Integers:
    """A value's elements in the order of its stream, i64; of packed ones the `bits` of the last axis."""
    data = value.numpy()
    if bits:
        data = np.unpackbits(data, axis=-1, count=bits, bitorder="little")
    return data.reshape(-1)[order.reshape(-1)].astype(np.int64)


def from_stream(stream: Integers, order: Integers, type: TensorType) -> torch.Tensor:
    """The tensor whose elements came in this order."""
    data = np.empty_like(stream)
    data[order.reshape(-1)] = stream
    return torch.from_numpy(data.reshape(type.shape)).to(type.dtype.torch)
