"""What can be said of an instruction from its fields alone: the portable subset, and the buffers' depths.

The public implementations of VTA differ outside of it; docs/vta.md has the table.
"""

from __future__ import annotations

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.elements import depth, element_bytes
from hardy.targets.fpga.isa import Alu, AluOpcode, Buffer, Gemm, Instruction, Load, Store

MIN_SHIFT, MAX_SHIFT = -16, 15


def complaint(i: Instruction, config: Config, dram_bytes: int) -> str:
    """Why the instruction is refused; empty where its fields are right."""
    match i:
        case Load():
            return _load(i) or _window(i, i.buffer, i.width * i.height, config, dram_bytes)
        case Store():
            return _window(i, Buffer.OUT, i.x_size * i.y_size, config, dram_bytes)
        case Gemm():
            return _loops(i, config)
        case Alu():
            return _loops(i, config) or _alu(i)
    return ""


def _load(i: Load) -> str:
    if i.buffer == Buffer.ACC_8BIT:
        return "only VTA's functional simulator loads ACC from 8-bit elements; take INP and a GEMM"
    pads = any(i.x_pad + i.y_pad)
    if pads and i.x_size == 0:
        return "pads around no elements are written by some implementations and not by others"
    if pads and i.buffer in (Buffer.UOP, Buffer.WGT):
        return f"{i.buffer.name} is loaded without pads"
    if i.buffer == Buffer.UOP and i.x_size and i.y_size != 1:
        return f"micro-ops are loaded in one row, not {i.y_size}"
    return ""


def _window(i: Load | Store, buffer: Buffer, elements: int, config: Config, dram_bytes: int) -> str:
    if i.x_size == 0:
        return ""
    if i.sram + elements > depth(buffer, config):
        last = i.sram + elements - 1
        return f"{buffer.name} elements {i.sram} to {last} of a buffer of {depth(buffer, config)}"
    size = element_bytes(buffer, config)
    end = (i.dram + (i.y_size - 1) * i.stride + i.x_size) * size if i.y_size else 0
    if end > dram_bytes:
        return f"DRAM bytes {i.dram * size} to {end - 1} of a memory of {dram_bytes}"
    return ""


def _loops(i: Gemm | Alu, config: Config) -> str:
    begin, end = i.uops
    if 0 in i.loops:
        return f"loop counts {i.loops}: a loop of none is run 2^14 times by some implementations"
    if begin >= end:
        return f"micro-ops {begin} to {end}: there is none between"
    if end > config.uop_depth:
        return f"micro-ops {begin} to {end - 1} of a buffer of {config.uop_depth}"
    return ""


def _alu(i: Alu) -> str:
    if i.opcode == AluOpcode.MUL:
        return "only VTA's functional simulator multiplies in the ALU"
    if i.opcode == AluOpcode.SHR and i.imm is not None and not MIN_SHIFT <= i.imm <= MAX_SHIFT:
        return f"a shift by {i.imm}; all implementations agree from {MIN_SHIFT} to {MAX_SHIFT}"
    return ""
