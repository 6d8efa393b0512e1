"""Writes TIR statement by statement: loops, vector loads and stores, registers.

TIR is built directly from its nodes, so what is written here is what LLVM sees; unrolled code is unrolled by
the Python loop that writes it. All buffers are flat, indices are 32-bit element numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import tvm
from tvm import tirx

# A TIR expression or a Python number. TVM has no type stubs.
Expr: TypeAlias = Any
Buffer: TypeAlias = Any

# TIR's stack buffers must stay below 1024 bytes, and index arithmetic is 32 bits wide.
MAX_ELEMENTS = 2**31 - 1


def vector(dtype: str, lanes: int) -> str:
    """TVM's name of a vector type; one lane is the scalar type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def lanes_of(x: Expr) -> int:
    """The number of lanes of an expression."""
    return int(x.ty.dtype.lanes)


def type_of(x: Expr) -> str:
    """TVM's name of an expression's element type."""
    return str(x.ty.dtype.with_lanes(1))


def splat(value: Expr, lanes: int) -> Expr:
    """A scalar expression repeated over the lanes."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def const(value: float, dtype: str, lanes: int) -> Expr:
    """A constant of the given type and lanes."""
    return splat(tirx.const(value, dtype), lanes)


class Register:
    """A vector variable that LLVM keeps in a register."""

    def __init__(self, code: Code, dtype: str, lanes: int) -> None:
        self._code = code
        # One element of a vector type: a scalar index stays whatever a pass makes of vector indices.
        self._index = tirx.IntImm("int32", 0)
        self._buffer = tirx.decl_buffer((1,), vector(dtype, lanes), name="r", layout=None)
        code.add(tirx.AllocBuffer(self._buffer))

    def get(self) -> Expr:
        return tirx.BufferLoad(self._buffer, [self._index])

    def set(self, value: Expr) -> None:
        self._code.add(tirx.BufferStore(self._buffer, value, [self._index]))


class Code:
    """A function under construction. Parameters are raw pointers, in the order of the `pointer` calls."""

    def __init__(self) -> None:
        self._params: list[Any] = []
        self._scopes: list[list[Any]] = [[]]
        _current.set(self)

    def add(self, statement: Any) -> None:
        self._scopes[-1].append(statement)

    def pointer(self, name: str, dtype: str, elements: int) -> Buffer:
        """A parameter that points to that many elements, aligned to the element at least."""
        if elements > MAX_ELEMENTS:
            raise ValueError(f"{name} has {elements} elements, more than 32-bit indices reach")
        data = tirx.Var(name, tvm.ir.PointerType(tvm.ir.PrimType(dtype), "global"))
        size = max(1, int("".join(c for c in dtype if c.isdigit())) // 8)
        buffer = tirx.decl_buffer(
            (max(1, elements),), dtype, name=f"{name}_", data=data, data_alignment=size, layout=None
        )
        self._params.append(data)
        self.add(tirx.DeclBuffer(buffer, data=data))
        return buffer

    @contextmanager
    def loop(
        self, extent: Expr, name: str = "i", *, parallel: bool = False, start: Expr = 0
    ) -> Iterator[Expr]:
        """A loop over start .. start + extent - 1. A loop of one iteration is written without the loop."""
        if isinstance(extent, int) and extent == 1 and not parallel:
            yield start
            return
        var = tirx.Var(name, "int32")
        self._scopes.append([])
        yield var
        body = _sequence(self._scopes.pop())
        kind = tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL
        self.add(tirx.For(var, _int(start), _int(extent), kind, body))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Statements that run only when the condition holds."""
        self._scopes.append([])
        yield
        self.add(tirx.IfThenElse(condition, _sequence(self._scopes.pop()), None))

    def choose(self, condition: Expr, yes: Callable[[], None], no: Callable[[], None]) -> None:
        """The statements of `yes` or those of `no`; a condition that Python knows leaves no branch."""
        if isinstance(condition, bool):
            (yes if condition else no)()
            return
        branches = []
        for write in (yes, no):
            self._scopes.append([])
            write()
            branches.append(_sequence(self._scopes.pop()))
        self.add(tirx.IfThenElse(condition, *branches))

    def let(self, value: Expr, name: str = "v") -> Expr:
        """A variable bound to the value: use it where an expression is needed more than once."""
        if not isinstance(value, tvm.ir.Expr) or isinstance(value, tirx.Var | tirx.IntImm | tirx.FloatImm):
            return value
        var = tirx.Var(name, value.ty)
        self.add(tirx.Bind(var, value))
        return var

    def hold(self, value: Expr) -> Expr:
        """`let` for any expression, through a register.

        TVM's analyzer, which looks into the value of a variable, rejects nested lets and comparisons of
        vectors. LLVM makes the same code of both.
        """
        if not isinstance(value, tvm.ir.Expr) or isinstance(value, tirx.Var | tirx.IntImm | tirx.FloatImm):
            return value
        if isinstance(value, tirx.Broadcast) and isinstance(value.value, tirx.IntImm | tirx.FloatImm):
            return value
        dtype, lanes = type_of(value), lanes_of(value)
        truth = dtype == "bool"
        if truth:
            dtype, value = "uint8", tirx.Cast(vector("uint8", lanes), value)
        register = self.register(dtype, lanes)
        register.set(value)
        held = register.get()
        return tirx.NE(held, const(0, "uint8", lanes)) if truth else held

    def register(self, dtype: str, lanes: int) -> Register:
        return Register(self, dtype, lanes)

    def load(self, buffer: Buffer, index: Expr, lanes: int) -> Expr:
        """`lanes` consecutive elements, loaded here and bound to a variable."""
        return self.let(load(buffer, index, lanes))

    def store(self, buffer: Buffer, index: Expr, value: Expr) -> None:
        """Stores the value's lanes at consecutive elements."""
        self.add(tirx.BufferStore(buffer, value, [_ramp(index, lanes_of(value))]))

    def finish(self) -> Any:
        """The private function; it returns int32 zero."""
        _current.set(None)
        self.add(tirx.Return(tirx.IntImm("int32", 0)))
        attrs = tvm.ir.make_node("ir.DictAttrs", s_tir=True)
        return tirx.PrimFunc(self._params, _sequence(self._scopes[0]), tvm.ir.PrimType("int32"), attrs)


