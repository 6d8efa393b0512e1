"""Shared by the tests of pruning: removal by zeros, which the graph without the channels must equal."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import torch

from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.models import trace
from hardy.compiler.pipeline import Pipeline, random_inputs
from hardy.compiler.tolerance import require_close
from hardy.compiler.verify import verify
from hardy.passes import DEFAULT
from hardy.passes.channel_atoms import place_of
from hardy.passes.channel_groups import ChannelGroup, Channels, Mask
from hardy.passes.shrink import shrink


def some_removed(channels: Channels, groups: Iterable[ChannelGroup], seed: int, share: float) -> Mask:
    """A random share of the units of each group, at least one, never all."""
    generator = np.random.default_rng(seed)
    removed = channels.nothing()
    for group in groups:
        count = min(max(1, round(share * len(group.units))), len(group.units) - 1)
        removed[generator.choice(group.units, count, replace=False)] = True
    return removed


def zeroed(channels: Channels, removed: Mask) -> Graph:
    """The whole graph with zeros in what layers multiply the removed channels by."""
    inputs_of = {
        (o.layer.node, o.layer.place): o.layer
        for g in channels.groups
        for o in g.occurrences
        if not o.is_output
    }

    def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...] | None:
        given = list(operands)
        for place in range(len(operands)):
            layer = inputs_of.get((node, place))
            if layer is None:
                continue
            mask = torch.from_numpy(channels.kept(place_of(node, place), removed)[layer.in_axis])
            shape = [-1 if axis == layer.in_axis else 1 for axis in range(layer.data.ndim)]
            given[place] = b.constant(layer.data * mask.reshape(shape))
        return b.multi(node.op, *given) if given != list(operands) else None

    return transform(channels.graph, rewrite)


def require_removal_is_zeroing(channels: Channels, removed: Mask) -> Graph:
    """The graph without the channels is valid, has the same interface, and computes what zeros would."""
    small = shrink(channels, removed)
    verify(small)
    assert small.input_types() == channels.graph.input_types()
    assert small.output_types() == channels.graph.output_types()
    inputs = random_inputs(small.input_types(), 3)
    expected, actual = run(zeroed(channels, removed), inputs), run(small, inputs)
    for name in expected:
        require_close(name, expected[name], actual[name], scaled=True)
    return small


@functools.cache
def architecture(name: str, clean: bool) -> Graph:
    """A small well-known network as it was traced, or after the default pipeline."""
    from tests.models.zoo import ZOO

    model = ZOO[name](True)
    graph = trace(model.module, model.inputs, self_test=False)
    return Pipeline(DEFAULT).run(graph).graph if clean else graph
