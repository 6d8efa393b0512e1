"""Lowers reductions over any axes, with elementwise producers and consumers in the same loops.

The loops over what is kept are outside. Where neighbours in memory are kept, a vector holds one
accumulator per lane; where they are reduced, lanes hold partial results that are combined at the end. Long
float sums go through partial sums, so that rounding errors do not grow with the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from hardy.compiler.ir import Node, Value
from hardy.compiler.ops.reduce import Reduction
from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr, Register
from hardy.targets.cpu.lower import arith, index, scalar
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.elements import Elements
from hardy.targets.cpu.lower.fold import Fold, fold_for, leave
from hardy.targets.cpu.lower.index import Axis, Index
from hardy.targets.cpu.lower.injective import declare, sources
from hardy.targets.cpu.lower.movement import At
from hardy.targets.cpu.lower.nest import Box, Loop, is_smooth, merge, refine, vector_lanes, whole
from hardy.targets.cpu.program import KernelFunction
from hardy.targets.cpu.select import Selector

CHAINS = 4  # accumulators side by side, to hide the latency of an addition
CHUNK = 256  # terms of one partial sum


def lower_reduction(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    """One kernel: producers, the reduction, consumers of its result's shape. False where they do not fit."""
    after = _after(cluster, anchor)
    same = all(v.type.shape == anchor.type.shape for n in after for v in n.values)
    if len(cluster.outputs) != 1 or not same or cluster.outputs[0].type.shape != anchor.type.shape:
        return False

    def make(name: str) -> KernelFunction:
        code = Code()
        buffers = declare(code, "x", cluster.inputs) | declare(code, "y", cluster.outputs)
        _Reduce(code, selector.isa, cluster, anchor, buffers).write()
        return KernelFunction(name, code.finish())

    kernel = selector.kernel(("reduce", cluster.key), cluster.label, make)
    selector.call(kernel, sources(selector, cluster), [selector.target(v) for v in cluster.results])
    return True


def _after(cluster: Cluster, anchor: Node) -> list[Node]:
    """The nodes that depend on the anchor."""
    reached = {anchor}
    for node in cluster.nodes:
        if any(v.node in reached for v in node.operands):
            reached.add(node)
    return [n for n in cluster.nodes if n in reached and n is not anchor]


