"""Lowers integer products with the kernels for u8 or i8 activations and constant i8 weights.

The kernels sum x w; the activations' zero point z enters as the constant -z sum(w) of each output channel,
and as what the border holds, so that padding stands for real zeros. A constant bias joins the former.
"""

from __future__ import annotations

import numpy as np

from hardy.compiler.ir import Node, Value, remap
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.quant import IntegerConv, IntegerMatmul
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels import conv as conv_kernels
from hardy.targets.cpu.kernels.depthwise import depthwise
from hardy.targets.cpu.kernels.integer_batch import Side, integer_batch_matmul
from hardy.targets.cpu.kernels.kernel import Array
from hardy.targets.cpu.kernels.matmul import matmul
from hardy.targets.cpu.lower import arith
from hardy.targets.cpu.lower.cluster import Cluster, leaves
from hardy.targets.cpu.lower.kernel_call import array_of, literal_of, lower_kernel
from hardy.targets.cpu.lower.product import batch_axes
from hardy.targets.cpu.lower.windows import conv_of, window_of
from hardy.targets.cpu.program import Ref
from hardy.targets.cpu.select import Selector
from hardy.targets.target import YES, Support, no


def takes(node: Node) -> Support:
    """u8 or i8 by a constant i8 weight without zero point; the activations' zero point constant.

    A matrix product also takes two activations with constant zero points.
    """
    op, (x, weight, *zeros) = node.op, node.operands
    if _is_product_of_activations(node):
        return YES
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


def _is_product_of_activations(node: Node) -> bool:
    op, (a, b, *zeros) = node.op, node.operands
    narrow = a.type.dtype in (DType.u8, DType.i8) and b.type.dtype in (DType.u8, DType.i8)
    if not isinstance(op, IntegerMatmul) or not narrow or not a.type.size or not b.type.size:
        return False
    if any(z.literal is None or z.type.size != 1 for z in zeros):
        return False
    m, n = node.type.shape[-2:]
    return batch_axes(a, b, node.values[0], m, n, a.type.shape[-1]) is not None


def _zero(cluster: Cluster, zeros: list[Value]) -> int:
    if not zeros:
        return 0
    literal = literal_of(cluster, zeros[0])
    assert literal is not None
    return int(literal.item())


def _start(selector: Selector, zero: int, sums: Array, bias: Array | None) -> Ref:
    """What each output channel starts from: the bias less zero times the sum of its weights, in i32."""
    values = -zero * sums.astype(np.int64)
    if bias is not None:
        values = values + bias
    values = values.astype(np.int32)
    return selector.constant(("start", values.tobytes()), lambda: values)


def _take_bias(cluster: Cluster, anchor: Node) -> tuple[Cluster, Array | None]:
    """The cluster without the addition of a constant to the anchor's channels, and that constant."""
    total = anchor.values[0]
    users = [n for n in cluster.nodes if total in n.operands]
    if len(users) != 1 or not isinstance(users[0].op, Add) or total in cluster.outputs:
        return cluster, None
    (add,) = users
    literals = [literal_of(cluster, v) for v in add.operands if v != total]
    channels = total.type.shape[-1]
    if len(literals) != 1 or literals[0] is None or add.type != total.type:
        return cluster, None
    shape = literals[0].type.shape
    if literals[0].type.size not in (1, channels) or (shape and shape[-1] != literals[0].type.size):
        return cluster, None
    mapping = {add.values[0]: total}
    nodes: list[Node] = []
    for node in cluster.nodes:
        if node is not add:
            nodes.append(remap(node, mapping))
            mapping.update(zip(node.values, nodes[-1].values, strict=True))
    outputs = tuple(mapping.get(v, v) for v in cluster.outputs)
    rest = Cluster(
        tuple(nodes), leaves(nodes, outputs), outputs, cluster.results, cluster.actual, cluster.title
    )
    return rest, np.broadcast_to(array_of(literals[0]).reshape(-1).astype(np.int64), channels)


def lower_integer(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    op, (x, weight, *zeros) = anchor.op, anchor.operands
    literal = literal_of(cluster, weight)
    if x.node in set(cluster.nodes) or weight.node in set(cluster.nodes):
        return False
    centred = len(zeros) < 2 or _zero(cluster, zeros[1:]) == 0
    one_matrix = isinstance(op, IntegerConv) or weight.type.size == np.prod(weight.type.shape[-2:])
    if literal is None or weight.type.dtype is not DType.i8 or not centred or not one_matrix:
        return _lower_activations(selector, cluster, anchor)
    zero, w = _zero(cluster, zeros), array_of(literal)
    cluster, bias = _take_bias(cluster, anchor)
    isa, threads, dtype = selector.isa, selector.threads, arith.STORAGE[x.type.dtype]
    place = selector.source(cluster.actual.get(x, x))
    if isinstance(op, IntegerMatmul):
        rows_of_b, columns_of_b = weight.type.shape[-2:]
        n, k = (rows_of_b, columns_of_b) if op.transpose_b else (columns_of_b, rows_of_b)
        w = w.reshape(rows_of_b, columns_of_b)
        rows = x.type.size // k
        start = _start(selector, zero, w.sum(1 if op.transpose_b else 0, dtype=np.int64), bias)
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
            reads=[place, start],
            reshape=(rows_of_b, columns_of_b),
        )
    assert isinstance(op, IntegerConv)
    start = _start(selector, zero, w.sum((1, 2, 3), dtype=np.int64), bias)
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
            reads=[place, start],
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
        reads=[place, start],
    )


def _lower_activations(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    """A product whose operands are both read as they lie."""
    op, (a, b, *zeros) = anchor.op, anchor.operands
    assert isinstance(op, IntegerMatmul)
    m, n = anchor.type.shape[-2:]
    k = a.type.shape[-1]
    batch = batch_axes(a, b, anchor.values[0], m, n, k)
    if batch is None or a == b:
        return False
    sides = [
        Side(arith.STORAGE[v.type.dtype], _zero(cluster, zeros[i : i + 1])) for i, v in enumerate((a, b))
    ]
    return lower_kernel(
        selector,
        cluster,
        anchor,
        ("integer_batch_matmul", *sides),
        lambda e: integer_batch_matmul(
            m, n, k, selector.isa, a=sides[0], b=sides[1], batch=batch, transpose_b=op.transpose_b, epilogue=e
        ),
        (a, b),
    )
