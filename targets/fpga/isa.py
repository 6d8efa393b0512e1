"""VTA's instructions and micro-ops, and their encoding.

An instruction is 128 bits, little endian; a micro-op is 32. The layout follows from the configuration: fields
are placed in order from bit 0, and one that would cross bit 64 starts at bit 64 (the bit-field rule of the
structs in `include/vta/hw_spec.h` of apache/tvm-vta). `encode` refuses what its field cannot hold; what a
program means, and which programs every implementation runs alike, is described in docs/vta.md and checked by
the simulator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.config import LOOP_BITS, WORD_BITS, Config

INSTRUCTION_BYTES = 16
Pair = tuple[int, int]


class ProgramError(TargetError):
    """An instruction that cannot be encoded or that the accelerator would not run as meant."""


class Buffer(IntEnum):
    """The on-chip buffers, as `memory_type` numbers them; ACC_8BIT is ACC, loaded from 8-bit elements."""

    UOP = 0
    WGT = 1
    INP = 2
    ACC = 3
    OUT = 4
    ACC_8BIT = 5


class AluOpcode(IntEnum):
    """Operations of the vector unit; MUL is known to VTA's own functional simulator alone."""

    MIN = 0
    MAX = 1
    ADD = 2
    SHR = 3
    MUL = 4


@dataclass(frozen=True)
class Tokens:
    """Which dependency tokens an instruction waits for (pop) and sends when it is done (push).

    For load, the next queue is compute; for compute, the previous is load and the next is store; for store,
    the previous is compute.
    """

    pop_prev: bool = False
    pop_next: bool = False
    push_prev: bool = False
    push_next: bool = False


NO_TOKENS = Tokens()


@dataclass(frozen=True)
class Load:
    """Copies a 2D window of DRAM into a buffer, with zeros around it.

    `sram` and `dram` are in elements of the buffer (the byte address is `dram` times the element's bytes), as
    is `x_stride`, the distance of rows in DRAM (left out: `x_size`). Pads are (before, after), in rows and
    elements. INP and WGT are loaded by the load queue, everything else by the compute queue. `x_size` 0 does
    nothing but its tokens.
    """

    buffer: Buffer
    sram: int
    dram: int
    x_size: int
    y_size: int = 1
    x_stride: int | None = None
    y_pad: Pair = (0, 0)
    x_pad: Pair = (0, 0)
    tokens: Tokens = NO_TOKENS

    def __post_init__(self) -> None:
        if self.x_stride is None:
            object.__setattr__(self, "x_stride", self.x_size)

    @property
    def stride(self) -> int:
        """Elements from the start of a row to the start of the next, in DRAM."""
        return self.x_size if self.x_stride is None else self.x_stride

    @property
    def width(self) -> int:
        """Elements of a row in the buffer, with its pads."""
        return self.x_pad[0] + self.x_size + self.x_pad[1]

    @property
    def height(self) -> int:
        """Rows in the buffer, with the pads."""
        return self.y_pad[0] + self.y_size + self.y_pad[1]


@dataclass(frozen=True)
class Store:
    """Copies rows of outputs (the low 8 bits of accumulators) to DRAM; `x_size` 0 does its tokens only."""

    sram: int
    dram: int
    x_size: int
    y_size: int = 1
    x_stride: int | None = None
    tokens: Tokens = NO_TOKENS

    def __post_init__(self) -> None:
        if self.x_stride is None:
            object.__setattr__(self, "x_stride", self.x_size)

    @property
    def stride(self) -> int:
        """Elements from the start of a row to the start of the next, in DRAM."""
        return self.x_size if self.x_stride is None else self.x_stride


@dataclass(frozen=True)
class Gemm:
    """Runs micro-ops `uops` = [begin, end) in two loops around them; pairs are (outer, inner).

    A micro-op does `acc[dst] += inp[src] @ wgt[wgt].T`, each index increased by the loop counters times
    `dst`, `src` and `wgt` of the instruction. With `reset`, `acc[dst] = 0`.
    """

    uops: Pair
    loops: Pair = (1, 1)
    dst: Pair = (0, 0)
    src: Pair = (0, 0)
    wgt: Pair = (0, 0)
    reset: bool = False
    tokens: Tokens = NO_TOKENS


