"""Expressions for single elements (or vectors of neighbours) of a cluster's values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm import tirx

from hardy.compiler.ir import Node, Value
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr
from hardy.targets.cpu.kernels.math import like
from hardy.targets.cpu.lower import arith, index, scalar
from hardy.targets.cpu.lower.cluster import is_immediate
from hardy.targets.cpu.lower.index import Atom, Axis, Index, Loaded, Quotient
from hardy.targets.cpu.lower.movement import SOURCES, At, Choice, Inside, Read, sources
from hardy.targets.cpu.lower.trace import chosen, undecided

# A value that is already computed: its element at an index tuple, in so many lanes.
Bound = Callable[[At, int], Expr]


class Elements:
    """Writes the expressions of elements at one point of a loop nest.

    `env` holds the loop variables; along `vector` an expression covers `lanes` neighbours that begin at
    env[vector]. Every element is computed once. Where an element is only read under a condition, its
    loads are guarded by the condition, and what is computed from them is computed in any case.
    """

    def __init__(
        self,
        code: Code,
        inside: set[Node],
        buffers: Mapping[Value, Buffer],
        env: Mapping[Axis, Expr],
        vector: Axis | None = None,
        lanes: int = 1,
        bound: Mapping[Value, Bound] | None = None,
    ) -> None:
        self._code = code
        self._inside = inside
        self._buffers = buffers
        self._env = env
        self._vector = vector if lanes > 1 else None
        self._lanes = lanes
        self._bound = bound or {}
        self._known: dict[tuple[Value, At, int], Expr] = {}
        # The condition of the branch that is being written, and the branch's number (0 outside).
        self._guard: Expr = None
        self._branch = 0
        self._branches = 0
        self._single = self if self._vector is None and lanes == 1 else None

    @property
    def _scalars(self) -> Elements:
        """Elements of the first lane only: what indices are made of."""
        if self._single is None:
            self._single = Elements(self._code, self._inside, self._buffers, self._env, bound=self._bound)
        self._single._guard, self._single._branch = self._guard, self._branch
        return self._single

    def value(self, value: Value, at: At) -> Expr:
        """An element in its compute type, in as many lanes as the nest has."""
        if is_immediate(value):
            assert value.literal is not None
            return arith.immediate(value.literal, self._lanes)
        if value in self._bound:
            return self._bound[value](at, self._lanes)
        key = (value, at, self._branch)
        if key not in self._known:
            inside = value.node in self._inside
            result = self._compute(value.node, at) if inside else self._load(value, at)
            self._known[key] = self._code.hold(result)
        return self._known[key]

    def _load(self, value: Value, at: At) -> Expr:
        flat = index.flatten(at, value.type.shape)
        loaded = self.load(self._buffers[value], flat)
        if self._guard is not None:
            loaded = tirx.if_then_else(self._guard, loaded, like(loaded, 0))
        return arith.from_storage(self._code.hold(loaded), value.type.dtype)

    def load(self, buffer: Buffer, flat: Index) -> Expr:
        """The element at a flat position: one vector load, a load repeated, or a gather."""
        if self._vector is None or self._vector not in flat.all_axes:
            return emit.splat(tirx.BufferLoad(buffer, [self.index(flat)]), self._lanes)
        if self._vector not in flat.bent() and flat.terms[self._vector] == 1:
            return emit.load(buffer, self.index(flat), self._lanes)
        return tirx.BufferLoad(buffer, [self.indices(flat)])

    def _compute(self, node: Node, at: At) -> Expr:
        if type(node.op) not in SOURCES:
            args = [self.value(v, index.broadcast(at, v.type.shape)) for v in node.operands]
            rule = scalar.rule_for(node)
            assert rule is not None, node.op.name
            dtype = node.operands[0].type.dtype
            return rule(node.op, dtype, args)
        source = sources(node, at)
        if isinstance(source, Read):
            return self.value(source.value, source.at)
        if isinstance(source, Choice):
            return self._choice(source)
        return self._inside_or_fill(source, node.type.dtype)

    def _choice(self, choice: Choice) -> Expr:
        read = chosen(choice)
        if read is not None:
            return self.value(read.value, read.at)
        selector = self.index(choice.selector)
        start, result = 0, None
        for limit, read in zip(choice.limits, choice.reads, strict=True):
            here = tirx.And(
                tirx.GE(selector, like(selector, start)), tirx.LT(selector, like(selector, limit))
            )
            value = self._guarded(here, read)
            result = value if result is None else tirx.Select(emit.splat(here, self._lanes), value, result)
            start = limit
        return result

    def _guarded(self, condition: Expr, read: Read) -> Expr:
        """An element that may only be read where the (scalar) condition holds."""
        before = self._guard, self._branch
        self._guard = condition if self._guard is None else tirx.And(self._guard, condition)
        self._branches += 1
        self._branch = self._branches
        value = self.value(read.value, read.at)
        self._guard, self._branch = before
        return value

    def _inside_or_fill(self, inside: Inside, dtype: DType) -> Expr:
        tests = undecided(inside)
        fill = emit.const(_fill(inside.fill, dtype), arith.COMPUTE[dtype], self._lanes)
        if tests is None:
            return fill
        if not tests:
            return self.value(inside.read.value, inside.read.at)
        conditions = []
        for test in tests:
            i = self.index(test.index)
            conditions += [tirx.GE(i, like(i, test.low)), tirx.LT(i, like(i, test.high))]
            if test.step > 1:
                offset = tirx.FloorMod(i - like(i, test.low), like(i, test.step))
                conditions.append(tirx.EQ(offset, like(i, 0)))
        condition = conditions[0]
        for other in conditions[1:]:
            condition = tirx.And(condition, other)
        value = self._guarded(condition, inside.read)
        return tirx.Select(emit.splat(condition, self._lanes), value, fill)

    def index(self, i: Index) -> Expr:
        """The value of an index (for the first lane) as an i32 expression."""
        total: Expr = None
        for atom, c in i.terms.items():
            part = self._atom(atom)
            part = part * c if c != 1 else part
            total = part if total is None else total + part
        if total is None:
            return tirx.IntImm("int32", i.constant)
        total = total + i.constant if i.constant else total
        return tirx.IntImm("int32", total) if isinstance(total, int) else total

    def _atom(self, atom: Atom) -> Expr:
        if isinstance(atom, Axis):
            return self._env[atom]
        if isinstance(atom, Loaded):
            return self._scalars._wrapped(self._scalars.value(atom.value, atom.at), atom)
        inner = self.index(atom.index)
        divisor = tirx.IntImm("int32", atom.divisor)
        return (tirx.FloorDiv if isinstance(atom, Quotient) else tirx.FloorMod)(inner, divisor)

    def _wrapped(self, picked: Expr, atom: Loaded) -> Expr:
        """A run-time index as i32: counted from the end when negative, kept inside the axis."""
        wide = arith.cast(picked, "int64")
        size = like(wide, atom.size)
        wide = tirx.Select(tirx.LT(wide, like(wide, 0)), wide + size, wide)
        inside = tirx.Max(tirx.Min(wide, size - like(wide, 1)), like(wide, 0))
        return self._code.hold(arith.cast(inside, "int32"))

    def indices(self, i: Index) -> Expr:
        """The values of an index in every lane, as an i32 vector."""
        lanes = self._lanes
        if self._vector not in i.all_axes:
            return emit.splat(self.index(i), lanes)
        if self._vector not in i.bent():
            c = i.terms[self._vector]
            return tirx.Ramp(self.index(i), tirx.IntImm("int32", c), lanes)
        total = emit.const(i.constant, "int32", lanes)
        for atom, c in i.terms.items():
            if isinstance(atom, Axis):
                part = self.indices(Index({atom: 1}))
            elif isinstance(atom, Loaded):
                part = self._wrapped(self.value(atom.value, atom.at), atom)
            else:
                inner = self.indices(atom.index)
                divisor = emit.const(atom.divisor, "int32", lanes)
                part = (tirx.FloorDiv if isinstance(atom, Quotient) else tirx.FloorMod)(inner, divisor)
            total = total + part * emit.const(c, "int32", lanes)
        return total


def _fill(value: float, dtype: DType) -> float | int | bool:
    if dtype.is_float:
        return value
    return bool(value) if dtype is DType.boolean else int(value)
