"""How ops carry a transposition of their operands to their results.

The value of a transposition `perm` of `base` has axis i where base has axis perm[i]. For an op on
such values, `carry` gives the op that computes the same on the bases, and the transposition that
its results then lack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hardy.compiler.ir import Node, Op
from hardy.compiler.ops.activation import LogSoftmax, Softmax
from hardy.compiler.ops.norm import LayerNorm, ReduceMean, RmsNorm
from hardy.compiler.ops.reduce import (
    ArgMax,
    ArgMin,
    CumSum,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    TopK,
)
from hardy.compiler.ops.resize import Resize
from hardy.compiler.ops.shape import BroadcastTo, Concat, Gather, Pad, Reshape, Reverse, Slice
from hardy.passes.properties import along_axis, broadcasts

Permutation = tuple[int, ...]


def compose(first: Permutation, then: Permutation) -> Permutation:
    """The one transposition that does `first`, then `then`."""
    return tuple([first[i] for i in then])


def inverse(perm: Permutation) -> Permutation:
    result = [0] * len(perm)
    for i, p in enumerate(perm):
        result[p] = i
    return tuple(result)


def is_identity(perm: Permutation) -> bool:
    return all(i == p for i, p in enumerate(perm))


def moves_nothing(shape: Sequence[int], perm: Permutation) -> bool:
    """Whether transposing a tensor of this shape leaves its elements in order: only sizes of one move."""
    order = [p for p in perm if shape[p] != 1]
    return order == sorted(order)


def to_base(values: Sequence[Any], perm: Permutation) -> tuple[Any, ...]:
    """Entries by axis of the transposed tensor, as entries by axis of its base."""
    return tuple([values[i] for i in inverse(perm)])


@dataclass(frozen=True)
class Carried:
    """The op on the bases, the transposition of its results, and the operands that are transposed
    (the others stay as they are)."""

    op: Op
    perm: Permutation
    operands: tuple[int, ...]


def carry(node: Node, perm: Permutation) -> Carried | None:
    """Carry a transposition of all (transposable) operands; None where this op cannot."""
    op = node.op
    everything = tuple(range(len(node.operands)))
    if broadcasts(type(op)):
        return Carried(op, perm, everything) if node.types[0].rank == len(perm) else None
    if along_axis(type(op)):
        if getattr(op, "block", 0) or any(v.type.rank > 1 for v in node.operands[1:]):
            return None
        return Carried(_with_axis(op, perm), perm, (0,))
    rule = _RULES.get(type(op))
    return rule(op, node, perm) if rule else None


def _with_axis(op: Op, perm: Permutation) -> Op:
    axis: int = vars(op)["axis"]
    new: Any = {"axis": perm[axis]} if axis < len(perm) else {}
    return dataclasses.replace(op, **new)


def _axis(op: Any, node: Node, perm: Permutation) -> Carried:
    return Carried(_with_axis(op, perm), perm, tuple(range(len(node.operands))))


def _without(perm: Permutation, gone: Sequence[int]) -> Permutation:
    """The transposition that is left after some axes of the transposed tensor are removed."""
    kept = [p for i, p in enumerate(perm) if i not in gone]
    return tuple([sorted(kept).index(p) for p in kept])


def _reduce(op: Any, node: Node, perm: Permutation) -> Carried:
    axes = tuple(sorted(perm[a] for a in op.axes))
    return Carried(dataclasses.replace(op, axes=axes), perm if op.keepdims else _without(perm, op.axes), (0,))


def _arg(op: Any, node: Node, perm: Permutation) -> Carried:
    return Carried(_with_axis(op, perm), perm if op.keepdims else _without(perm, (op.axis,)), (0,))


def _fields(*names: str) -> Callable[[Any, Node, Permutation], Carried]:
    """A rule for an op with attributes by axis."""

    def rule(op: Any, node: Node, perm: Permutation) -> Carried:
        new = {n: to_base(getattr(op, n), perm) for n in names if getattr(op, n)}
        return Carried(dataclasses.replace(op, **new), perm, (0,))

    return rule


def _broadcast_to(op: BroadcastTo, node: Node, perm: Permutation) -> Carried | None:
    if node.operands[0].type.rank != len(op.shape):
        return None
    return Carried(BroadcastTo(to_base(op.shape, perm)), perm, (0,))


def _reverse(op: Reverse, node: Node, perm: Permutation) -> Carried:
    return Carried(Reverse(tuple(sorted(perm[a] for a in op.axes))), perm, (0,))


def _trailing(op: Any, node: Node, perm: Permutation) -> Carried | None:
    fixed = all(perm[i] == i for i in range(op.axis, len(perm)))
    return Carried(op, perm, (0,)) if fixed else None


def _gather(op: Gather, node: Node, perm: Permutation) -> Carried | None:
    rank = node.operands[1].type.rank
    if rank > 1:
        return None
    return Carried(Gather(perm[op.axis]), perm if rank else _without(perm, (op.axis,)), (0,))


def _reshape(op: Reshape, node: Node, perm: Permutation) -> Carried | None:
    """A reshape that splits or merges only axes that are neighbours, in order, in the base too."""
    shape = node.operands[0].type.shape
    if node.type.size == 0:
        return None
    base = to_base(shape, perm)
    # Position of each base axis among those that hold more than one element.
    real = {axis: i for i, axis in enumerate(a for a, n in enumerate(base) if n != 1)}
    runs = []
    for axes, new_axes in axis_runs(shape, op.shape):
        order = [real[perm[i]] for i in axes if shape[i] != 1]
        if order and order != list(range(order[0], order[0] + len(order))):
            return None
        place = (order[0] + 0.5) if order else (real_before(real, perm[axes[0]]) if axes else len(real) + 1.0)
        runs.append((place, new_axes))
    ordered = [j for _, new_axes in sorted(runs, key=lambda run: run[0]) for j in new_axes]
    new_perm = inverse(tuple(ordered))
    return Carried(Reshape(tuple(op.shape[j] for j in ordered)), new_perm, (0,))


def real_before(real: dict[int, int], axis: int) -> float:
    """How many axes of more than one element come before this one in the base."""
    return float(sum(a < axis for a in real))


def axis_runs(a: Sequence[int], b: Sequence[int]) -> list[tuple[range, range]]:
    """Split two shapes of one size, which is not 0, into the shortest runs of axes of equal products."""
    result = []
    i = j = 0
    while i < len(a) or j < len(b):
        start_i, start_j = i, j
        size_a = size_b = 1
        if i < len(a):
            size_a, i = a[i], i + 1
        if j < len(b):
            size_b, j = b[j], j + 1
        while size_a != size_b:
            if size_a < size_b:
                size_a, i = size_a * a[i], i + 1
            else:
                size_b, j = size_b * b[j], j + 1
        result.append((range(start_i, i), range(start_j, j)))
    return result


_RULES: dict[type[Op], Callable[[Any, Node, Permutation], Carried | None]] = {
    Softmax: _axis,
    LogSoftmax: _axis,
    CumSum: _axis,
    Concat: _axis,
    TopK: _axis,
    ReduceSum: _reduce,
    ReduceProd: _reduce,
    ReduceMax: _reduce,
    ReduceMin: _reduce,
    ReduceMean: _reduce,
    ArgMax: _arg,
    ArgMin: _arg,
    Slice: _fields("starts", "stops", "steps"),
    Pad: _fields("low", "high", "interior"),
    Resize: _fields("shape", "scales", "roi"),
    BroadcastTo: _broadcast_to,
    Reverse: _reverse,
    LayerNorm: _trailing,
    RmsNorm: _trailing,
    Gather: _gather,
    Reshape: _reshape,
}
