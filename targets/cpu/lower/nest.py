"""Loop nests over elements: injective clusters, where each result element has its own expression."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

from hardy.compiler.ir import Node, Value
from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr
from hardy.targets.cpu.lower import arith, index, scalar
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.elements import Bound, Elements
from hardy.targets.cpu.lower.index import Axis, Index
from hardy.targets.cpu.lower.movement import At
from hardy.targets.cpu.lower.trace import Trace

MAX_BOXES = 64
BLOCK = 16  # elements of the inner loop of a transposition that are done together


@dataclass(frozen=True)
class Box:
    """A rectangular part of an index space: index tuples over loop axes, outermost first."""

    at: At
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Loop:
    """Axes that run as one loop: the innermost carries the variable, the others are folded into it.

    `count` replaces the number of iterations where the loop is written in blocks.
    """

    axes: tuple[Axis, ...]
    count: int | None = None

    @property
    def extent(self) -> int:
        if self.count is not None:
            return self.count
        total = 1
        for axis in self.axes:
            total *= axis.extent
        return total

    def bind(self, env: dict[Axis, Expr], variable: Expr) -> None:
        for axis in self.axes:
            env[axis] = 0
        env[self.axes[-1]] = variable


def whole(shape: Sequence[int]) -> Box:
    """The index space of a tensor."""
    axes = [Axis(n) for n in shape]
    return Box(tuple(index.of_axis(a) for a in axes), tuple(a for a in axes if a.extent != 1))


def refine(
    box: Box, values: Sequence[Value], inside: set[Node], bound: Mapping[Value, object], cuts: bool = True
) -> list[tuple[Box, Trace]]:
    """Cuts and splits a box until every access is simple, or nothing helps; with each part's trace."""
    done: list[tuple[Box, Trace]] = []
    work = [box]
    while work:
        part = work.pop()
        trace = Trace(inside, bound)
        for value in values:
            trace.visit(value, part.at)
        wanted = {a: sorted(p) for a, p in trace.cuts.items() if p and a in part.axes}
        if cuts and wanted and len(done) + len(work) + 1 + max(map(len, wanted.values())) <= MAX_BOXES:
            axis, points = next(iter(wanted.items()))
            work.extend(reversed(_cut(part, axis, points)))
            continue
        splits = [s for s in trace.splits if s[0] in part.axes]
        if splits:
            work.append(_split(part, *splits[0]))
            continue
        done.append((part, trace))
    return done


def _replace(box: Box, axis: Axis, by: Index, axes: Sequence[Axis]) -> Box:
    at = tuple(i.substitute({axis: by}) for i in box.at)
    position = box.axes.index(axis)
    return Box(at, (*box.axes[:position], *axes, *box.axes[position + 1 :]))


def _cut(box: Box, axis: Axis, points: Sequence[int]) -> list[Box]:
    ends = [0, *points, axis.extent]
    parts = []
    for start, stop in pairwise(ends):
        piece = Axis(stop - start)
        axes = [piece] if piece.extent > 1 else []
        parts.append(_replace(box, axis, index.of_axis(piece) + start, axes))
    return parts


