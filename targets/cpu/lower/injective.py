"""Lowers clusters in which every result element has an expression of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hardy.compiler.ir import Node, Value
from hardy.compiler.ops.shape import Concat
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Buffer, Code
from hardy.targets.cpu.lower import arith
from hardy.targets.cpu.lower.cluster import Cluster
from hardy.targets.cpu.lower.movement import SOURCES
from hardy.targets.cpu.lower.nest import Injective, pieces
from hardy.targets.cpu.lower.scalar import rule_for
from hardy.targets.cpu.program import KernelFunction, Ref
from hardy.targets.cpu.select import Selector, storage_size


def is_injective(node: Node) -> bool:
    """Whether each result element has its own expression here."""
    return type(node.op) in SOURCES or rule_for(node) is not None


def declare(code: Code, prefix: str, values: Sequence[Value]) -> dict[Value, Buffer]:
    """A pointer parameter for each value, in order."""
    return {
        value: code.pointer(f"{prefix}{number}", arith.STORAGE[value.type.dtype], value.type.size)
        for number, value in enumerate(values)
    }


def sources(selector: Selector, cluster: Cluster) -> list[Ref]:
    """Where the cluster's inputs lie."""
    return [selector.source(cluster.actual.get(v, v)) for v in cluster.inputs]


def lower_injective(selector: Selector, cluster: Cluster) -> None:
    """One kernel over all results of the cluster."""
    inside = set(cluster.nodes)
    for inner, result in zip(cluster.outputs, cluster.results, strict=True):
        if inner.node not in inside:
            selector.view(result, selector.source(cluster.actual.get(inner, inner)))
    computed = {v: w for v, w in zip(cluster.outputs, cluster.results, strict=True) if v.node in inside}
    for inner, result in zip(cluster.outputs, cluster.results, strict=True):
        if inner in computed and computed[inner] != result:
            # The same value under two results: the other one is a view.
            selector.view(result, selector.target(computed[inner]))
    if computed:
        _lower_computed(selector, cluster, computed)


def _lower_computed(selector: Selector, cluster: Cluster, computed: Mapping[Value, Value]) -> None:
    cluster = cluster.giving(computed)
    if len(cluster.nodes) == 1 and isinstance(cluster.nodes[0].op, Concat):
        _lower_concat(selector, cluster)
        return

    def make(name: str) -> KernelFunction:
        code = Code()
        buffers = declare(code, "x", cluster.inputs) | declare(code, "y", cluster.outputs)
        in_place = set(cluster.inputs)
        Injective(code, cluster, selector.isa, buffers, {}, in_place).write()
        count = len(cluster.inputs)
        pairs = [
            (i, count + j)
            for j, y in enumerate(cluster.outputs)
            for i, x in enumerate(cluster.inputs)
            if x in in_place and storage_size(x.type) == storage_size(y.type)
        ]
        return KernelFunction(name, code.finish(), in_place=tuple(pairs))

    kernel = selector.kernel(("injective", cluster.key), cluster.label, make)
    selector.call(kernel, sources(selector, cluster), [selector.target(v) for v in cluster.results])


def _lower_concat(selector: Selector, cluster: Cluster) -> None:
    """Each operand is copied to its part of the result, by kernels shared among operands of one shape."""
    (node,) = cluster.nodes
    op = node.op
    assert isinstance(op, Concat)
    target = selector.target(cluster.results[0])
    outer = 1
    for n in node.type.shape[: op.axis]:
        outer *= n
    each = arith.storage_bytes(node.type.dtype)
    row = node.type.size // outer
    offset = 0
    for value in node.operands:
        length = value.type.size // outer
        if length:
            source = selector.source(cluster.actual.get(value, value))
            copy_rows(selector, source, target.at(offset * each), outer, length * each, row * each)
        offset += length


def copy_rows(selector: Selector, source: Ref, target: Ref, rows: int, length: int, stride: int) -> None:
    """Copy `rows` runs of `length` bytes to places `stride` bytes apart."""
    if rows == 1 or length == stride:
        selector.copy(source, target, rows * length)
        return

    def make(name: str) -> KernelFunction:
        unit = next(u for u in (8, 4, 2, 1) if length % u == 0 and stride % u == 0)
        dtype = f"uint{8 * unit}"
        n, step = length // unit, stride // unit
        code = Code()
        x, y = code.pointer("x", dtype, rows * n), code.pointer("y", dtype, (rows - 1) * step + n)
        with code.loop(rows) as row:
            for start, count, lanes in pieces(n, selector.isa.lanes(dtype)):
                with code.loop(count) as i:
                    at = i * lanes + start
                    code.store(y, row * step + at, emit.load(x, row * n + at, lanes))
        return KernelFunction(name, code.finish())

    kernel = selector.kernel(("copy_rows", rows, length, stride), f"concat_{rows}x{length}", make)
    selector.call(kernel, [source], [target])
