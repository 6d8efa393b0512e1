"""The library's code: kernels as functions over raw pointers, and the entry functions that call them.

`hardy_main(tensors, constants, arena)` runs everything; `tensors` is an array of pointers, inputs first, then
outputs. `hardy_step(tensors, constants, arena, step)` runs one call, for profiling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tvm
from tvm import tirx

from hardy.targets.cpu.memory import Plan
from hardy.targets.cpu.program import Call, Program, Ref
from hardy.targets.cpu.runner import MAIN, STEP

# One function holds at most so many calls, one module so many kernels: LLVM stays linear.
CALLS_A_FUNCTION = 512
KERNELS_A_MODULE = 48


def modules(program: Program, plan: Plan) -> list[Any]:
    """The IR modules that make up the library, entry functions last."""
    parts = _parts(list(program.kernels.values()), KERNELS_A_MODULE)
    kernels = [tvm.ir.IRModule({k.name: k.func.with_attr("global_symbol", k.name) for k in p}) for p in parts]
    return [*kernels, tvm.ir.IRModule(dict(_entries(program, plan)))]


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


def _entries(program: Program, plan: Plan) -> Iterator[tuple[str, Any]]:
    chunks = list(_parts(list(enumerate(program.calls)), CALLS_A_FUNCTION))
    for number, chunk in enumerate(chunks):
        for entry in (MAIN, STEP):
            name = f"{entry}_{number}" if len(chunks) > 1 else entry
            yield name, _sequence(program, plan, chunk, name, stepwise=entry == STEP)
    if len(chunks) != 1:
        for entry in (MAIN, STEP):
            yield entry, _dispatch(entry, len(chunks))


class _Entry:
    """An exported function under construction."""

    def __init__(self, name: str, *, stepwise: bool) -> None:
        self.name = name
        self.tensors = tirx.Var("tensors", _pointer("uint64"))
        self.constants = tirx.Var("constants", _pointer("uint8"))
        self.arena = tirx.Var("arena", _pointer("uint8"))
        self.step = tirx.Var("step", "int32")
        self.params = [self.tensors, self.constants, self.arena, *([self.step] if stepwise else [])]
        self.body: list[Any] = []

    def add(self, statement: Any, when: Any = None) -> None:
        self.body.append(statement if when is None else tirx.IfThenElse(when, statement, None))

    def finish(self) -> Any:
        end = tirx.Return(tirx.IntImm("int32", 0))
        body = tirx.SeqStmt([*self.body, end]) if self.body else end
        attrs = tvm.ir.make_node("ir.DictAttrs", s_tir=True, global_symbol=self.name)
        return tirx.PrimFunc(self.params, body, tvm.ir.PrimType("int32"), attrs)


def _pointer(dtype: str) -> Any:
    return tvm.ir.PointerType(tvm.ir.PrimType(dtype), "global")


def _sequence(
    program: Program, plan: Plan, calls: Sequence[tuple[int, Call]], name: str, *, stepwise: bool
) -> Any:
    entry = _Entry(name, stepwise=stepwise)
    count = max(1, len(program.inputs) + len(program.outputs))
    table = tirx.decl_buffer((count,), "uint64", name="table", data=entry.tensors, layout=None)
    entry.add(tirx.DeclBuffer(table, data=entry.tensors))

    def address(ref: Ref) -> Any:
        if ref.space == "tensor":
            pointer = tirx.reinterpret("handle", tirx.BufferLoad(table, [tirx.IntImm("int32", ref.index)]))
            offset = ref.offset
        elif ref.space == "constant":
            pointer, offset = entry.constants, program.constants.segments[ref.index].offset + ref.offset
        else:
            pointer, offset = entry.arena, plan.offsets[ref.index] + ref.offset
        return tirx.handle_add_byte_offset(pointer, tirx.IntImm("int64", offset)) if offset else pointer

    for position, call in calls:
        target = tirx.call_extern("int32", call.kernel.name, *map(address, call.args))
        when = tirx.EQ(entry.step, tirx.IntImm("int32", position)) if stepwise else None
        entry.add(tirx.Evaluate(target), when)
    return entry.finish()


def _dispatch(name: str, chunks: int) -> Any:
    entry = _Entry(name, stepwise=name == STEP)
    for number in range(chunks):
        low = number * CALLS_A_FUNCTION
        inside = (tirx.LE(low, entry.step), tirx.LT(entry.step, low + CALLS_A_FUNCTION))
        when = tirx.And(*inside) if name == STEP else None
        entry.add(tirx.Evaluate(tirx.call_extern("int32", f"{name}_{number}", *entry.params)), when)
    return entry.finish()


def object_code(module: Any, target: Any) -> Any:
    """LLVM's module for an IR module of functions over raw pointers.

    TVM's simplifier is left out: it takes x == x for true, which is how NaN is found, and LLVM
    simplifies anyway.
    """
    passes = [
        tirx.transform.BindTarget(target.with_host(target)),
        tirx.transform.FlattenBuffer(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.LowerTVMBuiltin(),
        tirx.transform.LowerIntrin(),
    ]
    return tvm.get_global_func("target.build.llvm")(tvm.ir.transform.Sequential(passes)(module), target)
