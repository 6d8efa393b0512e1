"""Lowers ops that walk along one axis in order: positions of extremes, running sums, the k greatest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from hardy.compiler.ir import Node
from hardy.compiler.ops.reduce import ArgExtremum, ArgMax, CumSum, TopK
from hardy.compiler.types import DType, TensorType
from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr
from hardy.targets.cpu.kernels.math import select
from hardy.targets.cpu.lower import arith
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.fold import leave
from hardy.targets.cpu.lower.nest import pieces
from hardy.targets.cpu.program import KernelFunction, Ref
from hardy.targets.cpu.select import Selector

INSERTION = 64  # up to so many results are kept sorted by insertion; more are merge-sorted


@dataclass(frozen=True)
class Lines:
    """x as [outer, n, inner]: the lines along one axis."""

    outer: int
    n: int
    inner: int

    @classmethod
    def along(cls, t: TensorType, axis: int) -> Lines:
        if not t.shape:
            return cls(1, 1, 1)
        return cls(math.prod(t.shape[:axis]), t.shape[axis], math.prod(t.shape[axis + 1 :]))

    @property
    def size(self) -> int:
        return self.outer * self.n * self.inner


def ordered(dtype: DType) -> DType:
    """The type in which elements are compared."""
    return DType.u8 if dtype is DType.boolean else dtype


def call_alone(
    selector: Selector, cluster: Cluster, label: str, write: Callable[[Code, Sequence[Buffer]], int]
) -> bool:
    """A kernel of its own for the cluster's only node.

    `write(code, buffers)` gets a buffer for each operand and result and answers how many bytes of
    workspace the kernel declared after them.
    """
    if len(cluster.nodes) > 1:
        return False
    (node,) = cluster.nodes

    def make(name: str) -> KernelFunction:
        code = Code()
        values = [("x", v) for v in node.operands] + [("y", v) for v in node.values]
        buffers = [
            code.pointer(f"{prefix}{i}", arith.STORAGE[v.type.dtype], v.type.size)
            for i, (prefix, v) in enumerate(values)
        ]
        workspace = write(code, buffers)
        return KernelFunction(name, code.finish(), workspace)

    key = ("alone", node.op, tuple(v.type for v in node.operands))
    kernel = selector.kernel(key, f"{label}_{cluster.label}", make)
    reads = [selector.source(cluster.actual.get(v, v)) for v in node.operands]
    selector.call(kernel, reads, [_target(selector, cluster, node, i) for i in range(len(node.values))])
    return True


def _target(selector: Selector, cluster: Cluster, node: Node, number: int) -> Ref:
    """The place of a result: also of one that nobody uses."""
    value = node.values[number]
    final = dict(zip(cluster.outputs, cluster.results, strict=True))
    return selector.target(final.get(value, value))


def lower_arg(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    op, t = anchor.op, anchor.operands[0].type
    assert isinstance(op, ArgExtremum)
    lines = Lines.along(t, op.axis)

    def write(code: Code, buffers: Sequence[Buffer]) -> int:
        x, y = buffers
        dtype = ordered(t.dtype)
        greatest, last = isinstance(op, ArgMax), op.last

        def better(v: Expr, best: Expr) -> Expr:
            compare = (tirx.GE if last else tirx.GT) if greatest else (tirx.LE if last else tirx.LT)
            wins = compare(v, best)
            if dtype.is_float:
                nan = arith.is_nan(v) if last else tirx.And(arith.is_nan(v), tirx.Not(arith.is_nan(best)))
                wins = tirx.Or(wins, nan)
            return wins

        lanes = min(selector.isa.lanes("int32"), selector.isa.lanes(arith.COMPUTE[dtype]))
        with code.loop(lines.outer) as o:
            for start, count, width in pieces(lines.inner, lanes):
                with code.loop(count) as c:
                    column = c * width + start
                    base = code.let(o * (lines.n * lines.inner) + column)

                    def load(j: Expr, base: Expr = base, width: int = width) -> Expr:
                        return code.hold(
                            arith.from_storage(emit.load(x, base + j * lines.inner, width), dtype)
                        )

                    best = code.register(arith.COMPUTE[dtype], width)
                    place = code.register("int32", width)
                    best.set(load(0))
                    place.set(emit.const(0, "int32", width))
                    if lines.n > 1:
                        with code.loop(lines.n - 1, start=1) as j:
                            value = load(j)
                            wins = code.hold(better(value, best.get()))
                            place.set(select(wins, emit.splat(j, width), place.get()))
                            best.set(select(wins, value, best.get()))
                    code.store(y, o * lines.inner + column, arith.cast(place.get(), "int64"))
        return 0

    return call_alone(selector, cluster, "arg", write)


def lower_cumsum(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    op, t = anchor.op, anchor.type
    assert isinstance(op, CumSum)
    lines = Lines.along(t, op.axis)
    # Long chains of additions lose precision: floats are summed in f64.
    acc_dtype = "float64" if t.dtype.is_float else "int64"

    def write(code: Code, buffers: Sequence[Buffer]) -> int:
        x, y = buffers
        lanes = selector.isa.lanes(acc_dtype)
        with code.loop(lines.outer) as o:
            for start, count, width in pieces(lines.inner, lanes):
                with code.loop(count) as c:
                    base = code.let(o * (lines.n * lines.inner) + c * width + start)
                    acc = code.register(acc_dtype, width)
                    acc.set(emit.const(0, acc_dtype, width))

                    def put(at: Expr, acc: emit.Register = acc) -> None:
                        code.store(y, at, arith.to_storage(code.hold(_leave(acc.get(), t.dtype)), t.dtype))

                    with code.loop(lines.n) as i:
                        j = lines.n - 1 - i if op.reverse else i
                        at = code.let(base + j * lines.inner)
                        # Loaded before the store: the result may overwrite x.
                        value = code.hold(arith.from_storage(emit.load(x, at, width), t.dtype))
                        if op.exclusive:
                            put(at)
                        acc.set(arith.add(acc.get(), arith.cast(value, acc_dtype)))
                        if not op.exclusive:
                            put(at)
        return 0

    return call_alone(selector, cluster, "scan", write)


def _leave(acc: Expr, dtype: DType) -> Expr:
    if dtype.is_float:
        return arith.cast(acc, arith.COMPUTE[dtype])
    return leave(acc, dtype)


def lower_top_k(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    op, t = anchor.op, anchor.operands[0].type
    assert isinstance(op, TopK)
    lines = Lines.along(t, op.axis)

    def write(code: Code, buffers: Sequence[Buffer]) -> int:
        x, values, positions = buffers
        short = min(op.k, lines.n) <= INSERTION
        count = op.k if short else 2 * lines.n
        order = code.pointer("workspace", "int32", count)
        sorter = _Sorter(code, selector.isa, x, ordered(t.dtype), lines, op)
        with code.loop(lines.outer) as o, code.loop(lines.inner) as i:
            sorter.base = code.let(o * (lines.n * lines.inner) + i)
            start = sorter.insert(order) if short else sorter.merge(order)
            with code.loop(op.k) as j:
                at = code.let(o * (op.k * lines.inner) + j * lines.inner + i)
                place = code.load(order, start + j, 1)
                code.store(positions, at, arith.cast(place, "int64"))
                code.store(values, at, emit.load(x, sorter.base + place * lines.inner, 1))
        return count * 4

    return call_alone(selector, cluster, "sort", write)


@dataclass
class _Sorter:
    """Sorts positions of one line of x that begins at `base`."""

    code: Code
    isa: Isa
    x: Buffer
    dtype: DType
    lines: Lines
    op: TopK
    base: Expr = 0

    def load(self, place: Expr) -> Expr:
        raw = emit.load(self.x, self.base + place * self.lines.inner, 1)
        return self.code.hold(arith.from_storage(raw, self.dtype))

    def before(self, v: Expr, w: Expr) -> Expr:
        """Whether v comes strictly before w; NaN counts as the greatest."""
        wins = tirx.GT(v, w) if self.op.largest else tirx.LT(v, w)
        if self.dtype.is_float:
            high, low = (v, w) if self.op.largest else (w, v)
            wins = tirx.Or(wins, tirx.And(arith.is_nan(high), tirx.Not(arith.is_nan(low))))
        return wins

    def insert(self, order: Buffer) -> Expr:
        """Keeps the best k so far in order; returns where they begin."""
        code, k = self.code, self.op.k
        slot = code.register("int32", 1)
        with code.loop(self.lines.n) as j:
            value = self.load(j)
            slot.set(tirx.Min(j, tirx.IntImm("int32", k - 1)))
            enters = tirx.LT(j, tirx.IntImm("int32", k))
            # Until k are kept, the last slot holds nothing: position 0 stands in for it.
            last = code.hold(select(enters, tirx.IntImm("int32", 0), code.load(order, k - 1, 1)))
            with code.when(tirx.Or(enters, self.before(value, self.load(last)))):
                with code.loop(max(k - 1, 1), "shift"):
                    left = tirx.Max(slot.get() - 1, tirx.IntImm("int32", 0))
                    inside = code.hold(tirx.GT(slot.get(), 0))
                    neighbour = code.hold(select(inside, code.load(order, left, 1), tirx.IntImm("int32", 0)))
                    moves = tirx.And(inside, self.before(value, self.load(neighbour)))
                    with code.when(moves):
                        code.store(order, slot.get(), neighbour)
                        slot.set(slot.get() - 1)
                code.store(order, slot.get(), j)
        return 0

    def merge(self, order: Buffer) -> Expr:
        """Merge sort of all positions between the two halves of `order`; returns where the result begins."""
        code, n = self.code, self.lines.n
        with code.loop(n) as j:
            code.store(order, j, j)
        source, target, width = 0, n, 1
        left, right = code.register("int32", 1), code.register("int32", 1)
        while width < n:
            with code.loop(-(-n // (2 * width)), "run") as run:
                first = code.let(run * (2 * width))
                middle = code.let(tirx.Min(first + width, tirx.IntImm("int32", n)))
                end = code.let(tirx.Min(first + 2 * width, tirx.IntImm("int32", n)))
                left.set(first)
                right.set(middle)
                with code.loop(end - first, "t") as t:
                    a = code.load(order, source + tirx.Min(left.get(), middle - 1), 1)
                    b = code.load(order, source + tirx.Min(right.get(), end - 1), 1)
                    # Equal elements keep their order: the right run goes first only where strictly before.
                    strictly = self.before(self.load(b), self.load(a))
                    take = tirx.Or(tirx.GE(left.get(), middle), tirx.And(tirx.LT(right.get(), end), strictly))
                    take = code.hold(take)
                    code.store(order, target + first + t, select(take, b, a))
                    step = code.hold(arith.cast(take, "int32"))
                    right.set(right.get() + step)
                    left.set(left.get() + (1 - step))
            source, target, width = target, source, 2 * width
        return source
