"""What goes with the C++: scripts for the vendor's tools, the registers for the driver, and the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hardy.targets.fpga.board import Board
from hardy.targets.fpga.config import Config
from hardy.targets.fpga.hls.registers import (
    CONTROL,
    MODULES,
    PAGE_BYTES,
    REGISTERS,
    RESTART,
    START,
    page,
)
from hardy.targets.fpga.hls.sources import COMMAND_DEPTH, TOKEN_DEPTH, banks, library


@dataclass(frozen=True)
class Processor:
    """The names that a block design uses for a processor's ports."""

    processor: str
    options: str
    clock_pin: str
    port_clocks: str
    reset_pin: str
    master: str
    slave: str


ZYNQ = Processor(
    processor="processing_system7",
    options="CONFIG.PCW_USE_M_AXI_GP0 1 CONFIG.PCW_USE_S_AXI_HP0 1 "
    "CONFIG.PCW_S_AXI_HP0_DATA_WIDTH @axi_bits@ CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ $mhz",
    clock_pin="FCLK_CLK0",
    port_clocks="M_AXI_GP0_ACLK S_AXI_HP0_ACLK",
    reset_pin="FCLK_RESET0_N",
    master="M_AXI_GP0",
    slave="S_AXI_HP0",
)
ZYNQ_ULTRASCALE = Processor(
    processor="zynq_ultra_ps_e",
    options="CONFIG.PSU__USE__M_AXI_GP0 1 CONFIG.PSU__USE__M_AXI_GP1 0 CONFIG.PSU__USE__S_AXI_GP2 1 "
    "CONFIG.PSU__SAXIGP2__DATA_WIDTH @axi_bits@ CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ $mhz",
    clock_pin="pl_clk0",
    port_clocks="maxihpm0_fpd_aclk saxihp0_fpd_aclk",
    reset_pin="pl_resetn0",
    master="M_AXI_HPM0_FPD",
    slave="S_AXI_HP0_FPD",
)

FIFOS = (
    ("fetch", "load", "load_queue", COMMAND_DEPTH),
    ("fetch", "compute", "compute_queue", COMMAND_DEPTH),
    ("fetch", "store", "store_queue", COMMAND_DEPTH),
    ("load", "compute", "load_to_compute", TOKEN_DEPTH),
    ("compute", "load", "compute_to_load", TOKEN_DEPTH),
    ("compute", "store", "compute_to_store", TOKEN_DEPTH),
    ("store", "compute", "store_to_compute", TOKEN_DEPTH),
)


def synthesis_script(board: Board) -> bytes:
    """`hls.tcl`: the modules to IPs, by Vitis HLS."""
    return library("hls.tcl", {"part": board.part, "period": f"{1000 / board.clock_mhz:.3f}"})


def system_script(config: Config, board: Board) -> bytes:
    """`system.tcl`: the IPs to a bitstream, by Vivado."""
    processor = ZYNQ if board.part.startswith("xc7z") else ZYNQ_ULTRASCALE
    count = banks(config)
    buffers = (
        ("load", "compute", "inp_mem", config.inp_bytes * 8 // count["INP"], config.inp_depth),
        ("load", "compute", "wgt_mem", config.wgt_bytes * 8 // count["WGT"], config.wgt_depth),
        ("compute", "store", "out_mem", config.out_bytes * 8 // count["OUT"], config.acc_depth),
    )
    values = {
        **vars(processor),
        "processor_options": processor.options.replace("@axi_bits@", str(board.axi_bits)),
        "part": board.part,
        "clock_mhz": str(board.clock_mhz),
        "fifos": _rows(FIFOS),
        "buffers": _rows(buffers),
        "pages": _rows([(module, f"{page(board, module):#010x}") for module in MODULES]),
    }
    return library("system.tcl", values)


def _rows(rows: Iterable[Sequence[object]]) -> str:
    return "\n".join("  " + " ".join(map(str, row)) for row in rows)


def driver_registers(board: Board) -> bytes:
    """`driver/vta_registers.py`: the register map that the driver reads."""
    pages = "".join(f'    "{module}": {page(board, module):#010x},\n' for module in MODULES)
    registers = "".join(f'    ("{r.module}", "{r.argument}"): {r.offset:#04x},\n' for r in REGISTERS)
    return (
        f'"""The accelerator\'s control registers on {board.name}."""\n\n'
        f"CONTROL = {CONTROL:#04x}\nSTART = {START:#04x}\nRESTART = {RESTART:#04x}\n"
        f"PAGE_BYTES = {PAGE_BYTES:#x}\nPAGES = {{\n{pages}}}\nREGISTERS = {{\n{registers}}}\n"
    ).encode()


def readme(config: Config, board: Board) -> bytes:
    """`README.md`: the files, how to build, the register map, and what programs must keep to."""
    rows = "\n".join(
        f"| {r.module} | {page(board, r.module) + r.offset:#010x} | `{r.argument}` | {r.meaning} |"
        for r in REGISTERS
    )
    controls = "\n".join(
        f"| {m} | {page(board, m) + CONTROL:#010x} | control | "
        f"{START:#04x} starts{'' if m == 'fetch' else f', {RESTART:#04x} starts and restarts'} |"
        for m in MODULES
    )
    values = {
        "config": config.name,
        "bitstream": config.bitstream,
        "board": board.name,
        "part": board.part,
        "clock_mhz": str(board.clock_mhz),
        "registers": f"{controls}\n{rows}",
    }
    return library("README.md", values)
