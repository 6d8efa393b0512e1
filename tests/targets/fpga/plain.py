"""A second simulator of VTA, one element at a time, written from the specification for the tests.

It runs the queues in any order that tokens allow: `pick` chooses among those that can run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.isa import Alu, AluOpcode, Buffer, Gemm, Instruction, Load, Store, decode_uops

Pick = Callable[[Sequence[str]], str]
NEIGHBOURS = {"load": (None, "compute"), "compute": ("load", "store"), "store": ("compute", None)}


def run_plainly(
    program: Sequence[Instruction], dram: np.ndarray[Any, Any], config: Config, pick: Pick
) -> np.ndarray[Any, Any]:
    """The DRAM image afterwards."""
    machine = Plain(dram.copy(), config)
    waiting: dict[str, list[Instruction]] = {"load": [], "compute": [], "store": []}
    for i in program:
        waiting[_queue(i)].append(i)
    tokens = {(a, b): 0 for a, pair in NEIGHBOURS.items() for b in pair if b}
    while any(waiting.values()):
        ready = [q for q, left in waiting.items() if left and all(tokens[t] for t in _pops(q, left[0]))]
        queue = pick(ready)
        i = waiting[queue].pop(0)
        for token in _pops(queue, i):
            tokens[token] -= 1
        machine.execute(i)
        previous, following = NEIGHBOURS[queue]
        if i.tokens.push_prev:
            tokens[queue, previous] += 1
        if i.tokens.push_next:
            tokens[queue, following] += 1
    assert not any(tokens.values())
    return machine.dram


def _queue(i: Instruction) -> str:
    if isinstance(i, Store):
        return "store"
    return "load" if isinstance(i, Load) and i.buffer in (Buffer.INP, Buffer.WGT) else "compute"


def _pops(queue: str, i: Instruction) -> list[Any]:
    previous, following = NEIGHBOURS[queue]
    wanted = [(previous, queue)] if i.tokens.pop_prev else []
    return wanted + ([(following, queue)] if i.tokens.pop_next else [])


class Plain:
    def __init__(self, dram: np.ndarray[Any, Any], config: Config) -> None:
        self.dram = dram
        b, k = config.batch, config.block
        self.shapes: dict[Buffer, tuple[Any, tuple[int, ...]]] = {
            Buffer.INP: (np.int8, (b, k)),
            Buffer.WGT: (np.int8, (k, k)),
            Buffer.ACC: (np.int32, (b, k)),
        }
        self.config = config
        self.memory: dict[tuple[Buffer, int], Any] = {}

    def execute(self, i: Instruction) -> None:
        if isinstance(i, Load) and i.x_size:
            self.load(i)
        elif isinstance(i, Store):
            self.store(i)
        elif isinstance(i, Gemm | Alu):
            for outer in range(i.loops[0]):
                for inner in range(i.loops[1]):
                    for number in range(*i.uops):
                        uop = self.memory[Buffer.UOP, number]
                        dst = uop.dst + outer * i.dst[0] + inner * i.dst[1]
                        src = uop.src + outer * i.src[0] + inner * i.src[1]
                        if isinstance(i, Alu):
                            self.alu(i, dst, src)
                        else:
                            wgt = uop.wgt + outer * i.wgt[0] + inner * i.wgt[1]
                            self.gemm(i, dst, src, wgt)

    def fetch(self, buffer: Buffer, element: int) -> Any:
        if buffer == Buffer.UOP:
            return decode_uops(self.dram[4 * element : 4 * element + 4].tobytes(), self.config)[0]
        dtype, shape = self.shapes[buffer]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(self.dram[element * size : (element + 1) * size].tobytes(), dtype).reshape(shape)

    def load(self, i: Load) -> None:
        at = i.sram
        for row in range(-i.y_pad[0], i.y_size + i.y_pad[1]):
            for column in range(-i.x_pad[0], i.x_size + i.x_pad[1]):
                if 0 <= row < i.y_size and 0 <= column < i.x_size:
                    value = self.fetch(i.buffer, i.dram + row * i.stride + column)
                else:
                    value = np.zeros(self.shapes[i.buffer][1], self.shapes[i.buffer][0])
                self.memory[i.buffer, at] = value
                at += 1

    def store(self, i: Store) -> None:
        size = self.config.out_bytes
        for row in range(i.y_size):
            for column in range(i.x_size):
                value = self.memory[Buffer.ACC, i.sram + row * i.x_size + column]
                byte = (i.dram + row * i.stride + column) * size
                self.dram[byte : byte + size] = [int(v) & 255 for v in value.reshape(-1)]

    def gemm(self, i: Gemm, dst: int, src: int, wgt: int) -> None:
        if i.reset:
            self.memory[Buffer.ACC, dst] = np.zeros_like(self.memory.get((Buffer.ACC, dst), self._zero()))
            return
        x = self.memory[Buffer.INP, src].astype(np.int64)
        w = self.memory[Buffer.WGT, wgt].astype(np.int64)
        self.put(dst, self.memory[Buffer.ACC, dst].astype(np.int64) + x @ w.T)

    def alu(self, i: Alu, dst: int, src: int) -> None:
        a = self.memory[Buffer.ACC, dst].astype(np.int64)
        b = np.full_like(a, i.imm) if i.imm is not None else self.memory[Buffer.ACC, src].astype(np.int64)
        if i.opcode == AluOpcode.MIN:
            value = np.minimum(a, b)
        elif i.opcode == AluOpcode.MAX:
            value = np.maximum(a, b)
        elif i.opcode == AluOpcode.ADD:
            value = a + b
        else:
            value = np.where(b >= 0, a // 2 ** np.maximum(b, 0), a * 2 ** np.maximum(-b, 0))
        self.put(dst, value)

    def put(self, dst: int, value: np.ndarray[Any, Any]) -> None:
        """Keeps the low 32 bits."""
        self.memory[Buffer.ACC, dst] = ((value + 2**31) % 2**32 - 2**31).astype(np.int32)

    def _zero(self) -> Any:
        return np.zeros(self.shapes[Buffer.ACC][1], np.int32)
