"""Lowers packed signs: their products by a constant weight, and packing with what comes before it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from hardy.compiler.ir import Builder, Node, Value
from hardy.compiler.ops.binary import BinaryConv, BinaryMatmul
from hardy.compiler.ops.shape import Pad
from hardy.targets.cpu.kernels import binary
from hardy.targets.cpu.kernels.conv import Conv
from hardy.targets.cpu.kernels.kernel import Array
from hardy.targets.cpu.lower import arith
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.epilogue import tail_from
from hardy.targets.cpu.lower.injective import lower_injective
from hardy.targets.cpu.lower.kernel_call import array_of, literal_of, lower_kernel
from hardy.targets.cpu.lower.windows import pads, pair
from hardy.targets.cpu.program import KernelFunction, Ref
from hardy.targets.cpu.select import Selector
from hardy.targets.target import YES, Support, no


def takes(node: Node) -> Support:
    """One matrix of constant weights, or a convolution over two axes by such weights."""
    op, (x, weight) = node.op, node.operands
    if weight.literal is None:
        return no("binary products with operands known at run time are decomposed")
    if not x.type.size or not weight.type.size:
        return no("empty")
    if isinstance(op, BinaryMatmul) and weight.type.size != math.prod(weight.type.shape[-2:]):
        return no("a batch of binary matrices is decomposed")
    if isinstance(op, BinaryConv) and len(op.strides) != 2:
        return no("binary convolution over another number of axes than two is decomposed")
    return YES


def lower_binary(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    """The tiled kernels. They read whole groups of bytes; other rows and pixels are filled up first."""
    op, (x, weight) = anchor.op, anchor.operands
    literal = literal_of(cluster, weight)
    if literal is None or x.node in set(cluster.nodes):
        return False
    isa, threads = selector.isa, selector.threads
    place, bits = _whole_groups(selector, cluster, x), array_of(literal)
    size = x.type.shape[-1] + -x.type.shape[-1] % binary.GROUP
    if isinstance(op, BinaryMatmul):
        n = weight.type.shape[-2]
        rows = math.prod(x.type.shape[:-1])
        return lower_kernel(
            selector,
            cluster,
            anchor,
            "binary_matmul",
            lambda e: binary.binary_matmul(rows, n, size, isa, epilogue=e, threads=threads),
            (x, weight),
            weight=weight,
            reads=[place, _totals(selector, np.full(n, op.length, np.int32))],
            reshape=weight.type.shape[-2:],
        )
    assert isinstance(op, BinaryConv)
    batch, height, width, _ = x.type.shape
    out, kernel_h, kernel_w, _ = weight.type.shape
    shape = Conv(
        batch,
        height,
        width,
        size,
        out,
        (kernel_h, kernel_w),
        pair(op.strides),
        pads(op.padding),
        pair(op.dilations),
    )
    return lower_kernel(
        selector,
        cluster,
        anchor,
        "binary_conv",
        lambda e: binary.binary_conv(shape, isa, epilogue=e, threads=threads),
        (x, weight),
        weight=weight,
        reads=[place, _totals(selector, binary.totals(shape, op.channels, bits))],
    )


def _totals(selector: Selector, values: Array) -> Ref:
    return selector.constant(("totals", values.tobytes()), lambda: values)


def _whole_groups(selector: Selector, cluster: Cluster, x: Value) -> Ref:
    """Where x lies, or a copy with clear bytes after each row."""
    spare = -x.type.shape[-1] % binary.GROUP
    if not spare:
        return selector.source(cluster.actual.get(x, x))
    b = Builder()
    low = (0,) * x.type.rank
    y = b(Pad(low, (*low[1:], spare)), x)
    lower_injective(selector, Cluster(tuple(b._nodes), (x,), (y,), (y,), cluster.actual))
    return selector.source(y)


def lower_pack(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    """One pass over the values, with the elementwise work that makes them in registers."""
    shape = anchor.operands[0].type.shape
    x = next((v for v in cluster.inputs if v.type.shape == shape), None)
    tail = None if x is None else tail_from(cluster, x, cluster.nodes, ())
    if x is None or tail is None:
        return False
    dtype, epilogue = x.type.dtype, tail.epilogue
    loaded = replace(epilogue, apply=lambda acc, o: epilogue.apply(arith.from_storage(acc, dtype), o))
    n = shape[-1]
    rows = math.prod(shape[:-1])

    def make(name: str) -> KernelFunction:
        kernel = binary.pack_bits(
            rows, n, selector.isa, x_dtype=arith.STORAGE[dtype], epilogue=loaded, threads=selector.threads
        )
        return KernelFunction(name, kernel.func, kernel.workspace_bytes)

    function = selector.kernel(("pack_bits", cluster.key), cluster.label, make)
    places = [selector.source(cluster.actual.get(v, v)) for v in (x, *tail.operands)]
    selector.call(function, places, [selector.target(v) for v in cluster.results])
    return True
