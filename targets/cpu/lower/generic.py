"""Products and windows of any type and rank as reductions over index maps: the general form of every kernel.

A matrix product is a sum over an axis of products of two views, a convolution the same over windows,
pooling a fold over windows. `lower_reduction` makes loops of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ir import Builder, Node, Op, Value, remap
from hardy.compiler.ops.elementwise import Add, Div, Mul
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.reduce import ReduceMax, ReduceSum, limit
from hardy.compiler.ops.shape import Pad, Reshape, Transpose
from hardy.compiler.types import TensorType
from hardy.targets.cpu.lower import movement
from hardy.targets.cpu.lower.cluster import Cluster, leaves, live
from hardy.targets.cpu.lower.injective import lower_injective
from hardy.targets.cpu.lower.reduce import lower_reduction
from hardy.targets.cpu.select import Selector


@dataclass(frozen=True)
class Windows(Op):
    """[batch, channels, *positions, *kernel] of x [batch, channels, *spatial]: the windows over it."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        spans = zip(x.shape[2:], self.kernel, self.strides, self.dilations, strict=True)
        positions = tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in spans)
        return x.with_shape((*x.shape[:2], *positions, *self.kernel))

    def reference(self, x: Tensor) -> Tensor:
        for i, (k, s, d) in enumerate(zip(self.kernel, self.strides, self.dilations, strict=True)):
            x = x.unfold(2 + i, d * (k - 1) + 1, s)[..., ::d]
        return x


def _windows(op: Windows, node: Node, at: movement.At) -> movement.Source:
    rank = len(op.kernel)
    places, taps = at[2 : 2 + rank], at[2 + rank :]
    spans = zip(places, taps, op.strides, op.dilations, strict=True)
    return movement.Read(node.operands[0], (*at[:2], *(p * s + t * d for p, t, s, d in spans)))


movement.SOURCES[Windows] = _windows


def to_first(b: Builder, x: Value, layout: str) -> Value:
    rank = x.type.rank
    return x if layout == "channels_first" else b(Transpose((0, rank - 1, *range(1, rank - 1))), x)


def from_first(b: Builder, y: Value, layout: str) -> Value:
    rank = y.type.rank
    return y if layout == "channels_first" else b(Transpose((0, *range(2, rank), 1)), y)


def matmul_graph(b: Builder, op: Matmul, x: Value, w: Value) -> Value:
    """The product as a sum of products."""
    shape = op.infer(x.type, w.type).shape
    x = b(Transpose(_swapped(x.type.rank)), x) if op.transpose_a else x
    w = b(Transpose(_swapped(w.type.rank)), w) if op.transpose_b else w
    k = x.type.shape[-1]
    if op.transpose_b:
        # Products with the sum innermost: rows of both operands are neighbours in memory.
        left = b(Reshape((*x.type.shape[:-1], 1, k)), x)
        turned = b(Transpose(_swapped(w.type.rank)), w)
        right = b(Reshape((*turned.type.shape[:-2], 1, *turned.type.shape[-2:])), turned)
        return b(ReduceSum((len(shape),)), b(Mul(), left, right))
    left = b(Reshape((*x.type.shape, 1)), x)
    right = b(Reshape((*w.type.shape[:-2], 1, *w.type.shape[-2:])), w)
    return b(ReduceSum((len(shape) - 1,)), b(Mul(), left, right))


def _swapped(rank: int) -> tuple[int, ...]:
    return (*range(rank - 2), rank - 1, rank - 2)