_current: ContextVar[Code | None] = ContextVar("code", default=None)


def current() -> Code | None:
    """The function under construction, None outside."""
    return _current.get()


def load(buffer: Buffer, index: Expr, lanes: int) -> Expr:
    """An expression of `lanes` consecutive elements, loaded where it is used."""
    return tirx.BufferLoad(buffer, [_ramp(index, lanes)])


def minimum(a: Expr, b: Expr) -> Expr:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.Min(_int(a), _int(b))


def maximum(a: Expr, b: Expr) -> Expr:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.Max(_int(a), _int(b))


def floordiv(a: Expr, b: int) -> Expr:
    """a / b rounded down."""
    return a // b if isinstance(a, int) else tirx.FloorDiv(a, _int(b)) if b != 1 else a


def intrinsic(dtype: str, name: str, *args: Expr) -> Expr:
    """A pure LLVM intrinsic; `dtype` is the result's vector type, overloads follow from the operands."""
    return tirx.call_llvm_pure_intrin(dtype, name, *args)


def fma(a: Expr, b: Expr, c: Expr) -> Expr:
    """a * b + c, fused where the instruction set can (LLVM's fmuladd)."""
    return intrinsic(str(a.ty.dtype), "llvm.fmuladd", a, b, c)


def prefetch(code: Code, buffer: Buffer, index: Expr) -> None:
    """Asks for an element's cache line in the second-level cache; the element need not exist."""
    address = tirx.address_of(load(buffer, index, 1))
    read, level, data = (tirx.IntImm("int32", n) for n in (0, 2, 1))
    code.add(tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", address, read, level, data)))


def _ramp(index: Expr, lanes: int) -> Expr:
    return _int(index) if lanes == 1 else tirx.Ramp(_int(index), tirx.IntImm("int32", 1), lanes)


def _int(value: Expr) -> Expr:
    return tirx.IntImm("int32", value) if isinstance(value, int) else value


def _sequence(statements: Sequence[Any]) -> Any:
    if not statements:
        return tirx.Evaluate(tirx.IntImm("int32", 0))
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))
