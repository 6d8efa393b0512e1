"""Programs as text, one instruction a line, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from hardy.targets.fpga.isa import (
    Alu,
    AluOpcode,
    Buffer,
    Finish,
    Gemm,
    Instruction,
    Load,
    ProgramError,
    Store,
    Tokens,
)

_TOKENS = ("pop_prev", "pop_next", "push_prev", "push_next")
_NAMES = {buffer.name.lower(): buffer for buffer in Buffer}


def disassemble(instructions: Iterable[Instruction]) -> str:
    """One numbered instruction a line; `assemble` reads it back."""
    return "".join(f"{number:6d}: {line(i)}\n" for number, i in enumerate(instructions))


def line(i: Instruction) -> str:
    """An instruction as text, without what equals its default.

    `load.inp sram=0 dram=512 size=2x16 stride=56 pad=1,1,1,0 pop_next push_next`: sizes are rows x columns,
    pads rows before, rows after, columns before, columns after; `gemm`'s and `alu`'s pairs are outer, inner.
    """
    match i:
        case Load():
            parts = [f"load.{i.buffer.name.lower()}", *_window(i)]
            if any(i.y_pad + i.x_pad):
                parts.append(f"pad={_numbers(i.y_pad + i.x_pad)}")
        case Store():
            parts = ["store", *_window(i)]
        case Gemm():
            parts = ["gemm.reset" if i.reset else "gemm", *_loops(i)]
            if any(i.wgt):
                parts.append(f"wgt={_numbers(i.wgt)}")
        case Alu():
            parts = [f"alu.{i.opcode.name.lower()}", *_loops(i)]
            if i.imm is not None:
                parts.append(f"imm={i.imm}")
        case Finish():
            parts = ["finish"]
    return " ".join([*parts, *(name for name in _TOKENS if getattr(i.tokens, name))])


def _window(i: Load | Store) -> list[str]:
    stride = [f"stride={i.stride}"] if i.stride != i.x_size else []
    return [f"sram={i.sram}", f"dram={i.dram}", f"size={i.y_size}x{i.x_size}", *stride]


def _loops(i: Gemm | Alu) -> list[str]:
    parts = [f"uops={_numbers(i.uops)}"]
    if i.loops != (1, 1):
        parts.append(f"loops={_numbers(i.loops)}")
    return parts + [f"{k}={_numbers(v)}" for k, v in (("dst", i.dst), ("src", i.src)) if any(v)]


def _numbers(values: Iterable[int]) -> str:
    return ",".join(map(str, values))


def assemble(text: str) -> tuple[Instruction, ...]:
    """The instructions of text; ProgramError names the line that cannot be read.

    Empty lines, what follows `#`, and a number with a colon at the front are ignored.
    """
    program = []
    for number, raw in enumerate(text.splitlines(), start=1):
        if words := re.sub(r"^\s*\d+:", "", raw.partition("#")[0]).split():
            try:
                program.append(_read(words))
            except (ValueError, KeyError, TypeError) as error:
                raise ProgramError(f"cannot read {raw.strip()!r}: {error}", where=f"line {number}") from error
    return tuple(program)


def _read(words: list[str]) -> Instruction:
    name, _, kind = words[0].partition(".")
    flags = [word for word in words[1:] if "=" not in word]
    tokens = Tokens(**dict.fromkeys(flags, True))
    fields = dict(word.split("=") for word in words[1:] if "=" in word)
    known: Any = {}
    for key, value in fields.items():
        known |= _FIELDS[key](value)
    if name == "load":
        return Load(_NAMES[kind], **known, tokens=tokens)
    if name == "store" and not kind:
        return Store(**known, tokens=tokens)
    if name == "gemm" and kind in ("", "reset"):
        return Gemm(**known, reset=kind == "reset", tokens=tokens)
    if name == "alu":
        return Alu(AluOpcode[kind.upper()], **known, tokens=tokens)
    if name == "finish" and not kind:
        return Finish(**known, tokens=tokens)
    raise ValueError(f"there is no instruction {words[0]}")


def _pair(value: str) -> tuple[int, int]:
    first, second = map(int, value.split(","))
    return first, second


def _size(value: str) -> dict[str, int]:
    rows, columns = map(int, value.split("x"))
    return {"y_size": rows, "x_size": columns}


def _pads(value: str) -> dict[str, tuple[int, int]]:
    top, bottom, left, right = map(int, value.split(","))
    return {"y_pad": (top, bottom), "x_pad": (left, right)}


_FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "sram": lambda v: {"sram": int(v)},
    "dram": lambda v: {"dram": int(v)},
    "size": _size,
    "stride": lambda v: {"x_stride": int(v)},
    "pad": _pads,
    "imm": lambda v: {"imm": int(v)},
    "uops": lambda v: {"uops": _pair(v)},
    "loops": lambda v: {"loops": _pair(v)},
    "dst": lambda v: {"dst": _pair(v)},
    "src": lambda v: {"src": _pair(v)},
    "wgt": lambda v: {"wgt": _pair(v)},
}
