"""Which parts of which memories an instruction reads and writes, and which instruction did so last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.elements import depth, element_bytes
from hardy.targets.fpga.isa import Alu, Buffer, Finish, Gemm, Instruction, Load, Store
from hardy.targets.fpga.queues import Queue

Array = np.ndarray[Any, Any]


class Memory(IntEnum):
    """Where data lies. Outputs lie where accumulators do: they are written together."""

    UOP = 0
    WGT = 1
    INP = 2
    ACC = 3
    DRAM = 4


@dataclass(frozen=True)
class Access:
    """`rows` ranges of `size` elements, `stride` apart, read or written.

    Elements of DRAM are as large as an input element; ranges are widened to whole ones.
    """

    memory: Memory
    write: bool
    start: int
    size: int
    rows: int = 1
    stride: int = 0

    @property
    def stop(self) -> int:
        return self.start + (self.rows - 1) * self.stride + self.size


def accesses(instruction: Instruction, uops: Array | None, config: Config) -> Iterator[Access]:
    """What an instruction reads and writes. `uops` int[n, 3] are the micro-ops that it runs.

    GEMM and ALU are given as the range from their lowest to their highest index in each memory.
    """
    match instruction:
        case Load() if instruction.x_size:
            memory = Memory[Buffer(instruction.buffer).name.removesuffix("_8BIT")]
            yield Access(memory, True, instruction.sram, instruction.width * instruction.height)
            yield _dram(False, element_bytes(instruction.buffer, config), instruction, config)
        case Store() if instruction.x_size:
            yield Access(Memory.ACC, False, instruction.sram, instruction.x_size * instruction.y_size)
            yield _dram(True, element_bytes(Buffer.OUT, config), instruction, config)
        case Gemm() | Alu():
            yield Access(Memory.UOP, False, instruction.uops[0], instruction.uops[1] - instruction.uops[0])
            if uops is None:
                raise AssertionError("GEMM and ALU run micro-ops")
            loops = instruction.loops
            yield _indices(Memory.ACC, True, uops[:, 0], loops, instruction.dst)
            if isinstance(instruction, Alu):
                if instruction.imm is None:
                    yield _indices(Memory.ACC, False, uops[:, 1], loops, instruction.src)
            elif not instruction.reset:
                yield _indices(Memory.INP, False, uops[:, 1], loops, instruction.src)
                yield _indices(Memory.WGT, False, uops[:, 2], loops, instruction.wgt)
        case Load() | Store() | Finish():
            pass


def _dram(write: bool, element: int, i: Load | Store, config: Config) -> Access:
    unit = config.inp_bytes

    def widened(first: int, count: int) -> tuple[int, int]:
        start, stop = first * element // unit, -(-(first + count) * element // unit)
        return start, stop - start

    if i.y_size == 1 or i.stride == i.x_size:
        return Access(Memory.DRAM, write, *widened(i.dram, i.x_size * i.y_size))
    if element % unit:  # rows of elements that are smaller than a unit: the whole range
        return Access(Memory.DRAM, write, *widened(i.dram, i.stride * (i.y_size - 1) + i.x_size))
    scale = element // unit
    return Access(Memory.DRAM, write, i.dram * scale, i.x_size * scale, i.y_size, i.stride * scale)


def _indices(
    memory: Memory, write: bool, index: Array, loops: tuple[int, int], factor: tuple[int, int]
) -> Access:
    low = int(index.min())
    reach = sum((count - 1) * f for count, f in zip(loops, factor, strict=True))
    return Access(memory, write, low, int(index.max()) + reach - low + 1)


class History:
    """For every element of the memories, the last instruction of each queue that read or wrote it."""

    def __init__(self, config: Config, dram_bytes: int) -> None:
        buffers = (Memory.UOP, Memory.WGT, Memory.INP, Memory.ACC)
        sizes: dict[Memory, int] = {m: depth(Buffer[m.name], config) for m in buffers}
        sizes[Memory.DRAM] = -(-dram_bytes // config.inp_bytes) + 1
        self._last = {m: np.full((2, len(Queue), size), -1, np.int32) for m, size in sizes.items()}

    def needed(self, access: Access) -> Array:
        """The last instruction of each queue that must be done before this access: int[3], -1 for none."""
        last = self._view(access)
        # A read waits for writes; a write waits for reads as well.
        return np.asarray((last.max(0) if access.write else last[1]).reshape(len(Queue), -1).max(1))

    def record(self, access: Access, queue: Queue, number: int) -> None:
        """Notes that the queue's `number`-th instruction makes this access."""
        self._view(access)[int(access.write), queue] = number

    def _view(self, access: Access) -> Array:
        last = self._last[access.memory]
        if access.rows == 1:
            return last[:, :, access.start : access.stop]
        part = last[:, :, access.start : access.stop]
        strides = (*part.strides[:2], access.stride * part.strides[2], part.strides[2])
        return as_strided(part, (2, len(Queue), access.rows, access.size), strides)
