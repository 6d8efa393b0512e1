"""How each op ties the axes of its results to those of its operands, for the removal of channels.

A rule takes the ids of its operands' axes (`hardy.passes.channel_atoms`) and gives those of its
results. It unites what must go together and fixes what must stay. An op without a rule fixes all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hardy.compiler.ir import Node, Op, Value
from hardy.compiler.ops import activation, attention, linear, norm, pool, quant, reduce, resize, shape
from hardy.compiler.types import TensorType
from hardy.passes.channel_atoms import Atoms, Axes, Ids, pick
from hardy.passes.properties import along_axis, broadcasts


@dataclass
class Split:
    """One axis that a reshape makes several of, or the other way round: `whole` has the ids of all
    combinations of the `parts`."""

    whole: Ids
    parts: list[Ids]


@dataclass
class Rules:
    """What rules share: the atoms, which values do not depend on the inputs, and the reshapes to
    decide on when all else is known."""

    through_norms: bool
    atoms: Atoms = field(default_factory=Atoms)
    constant: set[Value] = field(default_factory=set)
    splits: list[Split] = field(default_factory=list)

    def apply(self, node: Node, xs: Sequence[Axes]) -> list[Axes]:
        """The ids of a node's results."""
        kind = type(node.op)
        rule = _RULES.get(kind)
        if rule is None:
            rule = next((r for base, r in _BASES if issubclass(kind, base)), None)
        if rule is None and broadcasts(kind):
            rule = _elementwise
        elif rule is None and along_axis(kind):
            rule = _along_axis
        return (rule or _refuse)(self, node, xs)

    def fresh(self, t: TensorType) -> Axes:
        return tuple(self.atoms.new(n) for n in t.shape)

    def decide(self) -> None:
        """Let one part of each reshaped axis carry the channels: the outermost that may lose any, which
        is the heads in heads x size and the channels in channels x height x width; the others stay."""
        for split in self.splits:
            free = [p for p in split.parts if self.atoms.any_free(p)]
            if not free or not self.atoms.any_free(split.whole):
                self.atoms.fix_all([split.whole, *split.parts], "a reshape mixes it with what must stay")
                continue
            live = next(i for i, p in enumerate(split.parts) if p is free[0])
            for i, part in enumerate(split.parts):
                if i != live:
                    self.atoms.fix(part, "a reshape makes one axis of it and the channels")
            grid = np.moveaxis(split.whole.reshape([len(p) for p in split.parts]), live, 0)
            for i, row in zip(split.parts[live].tolist(), grid, strict=True):
                for j in row.ravel().tolist():
                    self.atoms.join(i, j)


Rule = Callable[[Rules, Node, Sequence[Axes]], list[Axes]]