def conv_graph(b: Builder, op: Conv, x: Value, weight: Value) -> Value:
    """The convolution of a padded x as a sum of products; the result is channels first, without the bias."""
    groups, out = op.groups, weight.type.shape[0]
    kernel = weight.type.shape[2:]
    rank = len(kernel)
    windows = b(Windows(kernel, op.strides, op.dilations), x)
    batch, channels = x.type.shape[:2]
    positions = windows.type.shape[2 : 2 + rank]
    left = b(Reshape((batch, groups, 1, channels // groups, *positions, *kernel)), windows)
    right = b(Reshape((groups, out // groups, channels // groups, *(1,) * rank, *kernel)), weight)
    total = b(ReduceSum((3, *range(4 + rank, 4 + 2 * rank))), b(Mul(), left, right))
    return b(Reshape((batch, out, *positions)), total)


def lower_matmul(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    """Any matrix product; consumers of its shape join the loops."""
    op = anchor.op
    assert isinstance(op, Matmul)
    b = Builder()
    total = matmul_graph(b, op, *anchor.operands)
    return lower_reduction(selector, *replaced(cluster, anchor, b, total))


def replaced(cluster: Cluster, anchor: Node, b: Builder, value: Value) -> tuple[Cluster, Node]:
    """The cluster with the anchor's expansion in its place; and the reduction that `value` is."""
    mapping = {anchor.values[0]: value}
    nodes: list[Node] = []
    for node in cluster.nodes:
        if node is anchor:
            nodes += b._nodes
            continue
        moved = remap(node, mapping)
        mapping |= {v: w for v, w in zip(node.values, moved.values, strict=True) if v != w}
        nodes.append(moved)
    outputs = tuple(mapping.get(v, v) for v in cluster.outputs)
    kept = live([n for n in nodes if n.operands], outputs)
    new = Cluster(kept, leaves(kept, outputs), outputs, cluster.results, cluster.actual, cluster.title)
    return new, value.node


def alone(selector: Selector, cluster: Cluster, b: Builder, value: Value, result: Value) -> None:
    """Lower the nodes of `b`: its reduction, then what follows, into the program's value `result`."""
    nodes = live([n for n in b._nodes if n.operands], [value])
    whole = Cluster(nodes, leaves(nodes, [value]), (value,), (result,), cluster.actual, cluster.title)
    cut = next((i for i, n in enumerate(nodes) if isinstance(n.op, ReduceSum | ReduceMax)), None)
    assert cut is not None
    after = nodes[cut + 1 :]
    if not after:
        lower_reduction(selector, whole, nodes[cut])
        return
    middle = nodes[cut].values[0]
    first = whole.giving({middle: middle})
    lower_reduction(selector, first, nodes[cut])
    lower_injective(
        selector, Cluster(tuple(after), leaves(after, [value]), (value,), (result,), cluster.actual)
    )


def padded(
    selector: Selector,
    cluster: Cluster,
    x: Value,
    padding: Sequence[tuple[int, int]],
    layout: str,
    fill: float,
) -> Value:
    """x, channels first, with its border written out: a value that lies in memory."""
    b = Builder()
    y = to_first(b, x, layout)
    if any(p for pair in padding for p in pair):
        low, high = zip(*padding, strict=True)
        y = b(Pad((0, 0, *low), (0, 0, *high), fill), y)
    if y == x:
        return x
    lower_injective(selector, Cluster(tuple(b._nodes), (x,), (y,), (y,), cluster.actual))
    return y


def lower_conv(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    """Any convolution, alone."""
    if len(cluster.nodes) > 1:
        return False
    op = anchor.op
    assert isinstance(op, Conv)
    x = padded(selector, cluster, anchor.operands[0], op.padding, op.layout, 0.0)
    b = Builder()
    y = conv_graph(b, op, x, anchor.operands[1])
    if len(anchor.operands) == 3:
        bias = anchor.operands[2]
        y = b(Add(), y, b(Reshape((bias.type.size, *(1,) * (y.type.rank - 2))), bias))
    alone(selector, cluster, b, from_first(b, y, op.layout), cluster.results[0])
    return True


def lower_pool(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    """Any pooling, alone."""
    if len(cluster.nodes) > 1:
        return False
    op = anchor.op
    assert isinstance(op, MaxPool | AvgPool)
    greatest = isinstance(op, MaxPool)
    dtype = anchor.type.dtype
    fill = float(limit(dtype.torch, lowest=True)) if greatest else 0.0
    x = padded(selector, cluster, anchor.operands[0], op.padding, op.layout, fill)
    b = Builder()
    windows = b(Windows(op.kernel, op.strides, op.dilations), x)
    axes = tuple(range(2 + len(op.kernel), 2 + 2 * len(op.kernel)))
    y = b(ReduceMax(axes) if greatest else ReduceSum(axes), windows)
    if isinstance(op, AvgPool):
        y = b(Div(), y, _counts(b, op, anchor.operands[0].type, y))
    alone(selector, cluster, b, from_first(b, y, op.layout), cluster.results[0])
    return True


def _counts(b: Builder, op: AvgPool, x: TensorType, y: Value) -> Value:
    """How many elements each window averages."""
    if op.count_padding or not any(p for pair in op.padding for p in pair):
        return b.scalar(math.prod(op.kernel), x.dtype)
    spatial = x.shape[2:] if op.layout == "channels_first" else x.shape[1:-1]
    inside = torch.ones((1, 1, *spatial), dtype=torch.float64)
    count = op.windows(inside, 0.0).sum(tuple(range(-len(op.kernel), 0)))
    return b.constant(count.to(x.dtype.torch))
