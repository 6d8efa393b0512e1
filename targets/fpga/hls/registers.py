"""The accelerator's control registers: four modules, each with a page of registers on AXI-Lite.

The map is that of VTA's published bitstreams (apache/tvm-vta, `src/pynq/pynq_driver.cc`), so that one driver
serves both. Offset 0 of every page is the control register of Vitis HLS (UG1399, "S_AXILITE Control Register
Map"): bit 0 starts the module, bit 7 restarts it whenever it is done.
"""

from __future__ import annotations

from dataclasses import dataclass

from hardy.targets.fpga.board import Board

CONTROL = 0x00
START = 0x01
RESTART = 0x81
PAGE_BYTES = 0x1000
MODULES = ("fetch", "load", "compute", "store")


@dataclass(frozen=True)
class Register:
    """A register of 32 bits: the module and argument of its top function, its offset, and what it means."""

    module: str
    argument: str
    offset: int
    meaning: str


REGISTERS = (
    Register("fetch", "instruction_count", 0x10, "instructions of the program"),
    Register("fetch", "instructions", 0x18, "address of the program, a multiple of 16"),
    Register("load", "inputs", 0x10, "address that INP loads count from"),
    Register("load", "weights", 0x18, "address that WGT loads count from"),
    Register("compute", "done", 0x10, "written by the host: 0 before the start"),
    Register("compute", "done_out", 0x18, "read by the host: 1 once FINISH has run"),
    Register("compute", "done_valid", 0x1C, "bit 0: `done_out` is new; reading clears it"),
    Register("compute", "uops", 0x20, "address that UOP loads count from"),
    Register("compute", "biases", 0x28, "address that ACC loads count from"),
    Register("store", "outputs", 0x10, "address that stores count from"),
)


def offset(module: str, argument: str) -> int:
    """The offset of a register in its module's page."""
    return next(r.offset for r in REGISTERS if (r.module, r.argument) == (module, argument))


def page(board: Board, module: str) -> int:
    """The bus address of a module's page, in the range of the processor's first general-purpose port."""
    base = 0x43C0_0000 if board.part.startswith("xc7z") else 0xA000_0000
    return base + PAGE_BYTES * MODULES.index(module)
