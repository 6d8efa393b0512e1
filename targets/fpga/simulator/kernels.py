"""The inner loops of GEMM and ALU as machine code, for one batch and block size.

The function runs all micro-ops of an instruction, in order. Beside the arithmetic it keeps stamps, so that
what is read too early or overwritten too early is found at no cost worth naming: for each element, the place
in its queue of the instruction that wrote it last, and of the one that read it last. An element may be read
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
from hardy.targets.fpga.simulator.rules import MAX_SHIFT


class Param(IntEnum):
    """What the function is told, by place in `params`; the FAULT entries are its answer.

    FAULT is 1 where a micro-op touched what it may not; the next three are the first such one's loop counters
    and number.
    """

    OPERATION = 0
    UOP_BEGIN = auto()
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

Body = Callable[[Expr, Expr, Expr], Expr]


class Operation(IntEnum):
    """What the function runs: entry `OPERATION` of its parameters."""

    GEMM = 0
    RESET = auto()
    MIN_IMM = auto()
    MAX_IMM = auto()
    ADD_IMM = auto()
    SHR_IMM = auto()
    SHL_IMM = auto()
    MIN_TENSOR = auto()
    MAX_TENSOR = auto()
    ADD_TENSOR = auto()
    SHR_TENSOR = auto()


_ARITHMETIC: dict[str, Callable[[Expr, Expr], Expr]] = {
    "MIN": lambda a, b: tirx.Min(a, b),
    "MAX": lambda a, b: tirx.Max(a, b),
    "ADD": lambda a, b: a + b,
    "SHR": lambda a, b: a >> b,
    "SHL": lambda a, b: a << b,
}


class _Function:
    """The function under construction: its parameters, and each operation with its loops."""

    def __init__(self, geometry: Geometry, isa: Isa) -> None:
        self.geometry = geometry
        self.lanes = min(geometry.block, isa.lanes("int32"))
        self.code = Code()
        kept = ("acc_state", "out_read", "out_written")
        stamps = ("inp_written", "inp_read", "wgt_written", "wgt_read")
        types = {"inp": geometry.dot.x_dtype, "wgt": geometry.dot.w_dtype}
        self.names = ("params", "uops", "acc", *kept, "inp", "wgt", "correction", *stamps)
        self.buffers = {name: self.code.pointer(name, types.get(name, "int32"), ANY) for name in self.names}

    def param(self, which: Param) -> Expr:
        return self.get("params", int(which))

    def get(self, name: str, index: Expr, lanes: int = 1) -> Expr:
        return self.code.load(self.buffers[name], index, lanes)

    def put(self, name: str, index: Expr, value: Expr) -> None:
        self.code.store(self.buffers[name], index, value)

    def operation(self, which: Operation, body: Body) -> None:
        """`body` is given dst, src and wgt of a micro-op and answers whether it was allowed."""
        with self.code.when(tirx.EQ(self.param(Param.OPERATION), int(which))):
            self._loops(body)

    def _loops(self, body: Body) -> None:
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
                first = tirx.EQ(self.param(Param.FAULT), 0)
                with code.when(tirx.And(tirx.Not(allowed), first)):
                    self.put("params", int(Param.FAULT), tirx.IntImm("int32", 1))
                    self.put("params", int(Param.FAULT_OUT), outer)
                    self.put("params", int(Param.FAULT_IN), inner)
                    self.put("params", int(Param.FAULT_UOP), begin + step)

    def touch(self, dst: Expr, state: State) -> Expr:
        """Marks an ACC element as written; whether the store queue is done with what it held."""
        free = self.code.hold(tirx.LE(self.get("out_read", dst), self.param(Param.STORES_DONE)))
        self.put("acc_state", dst, tirx.IntImm("int32", int(state)))
        self.put("out_written", dst, self.param(Param.POSITION))
        return free

    def gemm(self, dst: Expr, src: Expr, wgt: Expr) -> Expr:
        """acc[dst] += inp[src] @ wgt[wgt].T; `correction` starts the sum, i32[block] a weight element."""
        code, geometry, dot, lanes = self.code, self.geometry, self.geometry.dot, self.lanes
        allowed = tirx.GT(self.get("acc_state", dst), 0)
        for name, index in (("inp", src), ("wgt", wgt)):
            stamp = self.get(f"{name}_written", index)
            known = tirx.And(tirx.GT(stamp, 0), tirx.LE(stamp, self.param(Param.LOADS_DONE)))
            allowed = tirx.And(allowed, known)
            self.put(f"{name}_read", index, self.param(Param.POSITION))
        allowed = tirx.And(code.hold(allowed), self.touch(dst, State.STORABLE))
        for row in range(geometry.batch):
            x_at = code.let(src * geometry.inp + row * geometry.depth)
            acc_at = code.let(dst * geometry.acc + row * geometry.block)
            for column in range(0, geometry.block, lanes):
                total = self.get("acc", acc_at + column, lanes)
                if dot.shift:
                    total = total + self.get("correction", wgt * geometry.block + column, lanes)
                for k in range(0, geometry.depth, dot.group):
                    x = dot.spread(dot.load_x(self.buffers["inp"], x_at + k), lanes)
                    w_at = wgt * geometry.wgt + k * geometry.block + column * dot.group
                    w = dot.load_w(self.buffers["wgt"], w_at, lanes)
                    total = code.let(dot.accumulate(total, x, w))
                self.put("acc", acc_at + column, total)
        return allowed

    def reset(self, dst: Expr, src: Expr, wgt: Expr) -> Expr:
        """acc[dst] = 0."""
        for at in range(0, self.geometry.acc, self.lanes):
            self.put("acc", dst * self.geometry.acc + at, emit.const(0, "int32", self.lanes))
        return self.touch(dst, State.WRITTEN)

    def immediate(self, which: Operation) -> Body:
        """acc[dst] = operation(acc[dst], imm)."""
        apply = _ARITHMETIC[which.name.partition("_")[0]]

        def body(dst: Expr, src: Expr, wgt: Expr) -> Expr:
            allowed = self.code.hold(tirx.GT(self.get("acc_state", dst), 0))
            imm = emit.splat(self.param(Param.IMM), self.lanes)
            for at in range(0, self.geometry.acc, self.lanes):
                place = self.code.let(dst * self.geometry.acc + at)
                self.put("acc", place, apply(self.get("acc", place, self.lanes), imm))
            return tirx.And(allowed, self.touch(dst, State.STORABLE))

        return body

    def tensor(self, which: Operation) -> Body:
        """acc[dst] = operation(acc[dst], acc[src]); a shift must lie in 0..15 in every lane."""
        code, lanes = self.code, self.lanes
        apply = _ARITHMETIC[which.name.partition("_")[0]]

        def body(dst: Expr, src: Expr, wgt: Expr) -> Expr:
            states = [tirx.GT(self.get("acc_state", index), 0) for index in (dst, src)]
            allowed = code.hold(tirx.And(*states))
            for at in range(0, self.geometry.acc, lanes):
                place = code.let(dst * self.geometry.acc + at)
                operand = self.get("acc", src * self.geometry.acc + at, lanes)
                if which == Operation.SHR_TENSOR:
                    for lane in range(lanes):
                        value = tirx.Shuffle([operand], [lane]) if lanes > 1 else operand
                        inside = tirx.And(tirx.GE(value, 0), tirx.LE(value, MAX_SHIFT))
                        allowed = code.hold(tirx.And(allowed, inside))
                    operand = operand & emit.const(31, "int32", lanes)
                self.put("acc", place, apply(self.get("acc", place, lanes), operand))
            return tirx.And(allowed, self.touch(dst, State.STORABLE))

        return body


@dataclass(frozen=True)
class Kernels:
    """The compiled function of a batch and block size; its arguments are `_Function.names`, in order."""

    geometry: Geometry
    compiled: Compiled


@lru_cache(maxsize=16)
def kernels(batch: int, block: int, isa: Isa) -> Kernels:
    """The function of a batch and block size, compiled for an instruction set once per process.

    It is one function that branches to the operation, since the checks of its many arguments take longer to
    compile than what it does.
    """
    geometry = Geometry(batch, block, integer_dot("int8", isa))
    f = _Function(geometry, isa)
    for which in Operation:
        if which.name.endswith("_IMM"):
            f.operation(which, f.immediate(which))
        elif which.name.endswith("_TENSOR"):
            f.operation(which, f.tensor(which))
    f.operation(Operation.GEMM, f.gemm)
    f.operation(Operation.RESET, f.reset)
    kernel = Kernel(f.code.finish(), f.names)
    return Kernels(geometry, compile_kernels({"micro_ops": kernel}, isa)["micro_ops"])
