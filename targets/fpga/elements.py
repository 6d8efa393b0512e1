"""How many elements a buffer holds, and how many bytes each takes in DRAM."""

from __future__ import annotations

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.isa import Buffer


def depth(buffer: Buffer, config: Config) -> int:
    """Elements that a buffer holds."""
    if buffer == Buffer.UOP:
        return config.uop_depth
    if buffer == Buffer.WGT:
        return config.wgt_depth
    return config.inp_depth if buffer == Buffer.INP else config.acc_depth


def element_bytes(buffer: Buffer, config: Config) -> int:
    """Bytes of a buffer's element in DRAM."""
    if buffer == Buffer.UOP:
        return config.uop_bytes
    if buffer == Buffer.WGT:
        return config.wgt_bytes
    if buffer == Buffer.INP:
        return config.inp_bytes
    return config.acc_bytes if buffer == Buffer.ACC else config.out_bytes