@dataclass
class _Reduce:
    code: Code
    isa: Isa
    cluster: Cluster
    anchor: Node
    buffers: dict[Value, Buffer]
    env: dict[Axis, Expr] = field(default_factory=dict)

    def write(self) -> None:
        op = self.anchor.op
        assert isinstance(op, Reduction)
        (operand,) = self.anchor.operands
        self.inside = set(self.cluster.nodes)
        self.operand = operand
        self.fold: Fold = fold_for(type(op), operand.type.dtype)
        ((box, trace),) = refine(whole(operand.type.shape), [operand], self.inside, {}, cuts=False)
        self.box: Box = box
        kept_at = [i for d, i in enumerate(box.at) if d not in op.axes]
        reduced = {a for d in op.axes for a in box.at[d].all_axes}
        self.out_at: At = _spread(kept_at, op, operand.type.rank)
        store = index.flatten(self.out_at, self.anchor.type.shape)
        reads = [flat for _, flat in trace.reads]
        self.kept = merge([a for a in box.axes if a not in reduced], [*reads, *trace.tests, store])
        self.reduced = merge([a for a in box.axes if a in reduced], [*reads, *trace.tests])
        empty = 0 in operand.type.shape
        nodes = self.cluster.nodes
        wide = arith.storage_bytes(operand.type.dtype) if self.fold.dtype != "int64" else 8
        lanes = min(vector_lanes(nodes, self.isa), self.isa.vector_bits // (8 * wide))
        if any(map(scalar.needs_library, nodes)):
            lanes = 1
        across = self._contiguous(self.reduced, reads, trace.tests)
        along = self._contiguous(self.kept, [*reads, store], trace.tests)
        if empty:
            self._kept_scalars(lambda: self.fold.identity(1))
        elif lanes > 1 and across and not along:
            self._kept_scalars(lambda: self._lanes_fold(lanes))
        elif lanes > 1 and along and self.kept:
            self._kept_vectors(lanes)
        else:
            self._kept_scalars(lambda: self._lanes_fold(1))

    def _contiguous(self, loops: Sequence[Loop], accesses: Sequence[Index], tests: Sequence[Index]) -> bool:
        """Whether the innermost of the loops steps through neighbours in memory."""
        if not loops:
            return False
        axis = loops[-1].axes[-1]
        return is_smooth(axis, accesses, tests) and any(x.terms.get(axis) == 1 for x in accesses[:1])

    def _element(self, vector: Axis | None, lanes: int) -> Expr:
        elements = Elements(self.code, self.inside, self.buffers, self.env, vector, lanes)
        return self.fold.enter(elements.value(self.operand, self.box.at))

    def _finish(self, total: Expr, vector: Axis | None, lanes: int) -> None:
        """Consumers of the result, and the store."""
        result = self.code.hold(leave(total, self.anchor.type.dtype))
        bound = {self.anchor.values[0]: lambda at, n: result}
        elements = Elements(self.code, self.inside, self.buffers, self.env, vector, lanes, bound)
        (output,) = self.cluster.outputs
        value = arith.to_storage(elements.value(output, self.out_at), output.type.dtype)
        store = index.flatten(self.out_at, output.type.shape)
        self.code.store(self.buffers[output], elements.index(store), value)

    @contextmanager
    def _loops(self, loops: Sequence[Loop]) -> Iterator[None]:
        with ExitStack() as stack:
            for loop in loops:
                loop.bind(self.env, stack.enter_context(self.code.loop(loop.extent)))
            yield

    def _kept_scalars(self, total: Callable[[], Expr]) -> None:
        with self._loops(self.kept):
            self._finish(total(), None, 1)

    def _kept_vectors(self, lanes: int) -> None:
        inner = self.kept[-1]
        vector = inner.axes[-1]
        with self._loops(self.kept[:-1]):
            for start, count, chains, width in _blocks(inner.extent, lanes):
                with self.code.loop(count) as block:
                    places = [block * (chains * width) + (start + c * width) for c in range(chains)]
                    for place, register in zip(
                        places, self._kept_fold(inner, vector, places, width), strict=True
                    ):
                        inner.bind(self.env, place)
                        self._finish(register.get(), vector, width)

    def _kept_fold(self, inner: Loop, vector: Axis, places: Sequence[Expr], width: int) -> list[Register]:
        """The fold over all reduced axes, for some neighbouring vectors."""
        totals = self._registers(len(places), width)

        def step(registers: Sequence[Register]) -> None:
            for place, register in zip(places, registers, strict=True):
                inner.bind(self.env, place)
                register.set(self.fold.combine(register.get(), self._element(vector, width)))

        self._partial(self.reduced, totals, width, step)
        return totals

    def _registers(self, count: int, width: int) -> list[Register]:
        registers = [self.code.register(self.fold.dtype, width) for _ in range(count)]
        for register in registers:
            register.set(self.fold.identity(width))
        return registers

    def _partial(
        self,
        loops: Sequence[Loop],
        totals: list[Register],
        width: int,
        step: Callable[[Sequence[Register]], None],
    ) -> None:
        """Runs `step` over the loops; float sums go through a partial sum for every run of the innermost."""
        if not loops:
            step(totals)
            return
        inner = loops[-1]
        chunks = inner.extent // CHUNK if self.fold.rounds else 0
        if not self.fold.rounds or (len(loops) == 1 and chunks < 2):
            with self._loops(loops):
                step(totals)
            return

        def run(first: Expr, extent: int) -> None:
            parts = self._registers(len(totals), width)
            with self.code.loop(extent) as i:
                inner.bind(self.env, first + i)
                step(parts)
            for total, part in zip(totals, parts, strict=True):
                total.set(self.fold.combine(total.get(), part.get()))

        with self._loops(loops[:-1]):
            if chunks < 2:
                run(0, inner.extent)
                return
            with self.code.loop(chunks) as chunk:
                run(chunk * CHUNK, CHUNK)
            if inner.extent % CHUNK:
                run(chunks * CHUNK, inner.extent % CHUNK)

    def _lanes_fold(self, lanes: int) -> Expr:
        """The fold over all reduced axes as one number; lanes hold parts of the innermost axis."""
        if not self.reduced:
            total = self._registers(1, 1)
            total[0].set(self.fold.combine(total[0].get(), self._element(None, 1)))
            return self.code.hold(total[0].get())
        inner, outer = self.reduced[-1], self.reduced[:-1]
        vector = inner.axes[-1]
        ends: list[tuple[int, Register]] = []
        for start, count, chains, width in _blocks(inner.extent, lanes):
            totals = self._registers(chains, width)
            ends += [(width, total) for total in totals]

            def step(
                registers: Sequence[Register], start: int = start, chains: int = chains, width: int = width
            ) -> None:
                first = self.env[vector]
                for c, register in enumerate(registers):
                    inner.bind(self.env, first * (chains * width) + (start + c * width))
                    register.set(self.fold.combine(register.get(), self._element(vector, width)))

            self._partial([*outer, Loop(inner.axes, count)], totals, width, step)
        result: Expr = None
        for width in dict(ends):
            group = [register.get() for w, register in ends if w == width]
            while len(group) > 1:
                group = [self.code.hold(self.fold.combine(group[0], group[1])), *group[2:]]
            part = self.fold.across(self.code, self.code.hold(group[0]))
            result = part if result is None else self.code.hold(self.fold.combine(result, part))
        return result


def _blocks(extent: int, lanes: int) -> Iterator[tuple[int, int, int, int]]:
    """Cuts a loop into (start, count, chains, width): several vectors at once, then single ones."""
    start = 0
    for width in dict.fromkeys((lanes, min(lanes, 4), 1)):
        for chains in (CHAINS, 1) if width == lanes else (1,):
            count = (extent - start) // (width * chains)
            if count:
                yield start, count, chains, width
                start += count * width * chains


def _spread(kept: Sequence[Index], op: Reduction, rank: int) -> At:
    """The result's index tuple."""
    if not op.keepdims:
        return tuple(kept)
    left = iter(kept)
    return tuple(index.ZERO if d in op.axes else next(left) for d in range(rank))
