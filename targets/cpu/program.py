"""A compiled program before it is placed in memory: kernels, and the flat sequence of calls to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from hardy.compiler.artifact.coding import Segment
from hardy.compiler.types import DType, TensorType
from hardy.targets.cpu.kernels.kernel import Array, Pack
from hardy.targets.cpu.runner import ALIGNMENT

# Where an argument lives: the caller's tensors (inputs, then outputs), the constants, or the arena.
Space = Literal["tensor", "constant", "arena"]

# Element types of packed arrays by NumPy's names; others are bytes to whoever codes them.
_TYPES = {"float64": DType.f64, "float32": DType.f32, "float16": DType.f16, "int64": DType.i64} | {
    "int32": DType.i32, "int16": DType.i16, "int8": DType.i8
}  # fmt: skip


@dataclass(frozen=True)
class Ref:
    """A place in memory: item `index` of a space, `offset` bytes on."""

    space: Space
    index: int
    offset: int = 0

    def at(self, offset: int) -> Ref:
        """The place `offset` bytes further on."""
        return Ref(self.space, self.index, self.offset + offset)


@dataclass(frozen=True)
class KernelFunction:
    """A TIR function over raw pointers under its name in the library; `label` is for people.

    `workspace` bytes of scratch come as the last argument. `in_place` pairs (argument read, argument
    written) that may be the same memory. `pack` prepares the constant weight.
    """

    name: str
    func: Any
    workspace: int = 0
    in_place: tuple[tuple[int, int], ...] = ()
    pack: Pack | None = None


@dataclass(frozen=True)
class Call:
    """One call: the kernel, its arguments, and how many at the end it writes (results and workspace)."""

    kernel: KernelFunction
    args: tuple[Ref, ...]
    written: tuple[int, ...]
    source: str = ""
    op: str = ""


@dataclass
class Constants:
    """The packed constants: every distinct content once, each at an aligned offset."""

    pieces: list[Array] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    total: int = 0
    _known: dict[Hashable, int] = field(default_factory=dict)

    def add(self, key: Hashable, make: Callable[[], Array], kind: TensorType | None = None) -> Ref:
        """The place of a constant; `make` is called when `key` is new. `kind` says what bytes stand for."""
        if key not in self._known:
            made = np.ascontiguousarray(make())
            data = made.reshape(-1).view(np.uint8)
            content = ("content", hashlib.blake2b(data.data, digest_size=16).digest(), data.nbytes)
            if content not in self._known:
                self._known[content] = len(self.pieces)
                self.pieces.append(data)
                dtype = _TYPES.get(made.dtype.name, DType.u8)
                shape = made.shape if made.dtype.name in _TYPES else data.shape
                kind = kind or TensorType(dtype, shape)
                self.segments.append(Segment(self.total, kind.dtype, kind.shape))
                self.total += -(-data.nbytes // ALIGNMENT) * ALIGNMENT
            self._known[key] = self._known[content]
        return Ref("constant", self._known[key])

    def blob(self) -> torch.Tensor:
        """All constants in one u8 tensor."""
        blob = np.zeros(self.total, np.uint8)
        for segment, piece in zip(self.segments, self.pieces, strict=True):
            blob[segment.offset : segment.offset + piece.nbytes] = piece
        return torch.from_numpy(blob)


@dataclass
class Program:
    """Kernels in order of first use, calls in order, arena buffers by size, constants, and the interface."""

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    kernels: dict[str, KernelFunction] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    buffers: list[int] = field(default_factory=list)
    constants: Constants = field(default_factory=Constants)

    def buffer(self, nbytes: int) -> Ref:
        """A new arena buffer."""
        self.buffers.append(nbytes)
        return Ref("arena", len(self.buffers) - 1)
