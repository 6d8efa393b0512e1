"""How tensors lie in DRAM: blocks of batch and channels innermost, one block an element of a buffer.

Activations: (N / batch, C / block, rows, columns, batch, block); weights: (O / block, I / block, rows,
columns, block of outputs, block of inputs). What is missing to a whole block is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.lower.layer import Layer, Shape

Array = np.ndarray[Any, Any]


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def packed_shape(shape: Shape, config: Config) -> tuple[int, ...]:
    """The shape of a packed activation."""
    n, c, rows, columns = shape
    blocks = ceil_div(n, config.batch), ceil_div(c, config.block)
    return *blocks, rows, columns, config.batch, config.block


def pack_activation(x: Array, config: Config) -> Array:
    """i8[n, c, rows, columns] to its packed form."""
    n, c, rows, columns = x.shape
    nb, cb = ceil_div(n, config.batch), ceil_div(c, config.block)
    padded = np.zeros((nb * config.batch, cb * config.block, rows, columns), np.int8)
    padded[:n, :c] = x
    blocked = padded.reshape(nb, config.batch, cb, config.block, rows, columns)
    return np.ascontiguousarray(blocked.transpose(0, 2, 4, 5, 1, 3))


def unpack_activation(packed: Array, shape: Shape) -> Array:
    """The inverse of `pack_activation`, for a tensor of `shape`."""
    nb, cb, rows, columns, batch, block = packed.shape
    x = packed.transpose(0, 4, 1, 5, 2, 3).reshape(nb * batch, cb * block, rows, columns)
    return np.ascontiguousarray(x[: shape[0], : shape[1]])


@dataclass(frozen=True)
class Region:
    """A packed activation in a DRAM image: its first byte and its shape before packing."""

    offset: int
    shape: Shape

    def write(self, image: Array, x: Array, config: Config) -> None:
        """Put i8 of the shape into the image u8[bytes]."""
        raw = pack_activation(x, config).view(np.uint8).ravel()
        image[self.offset : self.offset + raw.size] = raw

    def read(self, image: Array, config: Config) -> Array:
        """The activation in an image."""
        packed = packed_shape(self.shape, config)
        raw = image[self.offset : self.offset + int(np.prod(packed))]
        return unpack_activation(raw.view(np.int8).reshape(packed), self.shape)


@dataclass(frozen=True)
class BlockWeights:
    """Weights in blocks, of those input blocks alone that an output block reads.

    `values` is i8[output blocks, count, rows, columns, block, block]; output block `o` reads the `count`
    input blocks from `start[o]` on. A dense convolution reads all; groups make the matrix block diagonal.
    """

    values: Array
    start: tuple[int, ...]

    @property
    def count(self) -> int:
        return int(self.values.shape[1])


def pack_weights(layer: Layer, config: Config) -> BlockWeights:
    """The weights of a layer in blocks."""
    b = config.block
    outputs, per_group = layer.weights.shape[:2]
    out_blocks, in_blocks = ceil_div(outputs, b), ceil_div(layer.shape[1], b)
    first = np.arange(outputs) // (outputs // layer.groups) * per_group  # first input channel of each output
    heads = [int(first[o * b]) // b for o in range(out_blocks)]
    tails = [(int(first[min((o + 1) * b, outputs) - 1]) + per_group - 1) // b for o in range(out_blocks)]
    count = max(t - h + 1 for h, t in zip(heads, tails, strict=True))
    start = tuple(min(h, in_blocks - count) for h in heads)

    # values[o, p, q] with p the output within its block and q the input channel counted from the start.
    values = np.zeros((out_blocks, b, count * b, *layer.kernel), np.int8)
    o, c = np.meshgrid(np.arange(outputs), np.arange(per_group), indexing="ij")
    q = first[o] + c - np.asarray(start)[o // b] * b
    values[o // b, o % b, q] = layer.weights
    values = values.reshape(out_blocks, b, count, b, *layer.kernel).transpose(0, 2, 4, 5, 1, 3)
    return BlockWeights(np.ascontiguousarray(values), start)


def pack_vectors(values: Array, config: Config) -> Array:
    """i32[channels] as accumulator elements: i32[blocks, batch, block], the same for each row of a batch."""
    blocks = ceil_div(len(values), config.block)
    padded = np.zeros(blocks * config.block, np.int32)
    padded[: len(values)] = values
    return np.repeat(padded.reshape(blocks, 1, config.block), config.batch, axis=1)
