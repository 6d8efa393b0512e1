"""Layers while they are being found: a head, and the steps that have been added to it so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hardy.compiler.errors import Refusal, UnsupportedError
from hardy.compiler.ir import Node
from hardy.targets.fpga.dataflow.layers import Elementwise, Head, Layer, Tensor, Window
from hardy.targets.fpga.dataflow.ranges import Integers
from hardy.targets.fpga.dataflow.steps import Affine, Join, Step


def refuse(node: Node, reason: str) -> UnsupportedError:
    """The error for a node that fits no stage."""
    return UnsupportedError(
        "a dataflow accelerator cannot be made of this graph",
        refusals=[Refusal(node.op.name, node.source, reason)],
    )


@dataclass
class Draft:
    """A layer to be. `order` [pixels, channels] tells where each element of its stream lies in the row-major
    order of the graph's value; None while an input of the network may still choose. `shared`: others than the
    next op read it, so that no step may be added. `input` is None for an input of the network.
    """

    name: str
    source: str
    shape: tuple[int, int]
    order: Integers | None
    low: Integers
    high: Integers
    head: Head = field(default_factory=Elementwise)
    input: Tensor | None = None
    window: Window | None = None
    bit_inputs: bool = False
    shared: bool = False
    steps: list[Step] = field(default_factory=list)
    joined: Tensor | None = None
    head_low: Integers | None = None
    head_high: Integers | None = None
    tensor: Tensor | None = None

    def add(self, step: Step) -> None:
        """Append a step; its range becomes the draft's."""
        if self.head_low is None:
            self.head_low, self.head_high = self.low, self.high
        self.low, self.high = step.bounds(self.low, self.high)
        self.low, self.high = (np.broadcast_to(v, (self.shape[1],)).copy() for v in (self.low, self.high))
        self.steps.append(step)

    def as_addend(self) -> tuple[Tensor, Affine] | None:
        """The input and the function of it, where this draft is no more than that: it needs no stage."""
        if self.input is None or self.joined is not None or not isinstance(self.head, Elementwise):
            return None
        if not all(isinstance(s, Affine) for s in self.steps):
            return None
        scale, offset = np.ones(1, np.int64), np.zeros(1, np.int64)
        for step in self.steps:
            assert isinstance(step, Affine)
            scale, offset = scale * step.scale, offset * step.scale + step.offset
        return self.input, Affine(scale, offset)

    def join(self, other: Tensor, scaled: Affine) -> None:
        """Add a second stream."""
        self.joined = other
        self.add(Join(scaled.scale, scaled.offset, other.low, other.high))

    def layer(self) -> Layer:
        """The finished layer, whose output is `tensor` from now on."""
        assert self.input is not None
        pixels, channels = self.shape
        self.tensor = Tensor(self.name, pixels, channels, self.low, self.high)
        low = self.low if self.head_low is None else self.head_low
        high = self.high if self.head_high is None else self.head_high
        return Layer(
            self.name,
            self.source,
            self.head,
            self.input,
            self.window,
            tuple(self.steps),
            self.joined,
            self.tensor,
            low,
            high,
            self.bit_inputs,
        )


@dataclass(frozen=True, eq=False)
class Traced:
    """A value of the graph: a draft's elements, in another order where `moved` tells for each element of
    the value (row-major) which of the draft's it is. `bits`: the value is packed, `shape` that of its
    bits."""

    draft: Draft
    shape: tuple[int, ...]
    moved: Integers | None = None
    bits: bool = False

    @property
    def order(self) -> Integers | None:
        """[pixels, channels]: where each element of the stream lies in this value."""
        if self.draft.order is None or self.moved is None:
            return self.draft.order
        inverse = np.empty_like(self.moved)
        inverse[self.moved] = np.arange(self.moved.size)
        return inverse[self.draft.order]

    def settle(self, order: Integers) -> None:
        """Let an input of the network come in this order, if it is still free."""
        if self.draft.order is None:
            self.draft.order = order if self.moved is None else self.moved[order]
            self.draft.shape = (order.shape[0], order.shape[1])
            self.draft.low, self.draft.high = (
                np.broadcast_to(v.min() if i == 0 else v.max(), (order.shape[1],)).copy()
                for i, v in enumerate((self.draft.low, self.draft.high))
            )