@dataclass(frozen=True)
class Alu:
    """Runs micro-ops as `Gemm` does: `acc[dst] = opcode(acc[dst], imm)`, or with `acc[src]` for no `imm`."""

    opcode: AluOpcode
    uops: Pair
    loops: Pair = (1, 1)
    dst: Pair = (0, 0)
    src: Pair = (0, 0)
    imm: int | None = None
    tokens: Tokens = NO_TOKENS


@dataclass(frozen=True)
class Finish:
    """Ends the program: the last instruction."""

    tokens: Tokens = NO_TOKENS


Instruction = Load | Store | Gemm | Alu | Finish


@dataclass(frozen=True)
class Uop:
    """Indices of a micro-op: `dst` in ACC, `src` in INP (GEMM) or ACC (ALU), `wgt` in WGT."""

    dst: int
    src: int
    wgt: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an instruction: its lowest bit, its width, as many ones, and the values it takes."""

    name: str
    low: int
    width: int
    mask: int
    least: int
    greatest: int


Layout = tuple[Field, ...]


@dataclass(frozen=True)
class Layouts:
    """Where the fields of each kind of instruction, and of a micro-op, lie."""

    memory: Layout
    gemm: Layout
    alu: Layout
    finish: Layout
    uop: Layout


@lru_cache(maxsize=64)
def layouts(config: Config) -> Layouts:
    """The layouts of a configuration."""
    uop, acc, inp, wgt = (
        config.log_uop_depth,
        config.log_acc_depth,
        config.log_inp_depth,
        config.log_wgt_depth,
    )
    head = [("opcode", 3), ("pop_prev", 1), ("pop_next", 1), ("push_prev", 1), ("push_next", 1)]
    loops = [
        ("reset", 1),
        ("uop_begin", uop),
        ("uop_end", uop + 1),
        ("loop_out", LOOP_BITS),
        ("loop_in", LOOP_BITS),
        ("dst_out", acc),
        ("dst_in", acc),
    ]
    memory = [
        *(("memory_type", 3), ("sram", 16), ("dram", 32), ("y_size", 16), ("x_size", 16), ("x_stride", 16)),
        *(("y_pad_before", 4), ("y_pad_after", 4), ("x_pad_before", 4), ("x_pad_after", 4)),
    ]
    gemm = [("src_out", inp), ("src_in", inp), ("wgt_out", wgt), ("wgt_in", wgt)]
    alu = [("src_out", acc), ("src_in", acc), ("alu_opcode", 3), ("use_imm", 1), ("imm", 16)]
    return Layouts(
        memory=_place(head + memory),
        gemm=_place(head + loops + gemm),
        alu=_place(head + loops + alu),
        finish=_place(head),
        uop=_place([("dst", acc), ("src", max(acc, inp)), ("wgt", wgt)]),
    )


def _place(fields: list[tuple[str, int]]) -> Layout:
    placed, low = [], 0
    for name, width in fields:
        if low < WORD_BITS < low + width:
            low = WORD_BITS
        least = -(1 << width - 1) if name == "imm" else 0  # the one signed field
        mask = (1 << width) - 1
        placed.append(Field(name, low, width, mask, least, least + mask))
        low += width
    return tuple(placed)


LOAD_OPCODE, STORE_OPCODE, GEMM_OPCODE, FINISH_OPCODE, ALU_OPCODE = range(5)


def encode(instructions: Iterable[Instruction], config: Config) -> bytes:
    """The program's bytes, 16 an instruction; ProgramError names the field that cannot hold its value."""
    table = layouts(config)
    return b"".join(_encode_one(number, i, table) for number, i in enumerate(instructions))


def _encode_one(number: int, i: Instruction, table: Layouts) -> bytes:
    body: tuple[int, ...]
    match i:
        case Load():
            layout, opcode = table.memory, LOAD_OPCODE
            body = (i.buffer, i.sram, i.dram, i.y_size, i.x_size, i.stride, *i.y_pad, *i.x_pad)
        case Store():
            layout, opcode = table.memory, STORE_OPCODE
            body = (Buffer.OUT, i.sram, i.dram, i.y_size, i.x_size, i.stride, 0, 0, 0, 0)
        case Gemm():
            layout, opcode = table.gemm, GEMM_OPCODE
            body = (i.reset, *i.uops, *i.loops, *i.dst, *i.src, *i.wgt)
        case Alu():
            layout, opcode = table.alu, ALU_OPCODE
            imm = i.imm is not None, i.imm or 0
            body = (0, *i.uops, *i.loops, *i.dst, *i.src, i.opcode, *imm)
        case Finish():
            layout, opcode, body = table.finish, FINISH_OPCODE, ()
    t = i.tokens
    values = (opcode, t.pop_prev, t.pop_next, t.push_prev, t.push_next, *body)
    return _pack(layout, values, f"instruction {number}, {i}").to_bytes(INSTRUCTION_BYTES, "little")


