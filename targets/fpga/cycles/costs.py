"""What instructions cost beside their memory traffic, and the bursts that traffic is made of."""

from __future__ import annotations

from dataclasses import dataclass

from hardy.targets.fpga.board import Memory
from hardy.targets.fpga.config import Config
from hardy.targets.fpga.elements import element_bytes
from hardy.targets.fpga.isa import Alu, Buffer, Gemm, Instruction, Load, Store


@dataclass(frozen=True)
class Costs:
    """Cycles of the accelerator's parts.

    `decode` is what decoding and the token state machine take (2 to 3 states in the Chisel units). `gemm`,
    `alu_immediate` and `alu_tensor` are initiation intervals: cycles from one micro-op to the next. The HLS
    build declares 1 for GEMM and 2 for the ALU; the Chisel ALU takes one cycle where the operand is
    immediate. `pipeline` fills and drains the arithmetic, once an instruction (6 to 7 cycles in Chisel).
    """

    decode: int = 3
    gemm: int = 1
    alu_immediate: int = 2
    alu_tensor: int = 2
    pipeline: int = 6

    def micro_ops(self, i: Instruction) -> int:
        """Cycles in which an instruction's micro-ops enter the arithmetic; 0 for loads and stores."""
        if not isinstance(i, Gemm | Alu):
            return 0
        count = (i.uops[1] - i.uops[0]) * i.loops[0] * i.loops[1]
        if isinstance(i, Gemm):
            return count * self.gemm
        return count * (self.alu_tensor if i.imm is None else self.alu_immediate)


HLS = Costs()
CHISEL = Costs(alu_immediate=1)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an instruction moves: `repeat` times the bursts of `beats`, then `pads` cycles of zeros."""

    beats: tuple[int, ...] = ()
    repeat: int = 0
    pads: int = 0
    nbytes: int = 0

    @property
    def bursts(self) -> int:
        return len(self.beats) * self.repeat


NONE = Traffic()


def traffic(i: Instruction, config: Config, memory: Memory) -> Traffic:
    """The bursts of a load or store.

    Rows that follow one another in DRAM merge; every other row is a run of bursts of its own. Addresses count
    as aligned to the bus. Pads are written one bus word a cycle.
    """
    if not isinstance(i, Load | Store) or i.x_size == 0:
        return NONE
    buffer = i.buffer if isinstance(i, Load) else Buffer.OUT
    size = element_bytes(buffer, config)
    merged = i.y_size <= 1 or i.stride == i.x_size
    rows, row = (1, i.x_size * i.y_size * size) if merged else (i.y_size, i.x_size * size)
    pads = (i.width * i.height - i.x_size * i.y_size) * size if isinstance(i, Load) else 0
    whole, rest = divmod(memory.beats(row), memory.burst)
    beats = (memory.burst,) * whole + ((rest,) if rest else ())
    return Traffic(beats, rows, memory.beats(pads), rows * row)
