"""Ops that move elements: where each element of a result comes from.

`sources` answers for one node and one index tuple: a `Read` of an operand's element, a `Choice` between
operands by an index (concat), or an `Inside` that reads an operand in a region and a constant elsewhere
(pad).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hardy.compiler.ir import Node, Op, Value
from hardy.compiler.ops import shape as s
from hardy.targets.cpu.lower import index
from hardy.targets.cpu.lower.index import Index, Loaded

At = tuple[Index, ...]


@dataclass(frozen=True)
class Read:
    """An operand's element."""

    value: Value
    at: At


@dataclass(frozen=True)
class Choice:
    """The first of `reads` whose limit is above `selector`; the reads' limits ascend."""

    selector: Index
    limits: tuple[int, ...]
    reads: tuple[Read, ...]


@dataclass(frozen=True)
class Test:
    """low <= index < high, and index is a multiple of `step` from `low` on."""

    index: Index
    low: int
    high: int
    step: int = 1


@dataclass(frozen=True)
class Inside:
    """`read` where all tests hold, `fill` elsewhere."""

    tests: tuple[Test, ...]
    read: Read
    fill: float


Source = Read | Choice | Inside


def _reshape(op: s.Reshape, node: Node, at: At) -> Source:
    (x,) = node.operands
    return Read(x, index.unflatten(index.flatten(at, node.type.shape), x.type.shape))


def _transpose(op: s.Transpose, node: Node, at: At) -> Source:
    back = sorted(range(len(at)), key=lambda i: op.permutation[i])
    return Read(node.operands[0], tuple(at[i] for i in back))


def _broadcast_to(op: s.BroadcastTo, node: Node, at: At) -> Source:
    (x,) = node.operands
    return Read(x, index.broadcast(at, x.type.shape))


def _slice(op: s.Slice, node: Node, at: At) -> Source:
    moved = tuple(i * step + start for i, start, step in zip(at, op.starts, op.steps, strict=True))
    return Read(node.operands[0], moved)


def _reverse(op: s.Reverse, node: Node, at: At) -> Source:
    turned = [
        n - 1 - i if a in op.axes else i for a, (i, n) in enumerate(zip(at, node.type.shape, strict=True))
    ]
    return Read(node.operands[0], tuple(turned))


def _concat(op: s.Concat, node: Node, at: At) -> Source:
    limits, reads, start = [], [], 0
    for x in node.operands:
        size = x.type.shape[op.axis]
        if size:
            moved = (*at[: op.axis], at[op.axis] + -start, *at[op.axis + 1 :])
            reads.append(Read(x, moved))
            start += size
            limits.append(start)
    return Choice(at[op.axis], tuple(limits), tuple(reads))


def _pad(op: s.Pad, node: Node, at: At) -> Source:
    (x,) = node.operands
    gaps = op.interior or (0,) * len(at)
    tests, moved = [], []
    for i, n, low, gap in zip(at, x.type.shape, op.low, gaps, strict=True):
        tests.append(Test(i, low, low + (n - 1) * (gap + 1) + 1 if n else low, gap + 1))
        moved.append((i + -low).quotient(gap + 1))
    return Inside(tuple(tests), Read(x, tuple(moved)), op.value)


def _loaded(indices: Value, at: At, size: int) -> Index:
    return Index({Loaded(indices, at, size): 1}) if size > 1 else index.ZERO


def _gather(op: s.Gather, node: Node, at: At) -> Source:
    x, indices = node.operands
    end = op.axis + indices.type.rank
    picked = _loaded(indices, at[op.axis : end], x.type.shape[op.axis])
    return Read(x, (*at[: op.axis], picked, *at[end:]))


def _gather_elements(op: s.GatherElements, node: Node, at: At) -> Source:
    x, indices = node.operands
    picked = _loaded(indices, at, x.type.shape[op.axis])
    return Read(x, (*at[: op.axis], picked, *at[op.axis + 1 :]))


def _gather_nd(op: s.GatherNd, node: Node, at: At) -> Source:
    x, indices = node.operands
    depth, rank = indices.type.shape[-1], indices.type.rank
    row = at[: rank - 1]
    picked = [_loaded(indices, (*row, index.constant(k)), x.type.shape[op.batch + k]) for k in range(depth)]
    return Read(x, (*row[: op.batch], *picked, *at[rank - 1 :]))


SOURCES: dict[type[Op], Callable[[Any, Node, At], Source]] = {
    s.Reshape: _reshape,
    s.Transpose: _transpose,
    s.BroadcastTo: _broadcast_to,
    s.Slice: _slice,
    s.Reverse: _reverse,
    s.Concat: _concat,
    s.Pad: _pad,
    s.Gather: _gather,
    s.GatherElements: _gather_elements,
    s.GatherNd: _gather_nd,
}


def sources(node: Node, at: At) -> Source:
    return SOURCES[type(node.op)](node.op, node, at)
