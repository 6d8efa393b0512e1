"""From a graph of integers to layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from hardy.compiler.ir import Graph, Node, Value
from hardy.compiler.ops.binary import BinaryConv, BinaryMatmul
from hardy.compiler.ops.linear import split_layout
from hardy.targets.fpga.dataflow.chains import pack_chain
from hardy.targets.fpga.dataflow.draft import Draft, Traced, refuse
from hardy.targets.fpga.dataflow.host import Split
from hardy.targets.fpga.dataflow.layers import Layer, Network, Tensor
from hardy.targets.fpga.dataflow.ranges import I32, Integers
from hardy.targets.fpga.dataflow.steps import Limit, Step
from hardy.targets.fpga.dataflow.table import TABLE


@dataclass(frozen=True, eq=False)
class Interface:
    """A value that crosses between host and accelerator: `order` [pixels, channels] says where each
    element of the stream lies in the value; packed values are crossed as bits, `bits` of them in the last
    axis."""

    value: Value
    tensor: Tensor
    order: Integers
    bits: int = 0


@dataclass(frozen=True, eq=False)
class Traffic:
    """A network with what it takes and gives."""

    network: Network
    inputs: tuple[Interface, ...]
    outputs: tuple[Interface, ...]


def trace(graph: Graph, parts: Split) -> Traffic:
    """The layers of the nodes that the accelerator computes; UnsupportedError for what does not fit
    together."""
    tracer = Tracer(graph, parts)
    inside = {n for chain in parts.chains.values() for n in chain.nodes}
    for node in parts.core:
        if node in parts.chains:
            tracer.values[Value(node, 0)] = pack_chain(tracer, parts.chains[node])
        elif node not in inside:
            tracer.values[Value(node, 0)] = TABLE[type(node.op)].build(tracer, node)
    outputs = tuple(tracer.leave(v) for v in parts.results)
    inputs = tuple(tracer.enter(v) for v in parts.feeds)
    network = Network(tuple(i.tensor for i in inputs), tuple(tracer.layers), tuple(o.tensor for o in outputs))
    return Traffic(network, inputs, outputs)


@dataclass
class Tracer:
    """The values seen so far, and the layers that are finished."""

    graph: Graph
    parts: Split
    values: dict[Value, Traced] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.users = self.graph.users()
        self.names: set[str] = set()
        # How an input is laid out if the first op does not care.
        layouts = [getattr(n.op, "layout", None) for n in self.parts.core]
        self.channels_first = "channels_first" in layouts
        for value in self.parts.feeds:
            self.values[value] = self._feed(value)

    def _feed(self, value: Value) -> Traced:
        name = self.unique(value.node.name or "input")
        low, high = (np.array([v], np.int64) for v in value.type.dtype.range)
        readers = [n.op for n in self.users.get(value, ()) if n in self.parts.core]
        counts = {
            op.length if isinstance(op, BinaryMatmul) else op.channels if isinstance(op, BinaryConv) else 0
            for op in readers
        }
        shape, bits = value.type.shape, False
        if len(counts) == 1 and counts != {0}:
            shape, bits = (*shape[:-1], counts.pop()), True
            low, high = np.zeros(1, np.int64), np.ones(1, np.int64)
        draft = Draft(name, value.node.source, (0, 0), None, low, high, shared=True)
        return Traced(draft, shape, bits=bits)

    def unique(self, name: str) -> str:
        """A name for a layer, which is one in C++ too."""
        base = re.sub(r"[\W_]+", "_", name).strip("_").lower() or "layer"
        base = base if base[0].isalpha() else f"layer_{base}"
        name, i = base, 2
        # Types are named without the underscores.
        while name.replace("_", "") in self.names:
            name, i = f"{base}_{i}", i + 1
        self.names.add(name.replace("_", ""))
        return name

    def default_order(self, shape: tuple[int, ...]) -> Integers:
        """[pixels, channels] of a value that may come in any order."""
        places = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
        if self.channels_first and len(shape) >= 3:
            places = np.moveaxis(places, 1, -1)
        return places.reshape(-1, places.shape[-1])

    def ordered(self, x: Traced) -> Integers:
        """The order of a value's stream; an input that is still free gets the default."""
        if x.order is None:
            x.settle(self.default_order(x.shape))
        order = x.order
        assert order is not None
        return order

    def image(self, node: Node, x: Traced, layout: str) -> tuple[tuple[int, int], int]:
        """Height and width, and the channels of an image that comes pixel by pixel."""
        if x.shape[0] != 1:
            raise refuse(node, f"a batch of {x.shape[0]}: images stream one by one, trace with a batch of 1")
        channels, spatial = split_layout(x.shape, layout)
        places = np.arange(int(np.prod(x.shape)), dtype=np.int64).reshape(x.shape)
        places = np.moveaxis(places, 1, -1) if layout == "channels_first" else places
        wanted = places.reshape(-1, channels)
        x.settle(wanted)
        if not np.array_equal(self.ordered(x).reshape(-1), wanted.reshape(-1)):
            raise refuse(node, "its image would have to be put in another order, which streams cannot do")
        size = (1, *spatial) if len(spatial) == 1 else spatial
        return (size[0], size[1]), channels

    def constant(self, value: Value) -> Integers | None:
        """The data of a constant, None for anything else."""
        return None if value.literal is None else value.literal.tensor.to(torch.int64).numpy()

    def private(self, value: Value) -> bool:
        return len(self.users.get(value, ())) == 1 and value not in self.parts.results

    def result(self, node: Node, draft: Draft, moved: Integers | None = None) -> Traced:
        """The node's value, of its own shape."""
        value = Value(node, 0)
        draft.shared |= not self.private(value)
        return Traced(draft, value.type.shape, moved)

    def again(self, node: Node, x: Traced, shape: tuple[int, ...], moved: Integers | None) -> Traced:
        """The same elements as another value."""
        x.draft.shared |= not self.private(Value(node, 0))
        return Traced(x.draft, shape, moved, x.bits)

    def new(
        self, node: Node, shape: tuple[int, int], order: Integers, bounds: tuple[Integers, Integers]
    ) -> Draft:
        """A draft of a new layer for a node."""
        name = self.unique(node.name or node.op.name)
        return Draft(name, node.source, shape, order, *bounds)

    def extendable(self, node: Node, x: Traced) -> Traced:
        """x as a draft that may get another step: its own, or a stage that begins with x."""
        self.ordered(x)
        draft = x.draft
        if draft.input is not None and not draft.shared and draft.tensor is None:
            return x
        tensor = self.tensor(x)
        assert draft.order is not None
        stage = self.new(node, draft.shape, draft.order, (tensor.low, tensor.high))
        stage.input = tensor
        return Traced(stage, x.shape, x.moved)

    def tensor(self, x: Traced) -> Tensor:
        """The finished stream of a value."""
        draft = x.draft
        if draft.tensor is None:
            self.ordered(x)
            if draft.input is None:
                draft.tensor = Tensor(draft.name, *draft.shape, draft.low, draft.high)
            else:
                self.layers.append(draft.layer())
        assert draft.tensor is not None
        return draft.tensor

    def vector(self, node: Node, x: Traced, data: Integers) -> Integers:
        """What a constant says for each channel of x's stream: i64 [channels], or [1] for one number."""
        if data.size == 1:
            return data.reshape(1)
        spread = np.broadcast_to(data, x.shape).reshape(-1)[self.ordered(x)]
        if not (spread == spread[0]).all():
            raise refuse(node, "its constant differs from pixel to pixel, not only from channel to channel")
        row: Integers = spread[0].copy()
        return row[:1] if (row == row[0]).all() else row

    def add_step(self, node: Node, x: Traced, *steps: Step) -> Traced:
        """x with further steps, as the node's value; what could wrap is refused."""
        x = self.extendable(node, x)
        draft = x.draft
        limits = node.type.dtype.range
        for step in steps:
            self.require_no_wrap(node, step.passing(draft.low, draft.high), I32)
            low, high = step.bounds(draft.low, draft.high)
            if isinstance(step, Limit) and (low == draft.low).all() and (high == draft.high).all():
                continue
            draft.add(step)
        self.require_no_wrap(node, [(draft.low, draft.high)], limits)
        return self.result(node, draft, x.moved)

    def require_no_wrap(
        self, node: Node, bounds: Sequence[tuple[Integers, Integers]], limits: tuple[int, int]
    ) -> None:
        for low, high in bounds:
            if int(low.min()) < limits[0] or int(high.max()) > limits[1]:
                raise refuse(
                    node,
                    f"its values may reach {low.min()}..{high.max()}, outside {limits[0]}..{limits[1]}, "
                    "and would wrap there: use smaller weights, biases or shifts",
                )

    def enter(self, value: Value) -> Interface:
        traced = self.values[value]
        tensor, order = self.tensor(traced), traced.draft.order
        assert order is not None
        return Interface(value, tensor, order, traced.shape[-1] if traced.bits else 0)

    def leave(self, value: Value) -> Interface:
        traced = self.values[value]
        if traced.bits:
            raise refuse(value.node, "packed bits cannot leave the accelerator: return the counts")
        draft = traced.draft
        if draft.input is None:
            traced = self.extendable(value.node, traced)
        tensor, order = self.tensor(traced), traced.order
        assert order is not None
        return Interface(value, tensor, order)