def _pack(layout: Layout, values: tuple[int, ...], where: str) -> int:
    word = 0
    for field, value in zip(layout, values, strict=True):
        if not field.least <= value <= field.greatest:
            raise ProgramError(
                f"{field.name} is {value}; it takes {field.least} to {field.greatest}", where=where
            )
        word |= (value & field.mask) << field.low
    return word


def decode(data: bytes, config: Config) -> tuple[Instruction, ...]:
    """The instructions of a program's bytes. Bits of no field are ignored, as the hardware does."""
    if len(data) % INSTRUCTION_BYTES:
        raise ProgramError(f"a program is a multiple of {INSTRUCTION_BYTES} bytes, this one has {len(data)}")
    table = layouts(config)
    words = (data[at : at + INSTRUCTION_BYTES] for at in range(0, len(data), INSTRUCTION_BYTES))
    return tuple(
        _decode_one(number, int.from_bytes(word, "little"), table) for number, word in enumerate(words)
    )


def _decode_one(number: int, word: int, table: Layouts) -> Instruction:
    opcode = word & 7
    tokens = _TOKENS[word >> 3 & 15]
    where = f"instruction {number}"
    if opcode in (LOAD_OPCODE, STORE_OPCODE):
        kind, sram, dram, y_size, x_size, stride, *pads = _unpack(table.memory, word)[5:]
        if opcode == LOAD_OPCODE:
            if kind not in Buffer.__members__.values() or kind == Buffer.OUT:
                raise ProgramError(f"LOAD of memory type {kind}, which cannot be loaded", where=where)
            y_pad, x_pad = (pads[0], pads[1]), (pads[2], pads[3])
            return Load(Buffer(kind), sram, dram, x_size, y_size, stride, y_pad, x_pad, tokens)
        if kind != Buffer.OUT or any(pads):
            raise ProgramError(
                f"STORE of memory type {kind} with pads {pads}", where=where, hint="4, no pads"
            )
        return Store(sram, dram, x_size, y_size, stride, tokens)
    if opcode == GEMM_OPCODE:
        reset, *f = _unpack(table.gemm, word)[5:]
        u, loops, dst, src, wgt = ((f[n], f[n + 1]) for n in range(0, 10, 2))
        return Gemm(u, loops, dst, src, wgt, bool(reset), tokens)
    if opcode == ALU_OPCODE:
        _, *f = _unpack(table.alu, word)[5:]
        u, loops, dst, src = ((f[n], f[n + 1]) for n in range(0, 8, 2))
        operation, use_imm, imm = f[8:]
        if operation not in AluOpcode.__members__.values():
            raise ProgramError(f"there is no ALU operation {operation}", where=where)
        return Alu(AluOpcode(operation), u, loops, dst, src, imm if use_imm else None, tokens)
    if opcode == FINISH_OPCODE:
        return Finish(tokens)
    raise ProgramError(f"there is no opcode {opcode}", where=where)


_TOKENS = tuple(Tokens(*(bool(bits >> n & 1) for n in range(4))) for bits in range(16))


def _unpack(layout: Layout, word: int) -> list[int]:
    values = []
    for field in layout:
        value = word >> field.low & field.mask
        values.append(value - (1 << field.width) if value > field.greatest else value)
    return values


def encode_uops(uops: Iterable[Uop], config: Config) -> bytes:
    """The bytes of micro-ops, 4 each; ProgramError names the field that cannot hold its value."""
    layout = layouts(config).uop
    words = (_pack(layout, (u.dst, u.src, u.wgt), f"micro-op {n}, {u}") for n, u in enumerate(uops))
    return b"".join(word.to_bytes(4, "little") for word in words)


def decode_uops(data: bytes, config: Config) -> tuple[Uop, ...]:
    """The micro-ops of their bytes."""
    if len(data) % config.uop_bytes:
        raise ProgramError(f"micro-ops are a multiple of {config.uop_bytes} bytes, these have {len(data)}")
    layout = layouts(config).uop
    words = (int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))
    return tuple(Uop(*_unpack(layout, word)) for word in words)
