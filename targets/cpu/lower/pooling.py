"""Lowers pooling: vector kernels for two axes with channels last, else generic loops."""

from __future__ import annotations

from hardy.compiler.ir import Node
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels.pool import pool2d
from hardy.targets.cpu.lower import arith, generic
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.kernel_call import lower_kernel
from hardy.targets.cpu.lower.windows import window_of
from hardy.targets.cpu.select import Selector

MAX_TYPES = (DType.f32, DType.i32, DType.i8, DType.u8)


def lower_pool(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    op, (x,) = anchor.op, anchor.operands
    assert isinstance(op, MaxPool | AvgPool)
    average = isinstance(op, AvgPool)
    types = (DType.f32,) if average else MAX_TYPES
    fits = op.layout == "channels_last" and len(op.kernel) == 2 and x.type.dtype in types
    if not fits or x.node in set(cluster.nodes):
        return generic.lower_pool(selector, cluster, anchor)
    window = window_of(x, op.kernel, op.strides, op.padding, op.dilations)
    count_padding = isinstance(op, AvgPool) and op.count_padding
    return lower_kernel(
        selector,
        cluster,
        anchor,
        "pool",
        lambda e: pool2d(
            window,
            "avg" if average else "max",
            selector.isa,
            x_dtype=arith.STORAGE[x.type.dtype],
            count_padding=count_padding,
            epilogue=e,
            threads=selector.threads,
        ),
        (x,),
    )
