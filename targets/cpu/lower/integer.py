"""Lowers integer products with the kernels for u8 or i8 activations and constant i8 weights.

The kernels sum x w; the activations' zero point z enters as the constant -z sum(w) of each output channel,
and as what the border holds, so that padding stands for real zeros.
"""

from __future__ import annotations

import numpy as np

from hardy.compiler.ir import Node, Value
from hardy.compiler.ops.quant import IntegerConv, IntegerMatmul
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels import conv as conv_kernels
from hardy.targets.cpu.kernels.depthwise import depthwise
from hardy.targets.cpu.kernels.kernel import Array
from hardy.targets.cpu.kernels.matmul import matmul
from hardy.targets.cpu.lower import arith
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.kernel_call import array_of, literal_of, lower_kernel
from hardy.targets.cpu.lower.windows import conv_of, window_of
from hardy.targets.cpu.program import Ref
from hardy.targets.cpu.select import Selector
from hardy.targets.target import YES, Support, no


def takes(node: Node) -> Support:
    """u8 or i8 by a constant i8 weight without zero point; the activations' zero point constant."""
    op, (x, weight, *zeros) = node.op, node.operands
    if x.type.dtype not in (DType.u8, DType.i8) or weight.type.dtype is not DType.i8:
        return no(f"{op.name} of {x.type.dtype} and {weight.type.dtype} is decomposed")
    if not x.type.size or not weight.type.size:
        return no("empty")
    if isinstance(op, IntegerConv) and (op.layout != "channels_last" or len(op.strides) != 2):
        return no("integer convolution in another layout is decomposed")
    if isinstance(op, IntegerMatmul) and weight.type.size != np.prod(weight.type.shape[-2:]):
        return no("a batch of integer matrices is decomposed")
    literals = [v.literal for v in (weight, *zeros)]
    if any(literal is None for literal in literals):
        return no("integer products with operands known at run time are decomposed")
    if len(zeros) == 2 and bool(literals[2].tensor.any()):  # type: ignore[union-attr]
        return no("a weight zero point is decomposed")
    if zeros and zeros[0].type.size != 1:
        return no("a zero point for each row is decomposed")
    return YES


def _zero(cluster: Cluster, zeros: list[Value]) -> int:
    if not zeros:
        return 0
    literal = literal_of(cluster, zeros[0])
    assert literal is not None
    return int(literal.item())


def _correction(selector: Selector, zero: int, sums: Array) -> Ref:
    """-zero times the sum of each output channel's weights, in i32."""
    values = (-zero * sums.astype(np.int64)).astype(np.int32)
    return selector.constant(("correction", values.tobytes()), lambda: values)


def lower_integer(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    op, (x, weight, *zeros) = anchor.op, anchor.operands
    literal = literal_of(cluster, weight)
    if literal is None or x.node in set(cluster.nodes):
        return False
    zero, w = _zero(cluster, zeros), array_of(literal)
    isa, threads, dtype = selector.isa, selector.threads, arith.STORAGE[x.type.dtype]
    place = selector.source(cluster.actual.get(x, x))
    if isinstance(op, IntegerMatmul):
        rows_of_b, columns_of_b = weight.type.shape[-2:]
        n, k = (rows_of_b, columns_of_b) if op.transpose_b else (columns_of_b, rows_of_b)
        w = w.reshape(rows_of_b, columns_of_b)
        rows = x.type.size // k
        bias = _correction(selector, zero, w.sum(1 if op.transpose_b else 0, dtype=np.int64))
        return lower_kernel(
            selector,
            cluster,
            anchor,
            "integer_matmul",
            lambda e: matmul(
                rows,
                n,
                k,
                isa,
                x_dtype=dtype,
                transposed=op.transpose_b,
                bias=True,
                epilogue=e,
                threads=threads,
            ),
            (x, weight),
            weight=weight,
            reads=[place, bias],
            reshape=(rows_of_b, columns_of_b),
        )
    assert isinstance(op, IntegerConv)
    bias = _correction(selector, zero, w.sum((1, 2, 3), dtype=np.int64))
    channels = x.type.shape[-1]
    out, each, *kernel = w.shape
    options = {"x_dtype": dtype, "bias": True, "pad_value": zero, "threads": threads}
    if each == 1 and out == channels == op.groups and channels > 1:
        window = window_of(x, kernel, op.strides, op.padding, op.dilations)
        return lower_kernel(
            selector,
            cluster,
            anchor,
            ("integer_depthwise", zero),
            lambda e: depthwise(window, isa, epilogue=e, **options),  # type: ignore[arg-type]
            (x, weight),
            weight=weight,
            reads=[place, bias],
        )
    shape = conv_of(x, out, kernel, op)
    return lower_kernel(
        selector,
        cluster,
        anchor,
        ("integer_conv", zero),
        lambda e: conv_kernels.conv2d(shape, isa, epilogue=e, **options),  # type: ignore[arg-type]
        (x, weight),
        weight=weight,
        reads=[place, bias],
    )
