"""The inner loops of GEMM and ALU as machine code: one function an operation, for one batch and block size.

A kernel runs all micro-ops of an instruction, in order. Beside the arithmetic it keeps stamps, so that what
is read too early or overwritten too early is found at no cost worth naming: for each element, the place in
its queue of the instruction that wrote it last, and of the one that read it last. An element may be read
where its stamp lies between 1 and the number of instructions that are known to be done; it may be written
where the last reader is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, auto
from functools import lru_cache

from tvm import tirx

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.dot import Dot, integer_dot
from hardy.targets.cpu.kernels.emit import Code, Expr
from hardy.targets.cpu.kernels.kernel import Kernel
from hardy.targets.cpu.kernels.module import Compiled, compile_kernels


class Param(IntEnum):
    """What a kernel is told, by place in `params`; the FAULT entries are its answer.

    FAULT is 1 where a micro-op touched what it may not; the next three are the first such one's loop counters
    and number.
    """

    UOP_BEGIN = 0
    UOP_COUNT = auto()
    LOOP_OUT = auto()
    LOOP_IN = auto()
    DST_OUT = auto()
    DST_IN = auto()
    SRC_OUT = auto()
    SRC_IN = auto()
    WGT_OUT = auto()
    WGT_IN = auto()
    IMM = auto()
    LOADS_DONE = auto()
    STORES_DONE = auto()
    POSITION = auto()
    FAULT = auto()
    FAULT_OUT = auto()
    FAULT_IN = auto()
    FAULT_UOP = auto()


class State(IntEnum):
    """What an ACC element holds: nothing yet, a value, or a value that a store sees as well."""

    EMPTY = 0
    WRITTEN = 1
    STORABLE = 2


@dataclass(frozen=True)
class Geometry:
    """Sizes of an element as the kernels hold it, for the dot product of this machine.

    An INP element is `dot.x_dtype`[batch, depth], with `dot.shift` added; WGT is `dot.w_dtype`[depth / group,
    block, group]. `depth` is the block, filled up with zeros to a whole number of groups.
    """

    batch: int
    block: int
    dot: Dot

    @property
    def depth(self) -> int:
        return self.block + -self.block % self.dot.group

    @property
    def inp(self) -> int:
        return self.batch * self.depth

    @property
    def wgt(self) -> int:
        return self.block * self.depth

    @property
    def acc(self) -> int:
        return self.batch * self.block


# Buffers are addressed by pointer, so one declared size serves every configuration.
ANY = emit.MAX_ELEMENTS


class _Loops:
    """A kernel under construction: its parameters, and the loops around its micro-ops."""

    def __init__(self, names: tuple[tuple[str, str], ...]) -> None:
        self.code = Code()
        head = (("params", "int32"), ("uops", "int32"), ("acc", "int32"), ("acc_state", "int32"))
        stamps = (("out_read", "int32"), ("out_written", "int32"))
        self.names = (*head, *stamps, *names)
        self.buffers = {name: self.code.pointer(name, dtype, ANY) for name, dtype in self.names}

    def param(self, which: Param) -> Expr:
        return self.code.load(self.buffers["params"], int(which), 1)

    def get(self, name: str, index: Expr) -> Expr:
        return self.code.load(self.buffers[name], index, 1)

    def put(self, name: str, index: Expr, value: Expr) -> None:
        self.code.store(self.buffers[name], index, value)

    def run(self, body: Callable[[Expr, Expr, Expr], Expr]) -> Kernel:
        """`body` is given dst, src and wgt of a micro-op and answers whether it was allowed."""
        code = self.code
        begin, count = self.param(Param.UOP_BEGIN), self.param(Param.UOP_COUNT)
        factors = [
            (self.param(outer), self.param(inner))
            for outer, inner in (
                (Param.DST_OUT, Param.DST_IN),
                (Param.SRC_OUT, Param.SRC_IN),
                (Param.WGT_OUT, Param.WGT_IN),
            )
        ]
        with (
            code.loop(self.param(Param.LOOP_OUT), "outer") as outer,
            code.loop(self.param(Param.LOOP_IN), "inner") as inner,
        ):
            starts = [code.let(outer * a + inner * b) for a, b in factors]
            with code.loop(count, "step") as step:
                at = code.let((begin + step) * 3)
                dst, src, wgt = (code.let(self.get("uops", at + n) + start) for n, start in enumerate(starts))
                allowed = body(dst, src, wgt)
                first = tirx.EQ(code.load(self.buffers["params"], int(Param.FAULT), 1), 0)
                with code.when(tirx.And(tirx.Not(allowed), first)):
                    self.put("params", int(Param.FAULT), tirx.IntImm("int32", 1))
                    self.put("params", int(Param.FAULT_OUT), outer)
                    self.put("params", int(Param.FAULT_IN), inner)
                    self.put("params", int(Param.FAULT_UOP), begin + step)
        return Kernel(code.finish(), tuple(name for name, _ in self.names))

    def touch(self, dst: Expr, state: State) -> Expr:
        """Marks an ACC element as written; whether the store queue is done with what it held."""
        free = self.code.hold(tirx.LE(self.get("out_read", dst), self.param(Param.STORES_DONE)))
        self.put("acc_state", dst, tirx.IntImm("int32", int(state)))
        self.put("out_written", dst, self.param(Param.POSITION))
        return free


def gemm(geometry: Geometry, isa: Isa) -> Kernel:
    """acc[dst] += inp[src] @ wgt[wgt].T; `correction` starts the sum, i32[block] a weight element."""
    dot = geometry.dot
    stamps = tuple((f"{buffer}_{what}", "int32") for buffer in ("inp", "wgt") for what in ("written", "read"))
    loops = _Loops((("inp", dot.x_dtype), ("wgt", dot.w_dtype), ("correction", "int32"), *stamps))
    code, buffers = loops.code, loops.buffers
    lanes = min(geometry.block, isa.lanes("int32"))

    def body(dst: Expr, src: Expr, wgt: Expr) -> Expr:
        allowed = tirx.GT(loops.get("acc_state", dst), 0)
        for name, index in (("inp", src), ("wgt", wgt)):
            stamp = loops.get(f"{name}_written", index)
            known = tirx.And(tirx.GT(stamp, 0), tirx.LE(stamp, loops.param(Param.LOADS_DONE)))
            allowed = tirx.And(allowed, known)
            loops.put(f"{name}_read", index, loops.param(Param.POSITION))
        allowed = tirx.And(code.hold(allowed), loops.touch(dst, State.STORABLE))
        for row in range(geometry.batch):
            x_at = code.let(src * geometry.inp + row * geometry.depth)
            acc_at = code.let(dst * geometry.acc + row * geometry.block)
            for column in range(0, geometry.block, lanes):
                total = code.load(buffers["acc"], acc_at + column, lanes)
                if dot.shift:
                    total = total + code.load(buffers["correction"], wgt * geometry.block + column, lanes)
                for k in range(0, geometry.depth, dot.group):
                    x = dot.spread(dot.load_x(buffers["inp"], x_at + k), lanes)
                    w_at = wgt * geometry.wgt + k * geometry.block + column * dot.group
                    total = code.let(dot.accumulate(total, x, dot.load_w(buffers["wgt"], w_at, lanes)))
                code.store(buffers["acc"], acc_at + column, total)
        return allowed

    return loops.run(body)


def reset(geometry: Geometry, isa: Isa) -> Kernel:
    """acc[dst] = 0."""
    loops = _Loops(())
    lanes = min(geometry.acc, isa.lanes("int32"))

    def body(dst: Expr, src: Expr, wgt: Expr) -> Expr:
        for at in range(0, geometry.acc, lanes):
            zeros = emit.const(0, "int32", lanes)
            loops.code.store(loops.buffers["acc"], dst * geometry.acc + at, zeros)
        return loops.touch(dst, State.WRITTEN)

    return loops.run(body)


Operation = Callable[[Expr, Expr], Expr]
OPERATIONS: dict[str, Operation] = {
    "min": lambda a, b: tirx.Min(a, b),
    "max": lambda a, b: tirx.Max(a, b),
    "add": lambda a, b: a + b,
    "shr": lambda a, b: a >> b,
    "shl": lambda a, b: a << b,
}


def alu_immediate(operation: Operation, geometry: Geometry, isa: Isa) -> Kernel:
    """acc[dst] = operation(acc[dst], imm)."""
    loops = _Loops(())
    code, acc = loops.code, loops.buffers["acc"]
    lanes = min(geometry.acc, isa.lanes("int32"))

    def body(dst: Expr, src: Expr, wgt: Expr) -> Expr:
        allowed = code.hold(tirx.GT(loops.get("acc_state", dst), 0))
        imm = emit.splat(loops.param(Param.IMM), lanes)
        for at in range(0, geometry.acc, lanes):
            place = code.let(dst * geometry.acc + at)
            code.store(acc, place, operation(code.load(acc, place, lanes), imm))
        return tirx.And(allowed, loops.touch(dst, State.STORABLE))

    return loops.run(body)


def alu_tensor(operation: Operation, geometry: Geometry, isa: Isa, *, shift: bool = False) -> Kernel:
    """acc[dst] = operation(acc[dst], acc[src]); a `shift` must lie in 0..15 in every lane."""
    loops = _Loops(())
    code, acc = loops.code, loops.buffers["acc"]
    lanes = min(geometry.acc, isa.lanes("int32"))

    def body(dst: Expr, src: Expr, wgt: Expr) -> Expr:
        states = [tirx.GT(loops.get("acc_state", index), 0) for index in (dst, src)]
        allowed = code.hold(tirx.And(*states))
        for at in range(0, geometry.acc, lanes):
            place = code.let(dst * geometry.acc + at)
            operand = code.load(acc, src * geometry.acc + at, lanes)
            if shift:
                for lane in range(lanes):
                    value = tirx.Shuffle([operand], [lane]) if lanes > 1 else operand
                    inside = tirx.And(tirx.GE(value, 0), tirx.LE(value, 15))
                    allowed = code.hold(tirx.And(allowed, inside))
                operand = operand & emit.const(31, "int32", lanes)
            code.store(acc, place, operation(code.load(acc, place, lanes), operand))
        return tirx.And(allowed, loops.touch(dst, State.STORABLE))

    return loops.run(body)


@dataclass(frozen=True)
class Kernels:
    """The compiled operations of a batch and block size: `gemm`, `reset`, `min_imm`, `min_tensor`, ..."""

    geometry: Geometry
    compiled: dict[str, Compiled]


@lru_cache(maxsize=16)
def kernels(batch: int, block: int, isa: Isa) -> Kernels:
    """The operations compiled for an instruction set, once per process."""
    geometry = Geometry(batch, block, integer_dot("int8", isa))
    table = {"gemm": gemm(geometry, isa), "reset": reset(geometry, isa)}
    for name, operation in OPERATIONS.items():
        table[f"{name}_imm"] = alu_immediate(operation, geometry, isa)
        if name != "shl":
            table[f"{name}_tensor"] = alu_tensor(operation, geometry, isa, shift=name == "shr")
    return Kernels(geometry, compile_kernels(table, isa))
