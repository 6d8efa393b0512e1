"""Lowers matrix products with weights that are stored as integers."""

from __future__ import annotations

import numpy as np

from hardy.compiler.ir import Node, Value
from hardy.compiler.ops.quant import DequantizeMatmul
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels.kernel import Array
from hardy.targets.cpu.kernels.weight_only import Layout, weight_only_matmul
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.kernel_call import array_of, literal_of, lower_kernel
from hardy.targets.cpu.select import Selector
from hardy.targets.target import YES, Support, no

BITS = {DType.i8: 8, DType.u8: 8, DType.i4: 4, DType.u4: 4}


def takes(node: Node) -> Support:
    """f32 by a constant weight of 8 or 4 bits with scales by output channel, in blocks of K or not."""
    op, (x, weight, *parameters) = node.op, node.operands
    assert isinstance(op, DequantizeMatmul)
    if x.type.dtype is not DType.f32 or weight.type.dtype not in BITS:
        return no(f"{op.name} of {x.type.dtype} and {weight.type.dtype} is decomposed")
    if any(v.literal is None for v in (weight, *parameters)):
        return no("a weight known at run time is decomposed")
    if not x.type.size or not weight.type.size:
        return no("empty")
    k_axis = 1 if op.transpose_b else 0
    if any(v.type.rank for v in parameters) and (op.axis == k_axis) != bool(op.block):
        return no("scales of another axis are decomposed")
    return YES


def lower_weight_only(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    op, (x, weight, *parameters) = anchor.op, anchor.operands
    assert isinstance(op, DequantizeMatmul)
    if x.node in set(cluster.nodes):
        return False
    n, k = weight.type.shape[:: 1 if op.transpose_b else -1]
    bits = BITS[weight.type.dtype]
    block = min(op.block or k, k)
    layout = Layout(x.type.size // k, n, k, bits, block, selector.isa)

    def rows(value: Value) -> Array:
        """A constant with an output channel in each row."""
        literal = literal_of(cluster, value)
        assert literal is not None
        array = array_of(literal)
        if array.ndim < 2:
            return np.broadcast_to(array.reshape(-1, 1), (n, layout.count))
        return array if op.transpose_b else array.T

    # The kernel's integers are signed.
    half = 0 if weight.type.dtype.range[0] else 1 << bits - 1
    given = rows(parameters[1]) if len(parameters) == 2 else np.zeros((n, layout.count), np.int8)
    kind = "float32" if given.dtype == np.float32 else "int8"
    zeros = (given.astype(np.float32) - half).astype(kind)
    arrays = {
        "weight": lambda: layout.pack((rows(weight).astype(np.int16) - half).astype(np.int8)),
        "scale": lambda: layout.pack_parameter(rows(parameters[0])),
    }
    if not zeros.any():
        kind = ""
    else:
        arrays["zero_point"] = lambda: layout.pack_parameter(zeros)
    digests = tuple(found.digest for v in (weight, *parameters) if (found := literal_of(cluster, v)))
    # What is read besides x, in the kernel's order, whether or not an operand stands for it.
    own = (x, weight, parameters[0], parameters[-1])[: 1 + len(arrays)]
    return lower_kernel(
        selector,
        cluster,
        anchor,
        ("weight_only", kind),
        lambda e: weight_only_matmul(layout, zero=kind, epilogue=e, threads=selector.threads),
        own,
        reads=[
            selector.source(cluster.actual.get(x, x)),
            *[selector.constant((name, layout, digests), make) for name, make in arrays.items()],
        ],
    )
