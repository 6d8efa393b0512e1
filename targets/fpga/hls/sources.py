"""The C++ that follows from a configuration: constants, field positions, the library's files filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.board import Board
from hardy.targets.fpga.config import LOOP_BITS, Config
from hardy.targets.fpga.hls.registers import REGISTERS
from hardy.targets.fpga.hls.resources import pairs_products
from hardy.targets.fpga.isa import (
    ALU_OPCODE,
    FINISH_OPCODE,
    GEMM_OPCODE,
    LOAD_OPCODE,
    STORE_OPCODE,
    AluOpcode,
    Buffer,
    Field,
    Layout,
    layouts,
)

HEADERS = ("vta.h", "banks.h", "check.h", "dma.h", "indices.h", "loops.h", "gemm.h", "alu.h")
MODULE_SOURCES = ("fetch.cpp", "load.cpp", "compute.cpp", "store.cpp")
# Entries of the FIFOs between the modules, as in VTA's HLS design.
COMMAND_DEPTH = 512
TOKEN_DEPTH = 1024
# Narrower AXI data ports do not exist.
LEAST_BEAT_BYTES = 4
# The widest port of a block memory in a block design (1024 bits; AMD's PG058, "Interface Type: Native").
GREATEST_BANK_BYTES = 128


def beat_bytes(config: Config, board: Board) -> dict[str, int]:
    """Bytes that one beat carries on the memory port of each buffer: no beat crosses an element.

    TargetError where an element is narrower than a port can be.
    """
    elements = {
        "INP": config.inp_bytes,
        "WGT": config.wgt_bytes,
        "ACC": config.acc_bytes,
        "OUT": config.out_bytes,
    }
    for buffer, size in elements.items():
        if size < LEAST_BEAT_BYTES:
            raise TargetError(
                f"configuration {config.name}: an element of {buffer} has {size} bytes; "
                f"a memory port has at least {LEAST_BEAT_BYTES}",
                hint="use a batch times a block of at least 4",
            )
    return {buffer: min(size, board.axi_bits // 8) for buffer, size in elements.items()}


def banks(config: Config) -> dict[str, int]:
    """Block memories side by side that hold one element, for each buffer that two modules share."""
    elements = {"INP": config.inp_bytes, "WGT": config.wgt_bytes, "OUT": config.out_bytes}
    return {buffer: -(-size // GREATEST_BANK_BYTES) for buffer, size in elements.items()}


def constants(config: Config, board: Board) -> str:
    """`vta_config.h`: the configuration as constants."""
    values: dict[str, int] = {
        "BATCH": config.batch,
        "BLOCK": config.block,
        "LOG_BLOCK": config.log_block,
        "UOP_DEPTH": config.uop_depth,
        "INP_DEPTH": config.inp_depth,
        "WGT_DEPTH": config.wgt_depth,
        "ACC_DEPTH": config.acc_depth,
        "OUT_DEPTH": config.acc_depth,
        "UOP_END_BITS": config.log_uop_depth + 1,
        "LOOP_BITS": LOOP_BITS,
        "ACC_INDEX_BITS": config.log_acc_depth,
        "SRC_INDEX_BITS": max(config.log_acc_depth, config.log_inp_depth),
        "WGT_INDEX_BITS": config.log_wgt_depth,
        **{f"{buffer}_BEAT_BYTES": size for buffer, size in beat_bytes(config, board).items()},
        **{f"{buffer}_BANKS": count for buffer, count in banks(config).items()},
        "COMMAND_DEPTH": COMMAND_DEPTH,
        "TOKEN_DEPTH": TOKEN_DEPTH,
        "OPCODE_LOAD": LOAD_OPCODE,
        "OPCODE_STORE": STORE_OPCODE,
        "OPCODE_GEMM": GEMM_OPCODE,
        "OPCODE_FINISH": FINISH_OPCODE,
        "OPCODE_ALU": ALU_OPCODE,
        **{f"BUFFER_{b.name}": b.value for b in (Buffer.UOP, Buffer.WGT, Buffer.INP, Buffer.ACC, Buffer.OUT)},
        **{f"ALU_{o.name}": o.value for o in (AluOpcode.MIN, AluOpcode.MAX, AluOpcode.ADD, AluOpcode.SHR)},
    }
    lines = [
        f"// The configuration {config.name} ({config.bitstream}) on the board {board.name}.",
        "#pragma once",
        "",
        *(f"constexpr int {name} = {value};" for name, value in values.items()),
        "",
        "// Whether a multiplier computes two products that have a factor in common.",
        f"constexpr bool PAIR_PRODUCTS = {str(pairs_products(config, board)).lower()};",
    ]
    return "\n".join(lines) + "\n"


def decoder(config: Config) -> str:
    """`vta_decode.h`: the fields of instructions and micro-ops, where the configuration has them."""
    table = layouts(config)
    parts = [
        "// Instructions and micro-ops, and their fields. Positions follow from the configuration.\n"
        "#pragma once\n\n"
        "#include <cstdint>\n\n"
        '#include "integers.h"\n'
        '#include "vta_config.h"\n',
        "/// 128 bits; no field crosses the middle.\nstruct Instruction {\n  UInt<64> low, high;\n};\n",
        "/// `WIDTH` bits of a word, from bit `low` on.\n"
        "template <int WIDTH>\n"
        "UInt<WIDTH> bits(UInt<64> word, int low) {\n"
        "#pragma HLS inline\n"
        "  return UInt<WIDTH>((word >> low) & ((uint64_t(1) << WIDTH) - 1));\n"
        "}\n",
    ]
    for name, layout in (
        ("head", table.finish),
        ("memory", table.memory),
        ("gemm", table.gemm),
        ("alu", table.alu),
    ):
        parts.append(_struct(name, layout) + _decoder(name, layout, "const Instruction& instruction"))
    parts.append(_struct("uop", table.uop) + _decoder("uop", table.uop, "Int<32> word"))
    return "\n".join(parts)


def _struct(name: str, layout: Layout) -> str:
    members = "".join(f"  {_type(f)} {f.name};\n" for f in layout)
    return f"struct {name.capitalize()}Fields {{\n{members}}};\n\n"


def _type(field: Field) -> str:
    return f"{'Int' if field.least < 0 else 'UInt'}<{field.width}>"


def _decoder(name: str, layout: Layout, argument: str) -> str:
    struct = f"{name.capitalize()}Fields"
    lines = [f"inline {struct} decode_{name}({argument}) {{", "#pragma HLS inline", f"  {struct} fields;"]
    for f in layout:
        word = "UInt<64>(word)" if name == "uop" else f"instruction.{'low' if f.low < 64 else 'high'}"
        value = f"bits<{f.width}>({word}, {f.low % 64})"
        lines.append(f"  fields.{f.name} = {f'{_type(f)}({value})' if f.least < 0 else value};")
    return "\n".join([*lines, "  return fields;", "}"]) + "\n"


def library(name: str, values: Mapping[str, str] | None = None) -> bytes:
    """A file of the library with its placeholders (`@name@`) filled in."""
    text = files("hardy.targets.fpga.hls").joinpath("library", name).read_text()
    return re.sub(r"@([a-z_.]+)@", lambda m: (values or {})[m[1]], text).encode()


def module_values(board: Board) -> dict[str, str]:
    """What the modules' interface pragmas take from the register map and the board's memory."""
    m = board.memory
    return {
        **{f"{r.module}.{r.argument}": f"{r.offset:#x}" for r in REGISTERS},
        **{
            f"burst_{way}": f"max_{way}_burst_length={m.burst} num_{way}_outstanding={m.outstanding} "
            f"latency={m.latency}"
            for way in ("read", "write")
        },
    }
