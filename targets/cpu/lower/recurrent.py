"""Lowers recurrent layers: the kernels of one step, called once a step with other places.

The inputs' projections of all steps are one matrix product. One step is a small graph, whose calls are built
once and repeated, so the code does not grow with the length of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from hardy.compiler.ir import Builder, Graph, Node, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.elementwise import Add, Cast, Less, Where
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.recurrent import Recurrent
from hardy.compiler.ops.shape import Reshape
from hardy.compiler.types import DType, TensorType
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.injective import copy_rows
from hardy.targets.cpu.program import Call, Ref
from hardy.targets.cpu.select import Selector, storage_size

# Lowers a graph with its inputs at given places and its outputs at given places.
LowerGraph = Callable[[Selector, Graph, Mapping[Value, Ref], Sequence[Ref]], None]


def lower_recurrent(selector: Selector, cluster: Cluster, anchor: Node, lower_graph: LowerGraph) -> bool:
    if len(cluster.nodes) > 1:
        return False
    op = anchor.op
    assert isinstance(op, Recurrent)
    _Layer(selector, cluster, anchor, op, lower_graph).write()
    return True


@dataclass
class _Layer:
    selector: Selector
    cluster: Cluster
    node: Node
    op: Recurrent
    lower_graph: LowerGraph
    places: dict[Value, Ref] = field(default_factory=dict)

    def write(self) -> None:
        op, selector = self.op, self.selector
        operands = [self.cluster.actual.get(v, v) for v in self.node.operands]
        x, weight, recurrence, *rest = operands
        self.lengths = rest.pop() if len(rest) > op.biases + op.states else None
        biases, states = rest[: op.biases], rest[op.biases :]
        self.steps, batch, _ = x.type.shape
        self.state = TensorType(x.type.dtype, (batch, recurrence.type.shape[2]))
        self.row = self.state.with_shape((batch, op.gates * self.state.shape[1]))
        y, *finals = [self._result(i) for i in range(len(self.node.values))]
        size = storage_size(self.state)
        for d in range(op.directions):
            projected = selector.scratch(self.steps * storage_size(self.row))
            if self.steps:
                self._project(x, weight, biases[0], d, projected)
            first = [selector.source(s).at(d * size) for s in states]
            last = self._run(d, projected, recurrence, biases[1:], first, y)
            for final, place in zip(finals, last, strict=True):
                selector.copy(place, final.at(d * size), size)

    def _result(self, number: int) -> Ref:
        """The place of a result: also of one that nobody uses."""
        value = self.node.values[number]
        known = dict(zip(self.cluster.outputs, self.cluster.results, strict=True))
        return self.selector.target(known.get(value, value))

    def _part(self, b: Builder, value: Value, d: int, label: str) -> Value:
        """value[d]: a constant where `value` is one, else an input of the graph that lies inside it."""
        if value.literal is not None:
            return b.constant(Literal(value.literal.tensor[d], value.type.dtype))
        part = b.input(label, value.type.with_shape(value.type.shape[1:]))
        self.places[part] = self.selector.source(value).at(d * storage_size(part.type))
        return part

    def _project(self, x: Value, weight: Value, bias: Value, d: int, target: Ref) -> None:
        """x W^T + b of all steps: [steps, batch, gates * hidden]."""
        b = Builder()
        given = b.input("x", x.type)
        self.places[given] = self.selector.source(x)
        product = b(Matmul(transpose_b=True), given, self._part(b, weight, d, "w"))
        graph = b.finish({"y": b(Add(), product, self._part(b, bias, d, "b"))})
        self.lower_graph(self.selector, graph, self.places, [target])

    def _run(
        self, d: int, projected: Ref, recurrence: Value, biases: Sequence[Value], states: list[Ref], y: Ref
    ) -> list[Ref]:
        """All steps of a direction from the states at the given places; the places of the final ones."""
        selector, op = self.selector, self.op
        size = storage_size(self.state)
        step = self._step(d, recurrence, biases)
        buffers = [[selector.scratch(size) for _ in states] for _ in range(2)]
        masked = selector.scratch(size) if self.lengths is not None else None
        whole = op.directions == 1 and masked is None
        width = size // self.state.shape[0] if self.state.shape[0] else 0
        for number in range(self.steps):
            t = self.steps - 1 - number if op._reversed(d) else number
            following = list(buffers[number % 2])
            if whole:
                following[0] = y.at(t * size)
            moved = {step.x: projected.at(t * storage_size(self.row))}
            moved |= dict(zip(step.states, states, strict=True))
            moved |= dict(zip(step.next, following, strict=True))
            if masked is not None:
                moved |= {step.y: masked, step.time: self._times().at(8 * t)}
            selector.program.calls += [_moved(call, moved) for call in step.calls]
            if not whole:
                source = following[0] if masked is None else masked
                target = y.at(t * op.directions * size + d * width)
                copy_rows(selector, source, target, self.state.shape[0], width, op.directions * width)
            states = following
        return states

    def _times(self) -> Ref:
        """The numbers of the steps, as constants."""
        return self.selector.constant(("arange", self.steps), lambda: torch.arange(self.steps).numpy())

    def _step(self, d: int, recurrence: Value, biases: Sequence[Value]) -> _Step:
        """The calls of one step, at places that stand for the real ones."""
        selector, b = self.selector, Builder()
        x = b.input("x", self.row)
        states = [b.input(f"s{i}", self.state) for i in range(self.op.states)]
        r = self._part(b, recurrence, d, "r")
        bias = [self._part(b, v, d, f"b{i}") for i, v in enumerate(biases)]
        new = self.op._step_graph(b, x, r, bias, states)
        stand_in = [selector.scratch(0) for _ in range(3 + 2 * len(states))]
        x_at, y_at, t_at, *at = stand_in
        here, there = at[: len(states)], at[len(states) :]
        self.places |= {x: x_at, **dict(zip(states, here, strict=True))}
        outputs = {f"n{i}": n for i, n in enumerate(new)}
        targets = there
        if self.lengths is not None:
            time = b.input("t", TensorType(DType.i64, ()))
            lengths = b.input("lengths", self.lengths.type)
            self.places |= {time: t_at, lengths: selector.source(self.lengths)}
            column = b(Reshape((self.state.shape[0], 1)), b(Cast(DType.i64), lengths))
            live = b(Less(), time, column)
            outputs = {
                f"n{i}": b(Where(), live, n, s) for i, (n, s) in enumerate(zip(new, states, strict=True))
            }
            outputs["y"] = b(Where(), live, new[0], b.scalar(0, self.state.dtype))
            targets = [*there, y_at]
        start = len(selector.program.calls)
        self.lower_graph(selector, b.finish(outputs), self.places, targets)
        calls = selector.program.calls[start:]
        del selector.program.calls[start:]
        return _Step(calls, x_at, y_at, t_at, here, there)


@dataclass(frozen=True)
class _Step:
    """The calls of one step and the places in them that stand for the real ones."""

    calls: list[Call]
    x: Ref
    y: Ref
    time: Ref
    states: list[Ref]
    next: list[Ref]


def _moved(call: Call, places: Mapping[Ref, Ref]) -> Call:
    """The call with stand-ins replaced."""
    by_item = {(r.space, r.index): to for r, to in places.items()}

    def place(ref: Ref) -> Ref:
        to = by_item.get((ref.space, ref.index))
        return ref if to is None else to.at(ref.offset)

    return Call(call.kernel, tuple(map(place, call.args)), call.written, call.source, call.op)