def _split(box: Box, axis: Axis, inner: int) -> Box:
    high, low = Axis(axis.extent // inner), Axis(inner)
    by = index.of_axis(high) * inner + index.of_axis(low)
    return _replace(box, axis, by, [a for a in (high, low) if a.extent > 1])


def merge(axes: Sequence[Axis], accesses: Sequence[Index]) -> list[Loop]:
    """Runs neighbouring axes as one loop where every access steps evenly through both."""
    bent = {a for access in accesses for a in access.bent()}
    loops: list[Loop] = []
    for axis in axes:
        if loops:
            outer = loops[-1].axes[-1]
            even = all(x.terms.get(outer, 0) == x.terms.get(axis, 0) * axis.extent for x in accesses)
            if even and outer not in bent and axis not in bent:
                loops[-1] = Loop((*loops[-1].axes, axis))
                continue
        loops.append(Loop((axis,)))
    return loops


def vector_lanes(nodes: Sequence[Node], isa: Isa) -> int:
    """Lanes of a vector of the widest type that the nodes compute with."""
    types = {v.type.dtype for n in nodes for v in (*n.values, *n.operands)}
    widths = [32 if d in arith.SMALL else 8 * arith.storage_bytes(d) for d in types]
    return max(1, isa.vector_bits // max(widths, default=32))


def is_smooth(axis: Axis, accesses: Sequence[Index], tests: Sequence[Index]) -> bool:
    """Whether all accesses are vector loads or broadcasts along an axis and no branch depends on it."""
    if any(axis in t.all_axes for t in tests):
        return False
    return all(axis not in x.bent() and x.terms.get(axis, 0) in (0, 1) for x in accesses)


def pieces(extent: int, lanes: int) -> Iterator[tuple[int, int, int]]:
    """Cuts a loop into (start, count, lanes): full vectors, then narrower ones for the rest."""
    start = 0
    for width in dict.fromkeys((lanes, min(lanes, 4), 1)):
        count = (extent - start) // width
        if count:
            yield start, count, width
            start += count * width


@dataclass
class Injective:
    """Writes the loop nests of an injective cluster."""

    code: Code
    cluster: Cluster
    isa: Isa
    buffers: Mapping[Value, Buffer]
    bound: Mapping[Value, Bound]
    in_place: set[Value]

    def write(self) -> None:
        """Results of one shape share their loops."""
        by_shape: dict[tuple[int, ...], list[Value]] = {}
        for value in self.cluster.outputs:
            by_shape.setdefault(value.type.shape, []).append(value)
        inside = set(self.cluster.nodes)
        if len(by_shape) > 1:
            self.in_place.clear()
        for shape, values in by_shape.items():
            if 0 not in shape:
                for box, trace in refine(whole(shape), values, inside, self.bound):
                    self._box(box, trace, values, inside)

    def _box(self, box: Box, trace: Trace, values: Sequence[Value], inside: set[Node]) -> None:
        shape = values[0].type.shape
        target = index.flatten(box.at, shape)
        for value, flat in trace.reads:
            if flat != target or value.type.size != values[0].type.size:
                self.in_place.discard(value)
        accesses = [target, *(flat for _, flat in trace.reads), *trace.tests]
        loops = merge(box.axes, accesses)
        nodes = self.cluster.nodes
        lanes = vector_lanes(nodes, self.isa)
        env: dict[Axis, Expr] = {}
        if not loops:
            self._store(env, None, 1, target, values, box, inside)
            return
        inner = loops[-1].axes[-1]
        heavy = any(type(n.op) in scalar.HEAVY for n in nodes)
        smooth = is_smooth(inner, accesses, trace.tests)
        tested = any(inner in t.all_axes for t in trace.tests)
        if any(map(scalar.needs_library, nodes)) or tested or not (smooth or heavy):
            lanes = 1
        with ExitStack() as stack:
            turned = self._turned(loops, accesses) if lanes == 1 and not (smooth or tested) else None
            for loop in loops[:-1]:
                if loop is not turned:
                    loop.bind(env, stack.enter_context(self.code.loop(loop.extent)))
            if turned is not None:
                self._blocks(
                    loops[-1], turned, env, lambda: self._store(env, None, 1, target, values, box, inside)
                )
                return
            for start, count, width in pieces(loops[-1].extent, lanes):
                with self.code.loop(count) as i:
                    loops[-1].bind(env, i * width + start)
                    self._store(env, inner, width, target, values, box, inside)

    def _turned(self, loops: Sequence[Loop], accesses: Sequence[Index]) -> Loop | None:
        """Of a transposition, the loop whose neighbours are neighbours in what is read."""
        if loops[-1].extent <= BLOCK:
            return None
        for loop in loops[:-1]:
            axis = loop.axes[-1]
            if any(axis not in x.bent() and x.terms.get(axis) == 1 for x in accesses[1:]):
                return loop
        return None

    def _blocks(self, inner: Loop, turned: Loop, env: dict[Axis, Expr], body: Callable[[], None]) -> None:
        """Runs over a few elements of the inner loop for all of the turned one, so that every cache line that
        is read is used up while it is there."""
        for start, count, width in ((0, inner.extent // BLOCK, BLOCK), (inner.extent // BLOCK * BLOCK, 1, 0)):
            width = width or inner.extent % BLOCK
            if not count or not width:
                continue
            with self.code.loop(count) as block, self.code.loop(turned.extent) as i:
                turned.bind(env, i)
                with self.code.loop(width) as j:
                    inner.bind(env, block * BLOCK + start + j)
                    body()

    def _store(
        self,
        env: Mapping[Axis, Expr],
        vector: Axis | None,
        lanes: int,
        target: Index,
        values: Sequence[Value],
        box: Box,
        inside: set[Node],
    ) -> None:
        elements = Elements(self.code, inside, self.buffers, env, vector, lanes, self.bound)
        results = [arith.to_storage(elements.value(v, box.at), v.type.dtype) for v in values]
        for value, result in zip(values, results, strict=True):
            self.code.store(self.buffers[value], elements.index(target), result)
