"""Expressions for single elements (or vectors of neighbours) of a cluster's values.

`Trace` walks the same way without writing code: it finds what is read where, and which cuts and splits of the
loops would make every access simple.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tvm import tirx

from hardy.compiler.ir import Node, Value
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr
from hardy.targets.cpu.kernels.math import like
from hardy.targets.cpu.lower import arith, index, scalar
from hardy.targets.cpu.lower.cluster import is_immediate
from hardy.targets.cpu.lower.index import Axis, Index, Loaded, Quotient
from hardy.targets.cpu.lower.movement import SOURCES, At, Choice, Inside, Read, Test, sources

# A value that is already computed: its element at an index tuple, in so many lanes.
Bound = Callable[[At, int], Expr]


def chosen(choice: Choice) -> Read | None:
    """The operand that a choice always takes, None where it depends on the loop."""
    low, high = choice.selector.bounds
    start = 0
    for limit, read in zip(choice.limits, choice.reads, strict=True):
        if start <= low and high < limit:
            return read
        start = limit
    return None


def undecided(inside: Inside) -> list[Test] | None:
    """The tests that depend on the loop; None where one always fails."""
    left = []
    for test in inside.tests:
        low, high = test.index.bounds
        if high < test.low or low >= test.high:
            return None
        whole = test.step == 1 or (test.index + -test.low).remainder(test.step) == index.ZERO
        if low < test.low or high >= test.high or not whole:
            left.append(test)
    return left


@dataclass
class Trace:
    """What evaluating elements at some index tuples reads, and what would simplify it.

    `reads` are the flat positions of loads, `tests` the indices whose value decides a branch, `splits` and
    `cuts` the wanted loop transformations.
    """

    inside: set[Node]
    bound: Mapping[Value, object] = field(default_factory=dict)
    reads: dict[tuple[Value, Index], None] = field(default_factory=dict)
    tests: list[Index] = field(default_factory=list)
    splits: dict[tuple[Axis, int], None] = field(default_factory=dict)
    cuts: dict[Axis, set[int]] = field(default_factory=dict)
    _seen: set[tuple[Value, At]] = field(default_factory=set)

    def visit(self, value: Value, at: At) -> None:
        if (value, at) in self._seen or is_immediate(value) or value in self.bound:
            return
        self._seen.add((value, at))
        if value.node not in self.inside:
            flat = index.flatten(at, value.type.shape)
            self.reads[value, flat] = None
            for wanted in index.factors_wanted(flat):
                self.splits[wanted] = None
            self._loads(flat)
            return
        node = value.node
        if type(node.op) not in SOURCES:
            for operand in node.operands:
                self.visit(operand, index.broadcast(at, operand.type.shape))
            return
        source = sources(node, at)
        if isinstance(source, Read):
            self.visit(source.value, source.at)
        elif isinstance(source, Choice):
            self._choice(source)
        else:
            self._inside(source)

    def _choice(self, choice: Choice) -> None:
        read = chosen(choice)
        if read is not None:
            self.visit(read.value, read.at)
            return
        self._undecided(choice.selector, choice.limits)
        for read in choice.reads:
            self.visit(read.value, read.at)

    def _inside(self, inside: Inside) -> None:
        tests = undecided(inside)
        if tests is None:
            return
        for test in tests:
            self._undecided(test.index, (test.low, test.high))
        self.visit(inside.read.value, inside.read.at)

    def _undecided(self, selector: Index, limits: tuple[int, ...]) -> None:
        self.tests.append(selector)
        self._loads(selector)
        if len(selector.terms) == 1:
            ((atom, c),) = selector.terms.items()
            if isinstance(atom, Axis) and c == 1:
                points = {p - selector.constant for p in limits}
                self.cuts.setdefault(atom, set()).update(p for p in points if 0 < p < atom.extent)

    def _loads(self, flat: Index) -> None:
        for atom in flat.terms:
            if isinstance(atom, Loaded):
                self.visit(atom.value, atom.at)
            elif not isinstance(atom, Axis):
                self._loads(atom.index)


class Elements:
    """Writes the expressions of elements at one point of a loop nest.

    `env` holds the loop variables; along `vector` an expression covers `lanes` neighbours that begin at
    env[vector]. Every element is computed once. Where an element is only read under a condition, its loads are
    guarded by the condition, and what is computed from them is computed in any case.
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
        self._known: dict[tuple[Value, At, Expr], Expr] = {}
        self._guard: Expr = None
        self._single = self if self._vector is None and lanes == 1 else None

    @property
    def _scalars(self) -> Elements:
        """Elements of the first lane only: what indices are made of."""
        if self._single is None:
            self._single = Elements(self._code, self._inside, self._buffers, self._env, bound=self._bound)
        self._single._guard = self._guard
        return self._single

    def value(self, value: Value, at: At) -> Expr:
        """An element in its compute type, in as many lanes as the nest has."""
        if is_immediate(value):
            assert value.literal is not None
            return arith.immediate(value.literal, self._lanes)
        if value in self._bound:
            return self._bound[value](at, self._lanes)
        key = (value, at, self._guard)
        if key not in self._known:
            inside = value.node in self._inside
            self._known[key] = self._code.hold(self._compute(value.node, at) if inside else self._load(value, at))
        return self._known[key]

    def _loads(self, flat: Index) -> None:
        for atom in flat.terms:
            if isinstance(atom, Loaded):
                self.visit(atom.value, atom.at)
            elif not isinstance(atom, Axis):
                self._loads(atom.index)


class Elements:
    """Writes the expressions of elements at one point of a loop nest.

    `env` holds the loop variables; along `vector` an expression covers `lanes` neighbours that begin at
    env[vector]. Every element is computed once. Where an element is only read under a condition, its loads are
    guarded by the condition, and what is computed from them is computed in any case.
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
        self._known: dict[tuple[Value, At, Expr], Expr] = {}
        self._guard: Expr = None
        self._single = self if self._vector is None and lanes == 1 else None

    @property
    def _scalars(self) -> Elements:
        """Elements of the first lane only: what indices are made of."""
        if self._single is None:
            self._single = Elements(self._code, self._inside, self._buffers, self._env, bound=self._bound)
        self._single._guard = self._guard
        return self._single

    def value(self, value: Value, at: At) -> Expr:
        """An element in its compute type, in as many lanes as the nest has."""
        if is_immediate(value):
            assert value.literal is not None
            return arith.immediate(value.literal, self._lanes)
        if value in self._bound:
            return self._bound[value](at, self._lanes)
        key = (value, at, self._guard)
        if key not in self._known:
            inside = value.node in self._inside
            self._known[key] = self._code.hold(self._compute(value.node, at) if inside else self._load(value, at))
        return self._known[key]

    def _immediate(self, value: Value) -> Expr:
        literal = value.literal
        assert literal is not None
        dtype = literal.type.dtype
        number = literal.tensor.reshape(()).to(_plain(dtype)).item()
        return emit.const(number, arith.COMPUTE[dtype], self._lanes)

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
            here = tirx.And(tirx.GE(selector, like(selector, start)), tirx.LT(selector, like(selector, limit)))
            value = self._guarded(here, read)
            result = value if result is None else tirx.Select(emit.splat(here, self._lanes), value, result)
            start = limit
        return result

    def _guarded(self, condition: Expr, read: Read) -> Expr:
        """An element that may only be read where the (scalar) condition holds."""
        before = self._guard
        self._guard = condition if before is None else tirx.And(before, condition)
        value = self.value(read.value, read.at)
        self._guard = before
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

    def _atom(self, atom: index.Atom) -> Expr:
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