def _refuse(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    reason = f"channels are not followed through {node.op.name}"
    results = [r.fresh(t) for t in node.types]
    for axes in (*xs, *results):
        r.atoms.fix_all(axes, reason)
    return results


def _broadcast(r: Rules, shape: tuple[int, ...], xs: Sequence[Axes]) -> Axes:
    """The axes of a broadcast to `shape`: equal sizes are one, sizes of one are repeated."""
    result = []
    for back in range(len(shape), 0, -1):
        size = shape[-back]
        same: list[Ids] = []
        for x in xs:
            if len(x) >= back:
                if len(x[-back]) == size:
                    same.append(x[-back])
                else:
                    r.atoms.fix(x[-back], "it is broadcast")
        if not same:
            same.append(r.atoms.new(size))
            r.atoms.fix(same[0], "it is broadcast")
        for other in same[1:]:
            r.atoms.unite(same[0], other)
        result.append(same[0])
    return tuple(result)


def _elementwise(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    return [_broadcast(r, node.type.shape, xs)]


def _broadcast_to(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    return [_broadcast(r, node.type.shape, xs)]


def _along_axis(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    """x with vectors along an axis, or scalars."""
    op, x = node.op, xs[0]
    if getattr(op, "block", 0):
        return _refuse(r, node, xs)
    axis: int = getattr(op, "axis", 0)
    for vector in xs[1:]:
        if vector:
            r.atoms.unite(vector[0], x[axis])
    return [x]


def _layer_norm(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    op = node.op
    assert isinstance(op, norm.LayerNorm | norm.RmsNorm)
    normalized = xs[0][op.axis :]
    if not r.through_norms:
        r.atoms.fix_all(normalized, f"{op.name} takes its statistics over it")
    for vector in xs[1:]:
        for own, shared in zip(vector, normalized, strict=True):
            r.atoms.unite(own, shared)
    return [xs[0]]


def _group_norm(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    op, x = node.op, xs[0]
    assert isinstance(op, norm.GroupNorm)
    _tie_blocks(r, x[1], op.groups)
    if op.groups == 1 and len(x[1]) > 1:
        r.atoms.fix(x[1], "group_norm takes its statistics over it")
    r.atoms.fix_all(x[2:], "group_norm takes its statistics over it")
    for vector in xs[1:]:
        r.atoms.unite(vector[0], x[1])
    return [x]


def _tie_blocks(r: Rules, ids: Ids, count: int) -> Ids:
    """Unite what lies in each of `count` equal runs of an axis; one id of each run."""
    blocks = ids.reshape(count, -1)
    for i in range(1, blocks.shape[1]):
        r.atoms.unite(blocks[:, 0], blocks[:, i])
    return blocks[:, 0]


def _conv(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    op = node.op
    assert isinstance(op, linear.Conv)
    x, weight = xs[0], xs[1]
    last = op.layout == "channels_last"
    channels, spatial = (x[-1], x[1:-1]) if last else (x[1], x[2:])
    r.atoms.fix_all([*spatial, *weight[2:]], "a window slides over it")
    if op.groups == 1:
        r.atoms.unite(channels, weight[1])
    else:
        # Whole groups go: those that are left stay equal.
        r.atoms.fix(weight[1], "it lies inside a group of a convolution")
        r.atoms.unite(_tie_blocks(r, channels, op.groups), _tie_blocks(r, weight[0], op.groups))
    if len(xs) > 2:
        r.atoms.unite(xs[2][0], weight[0])
    result = list(r.fresh(node.type))
    result[0] = x[0]
    result[-1 if last else 1] = weight[0]
    r.atoms.fix_all(result[1:-1] if last else result[2:], "a window slides over it")
    return [tuple(result)]


def _matmul(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    op = node.op
    assert isinstance(op, linear.Matmul)
    m, ka = xs[0][-2:][:: -1 if op.transpose_a else 1]
    kb, n = xs[1][-2:][:: -1 if op.transpose_b else 1]
    r.atoms.unite(ka, kb)
    if not any(v in r.constant for v in node.operands):
        r.atoms.fix(ka, "a product of two activations sums over it")
    return [(*_broadcast(r, node.type.shape[:-2], [x[:-2] for x in xs]), m, n)]


def _attention(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    (q0, heads, queries, d), (k0, kv_heads, keys, dk), (v0, v_heads, v_keys, dv) = xs[:3]
    atoms = r.atoms
    for a, b in ((q0, k0), (q0, v0), (kv_heads, v_heads), (keys, v_keys), (d, dk)):
        atoms.unite(a, b)
    atoms.fix(keys, "attention takes its weights over it")
    atoms.fix(d, "a product of two activations sums over it")
    atoms.unite(_tie_blocks(r, heads, len(kv_heads)), kv_heads)
    if len(xs) > 3:
        _broadcast(r, tuple(map(len, (q0, heads, queries, keys))), [(q0, heads, queries, keys), xs[3]])
    return [(q0, heads, queries, dv)]


def _along_one(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    """Ops that mix all elements along an axis and keep the shape."""
    axis: int = getattr(node.op, "axis", 0)
    r.atoms.fix_all(xs[0][axis : axis + 1], f"{node.op.name} runs along it")
    return [xs[0]]


def _reduce(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    op, x = node.op, xs[0]
    axes: tuple[int, ...] = getattr(op, "axes", None) or (
        (op.axis,) if isinstance(op, reduce.ArgExtremum) else ()
    )
    result = []
    for axis, ids in enumerate(x):
        if axis not in axes:
            result.append(ids)
            continue
        r.atoms.fix(ids, f"{op.name} takes all of it")
        if getattr(op, "keepdims", False):
            result.append(r.atoms.new(1))
    return [tuple(result)]


def _top_k(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    op, x = node.op, xs[0]
    assert isinstance(op, reduce.TopK)
    picked = r.atoms.new(op.k)
    r.atoms.fix_all([x[op.axis], picked], "top_k picks from it")
    result = (*x[: op.axis], picked, *x[op.axis + 1 :])
    return [result, result]


def _pool(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    op, x = node.op, xs[0]
    assert isinstance(op, pool.Pool)
    channel = len(x) - 1 if op.layout == "channels_last" else 1
    result = list(r.fresh(node.type))
    for axis, ids in enumerate(x):
        if axis in (0, channel):
            result[axis] = ids
        else:
            r.atoms.fix_all([ids, result[axis]], "a window slides over it")
    return [tuple(result)]


def _resize(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    op, x = node.op, xs[0]
    assert isinstance(op, resize.Resize)
    result = list(x)
    for axis in op.axes(tuple(map(len, x))):
        result[axis] = r.atoms.new(op.shape[axis])
        r.atoms.fix_all([x[axis], result[axis]], "resize runs along it")
    return [tuple(result)]


def _reshape(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    (x,) = xs
    result: list[Ids] = [r.atoms.new(n) for n in node.type.shape]
    if node.type.size == 0:
        return _refuse(r, node, xs)
    for given, made in factor(tuple(map(len, x)), node.type.shape):
        if len(given) == len(made) == 1:
            result[made[0]] = x[given[0]]
        elif len(given) == 1:
            r.splits.append(Split(x[given[0]], [result[i] for i in made]))
        elif len(made) == 1:
            r.splits.append(Split(result[made[0]], [x[i] for i in given]))
        else:
            reason = "a reshape divides it anew"
            r.atoms.fix_all([x[i] for i in given], reason)
            r.atoms.fix_all([result[i] for i in made], reason)
    return [tuple(result)]


def factor(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The axes of a reshape in the smallest runs of equal size; axes of one are left out."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    left = [k for k, n in enumerate(before) if n != 1]
    right = [k for k, n in enumerate(after) if n != 1]
    while i < len(left):
        given, made = [left[i]], [right[j]]
        i, j = i + 1, j + 1
        while (a := math.prod(before[k] for k in given)) != (b := math.prod(after[k] for k in made)):
            if a < b:
                given.append(left[i])
                i += 1
            else:
                made.append(right[j])
                j += 1
        runs.append((given, made))
    return runs


def _transpose(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    assert isinstance(node.op, shape.Transpose)
    return [tuple(xs[0][p] for p in node.op.permutation)]


def _slice(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    op = node.op
    assert isinstance(op, shape.Slice)
    result = []
    for ids, start, stop, step in zip(xs[0], op.starts, op.stops, op.steps, strict=True):
        if step > 1:
            r.atoms.fix(ids, "a slice takes every other of it")
        result.append(ids if (start, stop, step) == (0, len(ids), 1) else pick(ids, slice(start, stop, step)))
    return [tuple(result)]


def _reverse(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    assert isinstance(node.op, shape.Reverse)
    turned = node.op.axes
    return [tuple(pick(ids, slice(None, None, -1)) if a in turned else ids for a, ids in enumerate(xs[0]))]


def _concat(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    assert isinstance(node.op, shape.Concat)
    result = list(xs[0])
    for axis in range(len(result)):
        if axis == node.op.axis:
            result[axis] = np.concatenate([x[axis] for x in xs])
        else:
            for x in xs[1:]:
                r.atoms.unite(result[axis], x[axis])
    return [tuple(result)]


def _pad(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    op = node.op
    assert isinstance(op, shape.Pad)
    result = []
    for ids, low, high, gap in zip(xs[0], op.low, op.high, op.interior or (0,) * len(op.low), strict=True):
        if gap:
            r.atoms.fix(ids, "padding lies inside of it")
        ends = [r.atoms.new(low), r.atoms.new(high + gap * max(len(ids) - 1, 0))]
        r.atoms.fix_all(ends, "padding is added to it")
        result.append(np.concatenate([ends[0], ids, ends[1]]))
    return [tuple(result)]


def _gather(r: Rules, node: Node, xs: Sequence[Axes]) -> list[Axes]:
    """Rows by index; channels too, where the indices are one constant vector."""
    op = node.op
    assert isinstance(op, shape.Gather)
    x, indices = xs
    along, literal = x[op.axis], node.operands[1].literal
    if literal is None or literal.type.rank > 1:
        r.atoms.fix(along, "gather picks from it")
        picked: Axes = indices
    else:
        index = literal.tensor.numpy() % max(len(along), 1)
        if literal.type.rank == 0:
            r.atoms.fix(along, "gather picks one of it")
            picked = ()
        else:
            picked = (pick(along, index),)
            r.atoms.unite(indices[0], picked[0])
    return [(*x[: op.axis], *picked, *x[op.axis + 1 :])]


_RULES: dict[type[Op], Rule] = {
    linear.Conv: _conv,
    linear.Matmul: _matmul,
    attention.Attention: _attention,
    norm.LayerNorm: _layer_norm,
    norm.RmsNorm: _layer_norm,
    norm.GroupNorm: _group_norm,
    norm.ReduceMean: _reduce,
    reduce.CumSum: _along_one,
    reduce.TopK: _top_k,
    resize.Resize: _resize,
    shape.Reshape: _reshape,
    shape.Transpose: _transpose,
    shape.BroadcastTo: _broadcast_to,
    shape.Slice: _slice,
    shape.Reverse: _reverse,
    shape.Concat: _concat,
    shape.Pad: _pad,
    shape.Gather: _gather,
    quant.Requantize: _refuse,
    quant.RequantizeShift: _refuse,
}
_BASES: tuple[tuple[type[Op], Rule], ...] = (
    (activation.AlongAxis, _along_one),
    (reduce.Reduction, _reduce),
    (reduce.ArgExtremum, _reduce),
    (pool.Pool, _pool),
)
