"""Lowers scatters: x is copied to the result, then the updates are applied in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import tirx

from hardy.compiler.ir import Node
from hardy.compiler.ops.shape import ScatterElements, ScatterNd
from hardy.compiler.types import DType
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr
from hardy.targets.cpu.lower import arith, scalar
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.index import strides
from hardy.targets.cpu.lower.nest import pieces
from hardy.targets.cpu.program import KernelFunction
from hardy.targets.cpu.select import Selector, storage_size

COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": lambda x, y: tirx.Or(x, y) if emit.type_of(x) == "bool" else arith.add(x, y),
    "mul": lambda x, y: tirx.And(x, y) if emit.type_of(x) == "bool" else arith.mul(x, y),
    "max": scalar.maximum,
    "min": scalar.minimum,
}


def lower_scatter(selector: Selector, cluster: Cluster, anchor: Node) -> bool:
    if len(cluster.nodes) > 1:
        return False
    x, indices, updates = anchor.operands
    place = selector.target(cluster.results[0])
    selector.copy(selector.source(cluster.actual.get(x, x)), place, storage_size(x.type))
    if updates.type.size == 0:
        return True

    def make(name: str) -> KernelFunction:
        code = Code()
        parameters = (("indices", indices), ("updates", updates), ("y", x))
        buffers = [code.pointer(n, arith.STORAGE[v.type.dtype], v.type.size) for n, v in parameters]
        if isinstance(anchor.op, ScatterElements):
            _elements(code, anchor, anchor.op, buffers)
        else:
            assert isinstance(anchor.op, ScatterNd)
            _slices(code, anchor, anchor.op, buffers, selector.isa.lanes("int64"))
        return KernelFunction(name, code.finish())

    key = ("scatter", anchor.op, tuple(v.type for v in anchor.operands))
    kernel = selector.kernel(key, cluster.label, make)
    reads = [selector.source(cluster.actual.get(v, v)) for v in (indices, updates)]
    selector.call(kernel, reads, [place])
    return True


def _wrapped(code: Code, indices: Buffer, at: Expr, size: int) -> Expr:
    """An index as i32: counted from the end when negative, kept inside the axis."""
    raw = arith.cast(code.load(indices, at, 1), "int64")
    limit = tirx.IntImm("int64", size)
    zero = tirx.IntImm("int64", 0)
    positive = tirx.Select(tirx.LT(raw, zero), raw + limit, raw)
    return code.hold(arith.cast(tirx.Max(tirx.Min(positive, limit - 1), zero), "int32"))


def _put(code: Code, y: Buffer, at: Expr, update: Expr, dtype: DType, reduction: str) -> None:
    if reduction == "none":
        code.store(y, at, update)
        return
    old = code.hold(arith.from_storage(emit.load(y, at, emit.lanes_of(update)), dtype))
    new = COMBINE[reduction](old, code.hold(arith.from_storage(update, dtype)))
    code.store(y, at, arith.to_storage(code.hold(new), dtype))


def _elements(code: Code, node: Node, op: ScatterElements, buffers: Sequence[Buffer]) -> None:
    indices, updates, y = buffers
    x, t = node.operands[0].type, node.operands[1].type
    steps = strides(x.shape)

    def nest(axis: int, flat: Expr, at: Expr) -> None:
        if axis == len(t.shape):
            picked = _wrapped(code, indices, flat, x.shape[op.axis])
            place = code.let(at + picked * steps[op.axis])
            _put(code, y, place, code.load(updates, flat, 1), x.dtype, op.reduction)
            return
        with code.loop(t.shape[axis]) as i:
            nest(axis + 1, flat * t.shape[axis] + i, at if axis == op.axis else at + i * steps[axis])

    nest(0, 0, 0)


def _slices(code: Code, node: Node, op: ScatterNd, buffers: Sequence[Buffer], lanes: int) -> None:
    indices, updates, y = buffers
    x, t = node.operands[0].type, node.operands[1].type
    depth = t.shape[-1]
    rows, length = math.prod(t.shape[:-1]), math.prod(x.shape[depth:])
    with code.loop(rows) as row:
        place: Expr = 0
        for k in range(depth):
            place = place * x.shape[k] + _wrapped(code, indices, row * depth + k, x.shape[k])
        base = code.let(place * length)
        for start, count, width in pieces(length, lanes):
            with code.loop(count) as c:
                offset = c * width + start
                update = code.load(updates, row * length + offset, width)
                _put(code, y, base + offset, update, x.dtype, op.reduction)
