"""The stages of lowering: kernels and calls, memory, TIR, LLVM, library. Each can be shown as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm

from hardy.compiler.ir import Graph
from hardy.targets.cpu import memory, module
from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.library import link
from hardy.targets.cpu.lower.table import lower
from hardy.targets.cpu.memory import Plan
from hardy.targets.cpu.program import Call, Program, Ref
from hardy.targets.cpu.runner import CONSTANTS, HEADER, LIBRARY, MAIN, STEP
from hardy.targets.cpu.select import Selector
from hardy.targets.target import Package, Stage


@dataclass(frozen=True)
class Code:
    """A program with its memory plan and its modules, in TIR or as LLVM's."""

    program: Program
    plan: Plan
    modules: Sequence[Any]


def stages(isa: Isa) -> tuple[Stage, ...]:
    """The stages for an instruction set."""

    def select(graph: Graph) -> Program:
        return Selector(graph, isa).run(lower)

    def plan(program: Program) -> Code:
        return Code(program, memory.plan(program), ())

    def tir(code: Code) -> Code:
        return Code(code.program, code.plan, module.modules(code.program, code.plan))

    def llvm(code: Code) -> Code:
        target = tvm.target.Target(isa.target())
        return Code(code.program, code.plan, [module.object_code(m, target) for m in code.modules])

    def library(code: Code) -> Package:
        return package(code, link(code.modules, isa), isa)

    return (
        Stage("kernels", select, lambda p: {"calls.txt": show_calls(p)}),
        Stage("memory", plan, lambda c: {"memory.txt": c.plan.table()}),
        Stage("tir", tir, lambda c: {f"part{i}.py": m.script() + "\n" for i, m in enumerate(c.modules)}),
        Stage("llvm", llvm, show_llvm),
        Stage("library", library, lambda p: dict(p.files)),
    )


def show_llvm(code: Code) -> Mapping[str, str | bytes]:
    """LLVM's IR, optimised."""
    return {f"part{i}.ll": m.inspect_source("ll") for i, m in enumerate(code.modules)}


def package(code: Code, library: bytes, isa: Isa) -> Package:
    """The files, the constants and the manifest's section of a linked program."""
    program = code.program
    manifest = {
        "isa": isa.name,
        "arch": isa.arch,
        "flags": list(isa.flags),
        "arena_bytes": code.plan.total,
        "constants_bytes": program.constants.total,
        "kernels": len(program.kernels),
        "steps": [call.kernel.name for call in program.calls],
    }
    files = {LIBRARY: library, HEADER: header(code).encode()}
    constants = program.constants
    return Package(files, {CONSTANTS: constants.blob()}, manifest, {CONSTANTS: constants.segments})


def header(code: Code) -> str:
    """The library's interface for C programs."""
    program = code.program
    rows = [f"     {i}: input {t}" for i, t in enumerate(program.inputs)]
    rows += [f"     {i}: output {t}" for i, t in enumerate(program.outputs, start=len(program.inputs))]
    listing = "\n".join(rows)
    return f"""#include <stdint.h>

/* Runs the program and returns 0. `tensors` points to dense row-major data:
{listing}
   `constants` are the {program.constants.total} bytes of the tensor "{CONSTANTS}", `arena` is scratch
   memory of {code.plan.total} bytes; both on a 64-byte boundary. Calls in parallel need an arena each. */
int32_t {MAIN}(void **tensors, const void *constants, void *arena);

/* Runs one of the {len(program.calls)} calls that make up the program. */
int32_t {STEP}(void **tensors, const void *constants, void *arena, int32_t step);
"""


def show_calls(program: Program) -> str:
    """One call a line: kernel, what it writes, what it reads, where it comes from."""
    lines = []
    for number, call in enumerate(program.calls):
        lines.append(f"{number:5d} {_text(call)}" + (f"  # {call.source}" if call.source else ""))
    lines.append(f"{len(program.kernels)} kernels, {program.constants.total} bytes of constants")
    return "\n".join(lines) + "\n"


def _text(call: Call) -> str:
    written = set(call.written)
    reads = [_place(r) for i, r in enumerate(call.args) if i not in written]
    writes = [_place(r) for i, r in enumerate(call.args) if i in written]
    return f"{', '.join(writes)} = {call.kernel.name}({', '.join(reads)})"


def _place(ref: Ref) -> str:
    names: Mapping[str, str] = {"tensor": "t", "constant": "c", "arena": "b"}
    return f"{names[ref.space]}{ref.index}" + (f"+{ref.offset}" if ref.offset else "")
