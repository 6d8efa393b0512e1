"""What a layer multiplies its weight by, as a matrix, and streaming second moments of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch import Tensor

from hardy.compiler.calibration import Samples, SecondMoments, observe
from hardy.compiler.interpret import Compute
from hardy.compiler.ir import Graph, Op, Value
from hardy.compiler.ops.linear import Conv, channels_first
from hardy.compiler.progress import tell
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.layers import L, Layer


def columns_of(layer: Layer) -> Callable[[Tensor], Tensor]:
    """From a layer's input to [groups, positions, k], in the order of the columns of `layer.rows()`.

    The output of group g is then columns[g] @ rows[g]^T. Matrix products have one group.
    """
    op = layer.node.op
    if not isinstance(op, Conv):
        axis = layer.x_axis
        return lambda x: x.movedim(axis, -1).reshape(1, -1, x.shape[axis])
    kernel = layer.weight.type.shape[2:]
    return lambda x: _patches(channels_first(x, op.layout), op, kernel)


def _patches(x: Tensor, op: Conv, kernel: tuple[int, ...]) -> Tensor:
    """The windows of a convolution: [groups, batch x positions, channels of a group x kernel]."""
    x = torch.nn.functional.pad(x, [p for pair in reversed(op.padding) for p in pair])
    for axis, (size, stride, step) in enumerate(zip(kernel, op.strides, op.dilations, strict=True), start=2):
        x = x.unfold(axis, step * (size - 1) + 1, stride)[..., ::step]
    spatial = len(kernel)
    batch, channels = x.shape[:2]
    x = x.reshape(batch, op.groups, channels // op.groups, *x.shape[2:])
    positions = range(3, 3 + spatial)
    return x.permute(1, 0, *positions, 2, *range(3 + spatial, 3 + 2 * spatial)).reshape(
        op.groups, -1, channels // op.groups * math.prod(kernel)
    )


def input_key(layer: Layer) -> Hashable:
    """Layers of equal keys multiply the same matrix."""
    op: Op | None = layer.node.op if isinstance(layer.node.op, Conv) else None
    return layer.x, layer.x_axis, op, layer.weight.type.shape[2:] if op else ()


def graph_up_to(graph: Graph, values: list[Value]) -> Graph:
    """What computes these values, with the graph's own inputs and nodes."""
    unique = tuple(dict.fromkeys(values))
    names = tuple(str(i) for i in range(len(unique)))
    return EliminateDeadCode().run(Graph(graph.name, graph.inputs, graph.nodes, unique, names))


def moments_of_inputs(
    graph: Graph,
    samples: Samples,
    found: Sequence[L],
    memory: int,
    compute: Compute | None = None,
) -> Iterator[tuple[list[L], SecondMoments]]:
    """The layers in order, those that read the same together, with the second moments of what they read.

    As many sweeps over the samples as are needed to hold no more than `memory` bytes of moments (those
    of one input at least). A sweep computes with `compute`, so that it sees what was done to the layers
    that were given before.
    """
    waiting: dict[Hashable, list[L]] = {}
    for layer in found:
        waiting.setdefault(input_key(layer), []).append(layer)
    groups = list(waiting.values())
    limit = samples.limit or 0
    while groups:
        size = _count_within(groups, memory)
        wave, groups = groups[:size], groups[size:]
        inputs = [SecondMoments(columns_of(group[0])) for group in wave]
        watched: dict[Value, list[SecondMoments]] = {}
        for group, moments in zip(wave, inputs, strict=True):
            watched.setdefault(group[0].x, []).append(moments)
        cut = graph_up_to(graph, list(watched))
        observe(cut, samples, watched, lambda n: tell("calibrate", n, max(n, limit)), compute)
        for group, moments in zip(wave, inputs, strict=True):
            yield group, moments
            moments.total = moments.absolute = moments.sums = torch.zeros(())


def _count_within(groups: Sequence[Sequence[Layer]], memory: int) -> int:
    """How many groups' second moments fit the memory, at least one."""
    total = 0
    for count, group in enumerate(groups):
        layer, op = group[0], group[0].node.op
        k = layer.weight.type.size // layer.weight.type.shape[layer.out_axis]
        total += 4 * k * k * (op.groups if isinstance(op, Conv) else 1)
        if total > memory and count:
            return count
    return len(groups)


def grouped_rows(layer: Layer, weight: Tensor) -> Tensor:
    """A weight as the rounding takes it: [groups, output channels of a group, k], f32."""
    rows = layer.rows(weight).float()
    op = layer.node.op
    return rows.reshape(op.groups if isinstance(op, Conv) else 1, -1, rows.shape[1])
