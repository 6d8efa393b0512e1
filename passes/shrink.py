"""Rebuilds a graph without some of its channels: every tensor that has them gets smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from hardy.compiler.errors import GraphError
from hardy.compiler.ir import Builder, Constant, Graph, Node, Op, Value, transform
from hardy.compiler.literal import Literal
from hardy.compiler.ops import linear, norm, resize, shape
from hardy.compiler.types import TensorType
from hardy.passes.channel_atoms import Use, place_of
from hardy.passes.channel_groups import Channels, Mask
from hardy.passes.eliminate_dead_code import EliminateDeadCode


def shrink(channels: Channels, removed: Mask) -> Graph:
    """The graph without the removed atoms; the same object where there are none.

    The interface stays. A constant that two nodes use may become two, where they keep different parts.
    """
    made: dict[tuple[Value, bytes], Value] = {}

    def part(b: Builder, use: Use) -> Value:
        """The constant that a node uses, without the channels; one constant for equal parts."""
        keeps = [*channels.kept(use, removed), *_pointed_into(channels, use, removed)]
        if all(keep.all() for keep in keeps):
            return use.constant
        key = (use.constant, b"".join(keep.tobytes() for keep in keeps))
        if key not in made:
            tensor = _part(channels, use, removed)
            literal = Literal(tensor, use.constant.type.dtype)
            source = use.constant.node
            made[key] = b.constant(literal, name=source.name, source=source.source)
        return made[key]

    def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        if isinstance(node.op, Constant):
            return None
        places = [place_of(node, position) for position in range(len(operands))]
        given = [part(b, p) if isinstance(p, Use) else new for p, new in zip(places, operands, strict=True)]
        op = resized(channels, node, removed)
        if op is node.op and given == list(node.operands):
            return None
        results = b.multi(op, *given, name=node.name)
        for result, old in zip(results, node.values, strict=True):
            expected = channels.shape(old, removed)
            if result.type.shape != expected:
                raise GraphError(
                    f"{node.op.name} gives {result.type} without the channels, expected {list(expected)}",
                    where=node.source,
                )
        return results

    if not removed.any():
        return channels.graph
    return EliminateDeadCode().run(transform(channels.graph, rewrite))


def _pointed_into(channels: Channels, use: Use, removed: Mask) -> list[Mask]:
    """What stays of the axis that constant indices point into."""
    op = use.node.op
    if isinstance(op, shape.Gather) and use.position == 1:
        return [channels.kept(place_of(use.node, 0), removed)[op.axis]]
    return []


def _part(channels: Channels, use: Use, removed: Mask) -> torch.Tensor:
    """What stays of a constant; indices count in what stays of the axis that they point into."""
    assert use.constant.literal is not None
    tensor = use.constant.literal.tensor
    for axis, keep in enumerate(channels.kept(use, removed)):
        if not keep.all():
            tensor = tensor.index_select(axis, torch.from_numpy(np.flatnonzero(keep)))
    for keep in _pointed_into(channels, use, removed):
        position_of = torch.from_numpy(np.cumsum(keep) - 1)
        tensor = position_of[tensor.long() % len(keep)].to(tensor.dtype)
    return tensor


def resized(channels: Channels, node: Node, removed: Mask) -> Op:
    """The op with the attributes that smaller operands need; the same object where none changes."""
    op = node.op
    if isinstance(op, shape.Reshape | shape.BroadcastTo | resize.Resize):
        left = channels.shape(node.values[0], removed)
        return op if left == op.shape else dataclasses.replace(op, shape=left)
    if isinstance(op, shape.Slice):
        kept = channels.kept(place_of(node, 0), removed)
        starts = tuple(int(k[:s].sum()) for k, s in zip(kept, op.starts, strict=True))
        stops = tuple(int(k[:s].sum()) for k, s in zip(kept, op.stops, strict=True))
        same = (starts, stops) == (op.starts, op.stops)
        return op if same else dataclasses.replace(op, starts=starts, stops=stops)
    if isinstance(op, linear.Conv | norm.GroupNorm) and op.groups > 1:
        axis = -1 if isinstance(op, linear.Conv) and op.layout == "channels_last" else 1
        keep = channels.kept(place_of(node, 0), removed)[axis]
        groups = int(keep.sum()) * op.groups // len(keep)
        return op if groups == op.groups else dataclasses.replace(op, groups=groups)
    return op


def macs_without(channels: Channels, node: Node, removed: Mask) -> int:
    """Multiply-accumulates of a node without the removed atoms."""
    types = [
        TensorType(v.type.dtype, channels.shape(place_of(node, i), removed))
        for i, v in enumerate(node.operands)
    ]
    return resized(channels, node, removed).macs(*types)
