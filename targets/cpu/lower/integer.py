"""Lowers integer products with the kernels for u8 or i8 activations and constant i8 weights.

The kernels sum x w; the activations' zero point z enters as the constant -z sum(w) of each output channel,
and as what the border holds, so that padding stands for real zeros. A constant bias joins the former. A zero
point that is known at run time only is subtracted in the epilogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hardy.compiler.ir import Node, Op, Value, remap
from hardy.compiler.literal import Literal
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.quant import IntegerConv, IntegerMatmul
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels import conv as conv_kernels
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.depthwise import depthwise
from hardy.targets.cpu.kernels.emit import Expr
from hardy.targets.cpu.kernels.integer_batch import Side, integer_batch_matmul
from hardy.targets.cpu.kernels.kernel import Array, Epilogue, EpilogueOperand
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
    """u8 or i8 by a constant i8 weight without zero point, or by another activation in a matrix product.

    Zero points are constants; that of a matrix product with a constant weight may be known at run time, and
    differ from row to row.
    """
    op, (x, weight, *zeros) = node.op, node.operands
    narrow = (DType.u8, DType.i8)
    if x.type.dtype not in narrow or weight.type.dtype not in narrow:
        return no(f"{op.name} of {x.type.dtype} and {weight.type.dtype} is decomposed")
    if not x.type.size or not weight.type.size:
        return no("empty")
    literals = [v.literal for v in (weight, *zeros)]
    if isinstance(op, IntegerMatmul):
        if _has_packed_weight(op, weight, literals) and _fits_rows(x, zeros):
            return YES
        if any(z.literal is None or z.type.size != 1 for z in zeros):
            return no("integer products with zero points known at run time are decomposed")
        m, n = node.type.shape[-2:]
        batch = batch_axes(x, weight, node.values[0], m, n, x.type.shape[-1])
        return no("these batch axes are decomposed") if batch is None else YES
    assert isinstance(op, IntegerConv)
    if op.layout != "channels_last" or len(op.strides) != 2:
        return no("integer convolution in another layout is decomposed")
    if not _has_packed_weight(op, weight, literals):
        return no("a weight known at run time, or with a zero point, is decomposed")
    return no("a zero point known at run time is decomposed") if zeros and literals[1] is None else YES


def _has_packed_weight(op: Op, weight: Value, literals: Sequence[Literal | None]) -> bool:
    """Whether the weight is one constant i8 matrix, or kernel, without zero point.

    `literals` are those of the weight and the zero points.
    """
    if literals[0] is None or weight.type.dtype is not DType.i8:
        return False
    if isinstance(op, IntegerMatmul) and weight.type.size != np.prod(weight.type.shape[-2:]):
        return False
    return len(literals) < 3 or (literals[2] is not None and not literals[2].tensor.any())


def _fits_rows(x: Value, zeros: Sequence[Value]) -> bool:
    """Whether the zero point of x is one number, or has an entry for each row of all of x."""
    return not zeros or zeros[0].type.size == 1 or zeros[0].type.size * x.type.shape[-1] == x.type.size


def _zero(cluster: Cluster, zeros: Sequence[Value]) -> int | None:
    """The zero point in front, None if it is known at run time only or differs from row to row."""
    if not zeros:
        return 0
    literal = literal_of(cluster, zeros[0])
    return int(literal.item()) if literal is not None and literal.type.size == 1 else None


def _less_zeros(e: Epilogue, dtype: str, rows: bool) -> Epilogue:
    """First subtracts the zero point times the sum of the channel's weights."""
    inner = e.apply

    def apply(acc: Expr, operands: Sequence[Expr]) -> Expr:
        sums, zero, *rest = operands
        return inner(emit.current().let(acc - sums * arith.cast(zero, "int32")), rest)  # type: ignore[union-attr]

    own = (EpilogueOperand("int32", "channel"), EpilogueOperand(dtype, "row" if rows else "scalar"))
    return replace(e, operands=(*own, *e.operands), apply=apply)


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
    if x.node in set(cluster.nodes) or weight.node in set(cluster.nodes):
        return False
    literals = [literal_of(cluster, v) for v in (weight, *zeros)]
    if not _has_packed_weight(op, weight, literals):
        return _lower_activations(selector, cluster, anchor)
    if isinstance(op, IntegerMatmul):
        return _lower_matmul(selector, cluster, anchor, array_of(literals[0]))  # type: ignore[arg-type]
    zero, w = _zero(cluster, zeros), array_of(literals[0])  # type: ignore[arg-type]
    assert zero is not None
    cluster, bias = _take_bias(cluster, anchor)
    isa, threads, dtype = selector.isa, selector.threads, arith.STORAGE[x.type.dtype]
    place = selector.source(cluster.actual.get(x, x))
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


def _lower_matmul(selector: Selector, cluster: Cluster, anchor: Node, w: Array) -> bool:
    """A product with a constant matrix."""
    op, (x, weight, *zeros) = anchor.op, anchor.operands
    assert isinstance(op, IntegerMatmul)
    cluster, bias = _take_bias(cluster, anchor)
    shape = weight.type.shape[-2:]
    n, k = shape if op.transpose_b else shape[::-1]
    rows, dtype = x.type.size // k, arith.STORAGE[x.type.dtype]
    sums = w.reshape(shape).sum(1 if op.transpose_b else 0, dtype=np.int64)
    zero = _zero(cluster, zeros)
    places = [selector.source(cluster.actual.get(x, x)), _start(selector, zero or 0, sums, bias)]
    by_row = zero is None and zeros[0].type.size > 1
    if zero is None:
        places += [_start(selector, -1, sums, None), selector.source(cluster.actual.get(zeros[0], zeros[0]))]
    options = {"x_dtype": dtype, "transposed": op.transpose_b, "bias": True, "threads": selector.threads}
    return lower_kernel(
        selector,
        cluster,
        anchor,
        ("integer_matmul", zero is None, by_row),
        lambda e: matmul(
            rows,
            n,
            k,
            selector.isa,
            epilogue=e if zero is not None else _less_zeros(e, dtype, by_row),
            **options,  # type: ignore[arg-type]
        ),
        (x, weight),
        weight=weight,
        reads=places,
        reshape=shape,
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
        Side(arith.STORAGE[v.type.dtype], _zero(cluster, zeros[i : i + 1]) or 0) for i, v in enumerate((a, b))
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
