"""Lowers matrix products and convolutions: register-tiled kernels where they fit, else generic loops."""

from __future__ import annotations

import math

from hardy.compiler.ir import Builder, Node, Value
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.shape import Transpose
from hardy.compiler.types import broadcast_shapes
from hardy.targets.cpu.kernels import conv as conv_kernels
from hardy.targets.cpu.kernels.batch_matmul import Strides, batch_matmul
from hardy.targets.cpu.kernels.depthwise import depthwise
from hardy.targets.cpu.kernels.matmul import matmul
from hardy.targets.cpu.lower import generic
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.index import strides
from hardy.targets.cpu.lower.injective import lower_injective
from hardy.targets.cpu.lower.kernel_call import is_f32, literal_of, lower_kernel
from hardy.targets.cpu.lower.windows import conv_of, window_of
from hardy.targets.cpu.program import Ref
from hardy.targets.cpu.select import Selector


def lower_matmul(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    """A product with a constant matrix, a batch of products, or the generic form."""
    op, (a, b) = anchor.op, anchor.operands
    assert isinstance(op, Matmul)
    k = a.type.shape[-2 if op.transpose_a else -1]
    tiled = is_f32(a, b) and a != b and k > 0 and cluster.nodes and a.node not in set(cluster.nodes)
    if not tiled or b.node in set(cluster.nodes):
        return generic.lower_matmul(selector, cluster, anchor)
    m, n = anchor.type.shape[-2:]
    place = selector.source(cluster.actual.get(a, a))
    if op.transpose_a:
        place = _transposed(selector, cluster, a)
    if literal_of(cluster, b) is not None and math.prod(b.type.shape[:-2]) == 1:
        return _constant(selector, cluster, anchor, place)
    batch = batch_axes(a, b, anchor.values[0], m, n, k)
    if batch is None:
        return generic.lower_matmul(selector, cluster, anchor)
    return lower_kernel(
        selector,
        cluster,
        anchor,
        "batch_matmul",
        lambda e: batch_matmul(
            m,
            n,
            k,
            selector.isa,
            batch=batch,
            transpose_b=op.transpose_b,
            epilogue=e,
            threads=selector.threads,
        ),
        (a, b),
        reads=[place, selector.source(cluster.actual.get(b, b))],
    )


def _constant(selector: Selector, cluster: Cluster, anchor: Node, place: Ref) -> bool:
    op, (a, b) = anchor.op, anchor.operands
    assert isinstance(op, Matmul)
    n = anchor.type.shape[-1]
    rows = anchor.type.size // n
    k = a.type.size // rows
    return lower_kernel(
        selector,
        cluster,
        anchor,
        "matmul",
        lambda e: matmul(
            rows, n, k, selector.isa, transposed=op.transpose_b, epilogue=e, threads=selector.threads
        ),
        (a, b),
        weight=b,
        reads=[place],
        reshape=b.type.shape[-2:],
    )


def _transposed(selector: Selector, cluster: Cluster, a: Value) -> Ref:
    """A copy of `a` with its last two axes exchanged."""
    b = Builder()
    rank = a.type.rank
    y = b(Transpose((*range(rank - 2), rank - 1, rank - 2)), a)
    lower_injective(selector, Cluster(tuple(b._nodes), (a,), (y,), (y,), cluster.actual))
    return selector.source(y)


def batch_axes(a: Value, b: Value, y: Value, m: int, n: int, k: int) -> list[Strides] | None:
    """The batch axes with their strides; neighbouring axes that step alike are one."""
    outer = broadcast_shapes(a.type.shape[:-2], b.type.shape[:-2])
    steps = [_steps(v.type.shape[:-2], size, len(outer)) for v, size in ((a, m * k), (b, k * n))]
    result: list[Strides] = []
    for extent, sa, sb, sy in zip(outer, *steps, _steps(outer, m * n, len(outer)), strict=True):
        if extent == 1:
            continue
        last = result[-1] if result else None
        if last and (last.a, last.b, last.y) == (sa * extent, sb * extent, sy * extent):
            result[-1] = Strides(last.extent * extent, sa, sb, sy)
        else:
            result.append(Strides(extent, sa, sb, sy))
    return result


def _steps(shape: tuple[int, ...], size: int, rank: int) -> list[int]:
    """Elements from one index of each of `rank` batch axes to the next; 0 where the operand repeats."""
    own = [0 if n == 1 else s * size for n, s in zip(shape, strides(shape), strict=True)]
    return [0] * (rank - len(shape)) + own


def lower_conv(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    """A tiled or depthwise kernel for f32 over two axes with channels last and a constant weight."""
    op, (x, weight, *bias) = anchor.op, anchor.operands
    assert isinstance(op, Conv)
    constant = literal_of(cluster, weight) is not None and all(
        literal_of(cluster, v) is not None for v in bias
    )
    inside = set(cluster.nodes)
    fits = op.layout == "channels_last" and len(op.strides) == 2 and is_f32(x) and constant
    if not fits or any(v.node in inside for v in anchor.operands):
        return generic.lower_conv(selector, cluster, anchor)
    channels = x.type.shape[-1]
    out, each, *kernel = weight.type.shape
    if each == 1 and out == channels == op.groups and channels > 1:
        window = window_of(x, kernel, op.strides, op.padding, op.dilations)
        return lower_kernel(
            selector,
            cluster,
            anchor,
            "depthwise",
            lambda e: depthwise(window, selector.isa, bias=bool(bias), epilogue=e, threads=selector.threads),
            anchor.operands,
            weight=weight,
        )
    shape = conv_of(x, out, kernel, op)
    return lower_kernel(
        selector,
        cluster,
        anchor,
        "conv2d",
        lambda e: conv_kernels.conv2d(
            shape, selector.isa, bias=bool(bias), epilogue=e, threads=selector.threads
        ),
        anchor.operands,
        weight=weight,
    )
