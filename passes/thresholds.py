"""Comparisons of counts in place of what a graph computes between a binary product and the next signs.

A count c runs over few integers, so what a channel's chain of float ops makes of each can be computed.
Where its sign changes once, from clear to set at t, the chain is `c >= t`; where it changes the other
way, the channel's weights are negated first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.literal import Literal
from hardy.compiler.ops.binary import BinaryConv, BinaryMatmul, PackBits, pack
from hardy.compiler.ops.shape import Transpose
from hardy.passes.properties import along_axis, is_elementwise

# What a chain may be computed for: counts times channels.
MOST_RESULTS = 1 << 26


@dataclass(frozen=True)
class Chain:
    """Nodes from a product to the packing of its sign, and by which operand each reads the one before."""

    product: Node
    nodes: tuple[Node, ...]
    places: tuple[int, ...]


def compare_counts(graph: Graph) -> Graph:
    """Pack comparisons of counts where that is the same; the same graph where there is nothing to do."""
    users, outputs = graph.users(), set(graph.outputs)
    book = ledger()

    def is_private(v: Value) -> bool:
        return len(users.get(v, ())) == 1 and v not in outputs

    def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        chain = _chain(node, is_private) if isinstance(node.op, PackBits) else None
        found = None if chain is None else _thresholds(chain)
        if chain is None or found is None or not book.take("threshold"):
            return None
        least, flipped = found
        value = operands[0]
        for place in reversed(chain.places[:-1]):
            value = value.node.operands[place]
        product = value.node
        weight = product.operands[1]
        if bool(flipped.any()):
            weight = b.constant(_flipped(product, flipped), name=weight.node.name, source=weight.node.source)
        with b.at(product.source):
            counts = b(product.op, product.operands[0], weight, name=product.name)
        return (b(PackBits(), counts, b.constant(least)),)

    return transform(graph, rewrite)


def _chain(packing: Node, is_private: Callable[[Value], bool]) -> Chain | None:
    nodes, places = [packing], [0]
    value = packing.operands[0]
    while not isinstance(value.op, BinaryConv | BinaryMatmul):
        node = value.node
        given = [i for i, v in enumerate(node.operands) if v.literal is None]
        steps = is_elementwise(node.op) or isinstance(node.op, Transpose)
        if not steps or len(given) != 1 or not is_private(value):
            return None
        nodes.append(node)
        places.append(given[0])
        value = node.operands[given[0]]
    product = value.node
    if len(nodes) == 1 or not is_private(value) or product.operands[1].literal is None:
        return None
    chain = Chain(product, tuple(reversed(nodes)), tuple(reversed(places)))
    return chain if _by_channel(chain) else None


def _by_channel(chain: Chain) -> bool:
    """Whether every constant of the chain is one number, or one for each channel of the product."""
    rank = chain.product.type.rank
    axis = rank - 1
    for node, place in zip(chain.nodes, chain.places, strict=True):
        if isinstance(node.op, Transpose):
            axis = node.op.permutation.index(axis)
            continue
        shape = node.operands[place].type.shape
        if node.type.shape != shape and not isinstance(node.op, PackBits):
            return False
        at = {node.op.axis} if along_axis(type(node.op)) else None  # type: ignore[attr-defined]  # they have it
        for i, v in enumerate(node.operands):
            if i == place or v.type.size == 1:
                continue
            if at is not None:
                if axis not in at or v.type.rank != 1:
                    return False
                continue
            wide = (1,) * (rank - v.type.rank) + v.type.shape
            if any(n != 1 for a, n in enumerate(wide) if a != axis):
                return False
    return axis == rank - 1


def _thresholds(chain: Chain) -> tuple[Tensor, Tensor] | None:
    """The least count of each channel whose bit is set, i32 [channels], and the channels whose counts are
    negated for it; None where a channel's bit changes more than once."""
    t = chain.product.type
    channels = t.shape[-1]
    most = _most(chain.product)
    if (2 * most + 1) * channels > MOST_RESULTS:
        return None
    counts = torch.arange(-most, most + 1, dtype=torch.int32)
    value = counts.reshape(-1, *[1] * (t.rank - 1)).expand(-1, *[1] * (t.rank - 2), channels)
    for node, place in zip(chain.nodes, chain.places, strict=True):
        given = [
            value if i == place else v.literal.tensor  # type: ignore[union-attr]  # all others are constants
            for i, v in enumerate(node.operands)
        ]
        if isinstance(node.op, PackBits):
            value = value >= (given[1] if len(given) > 1 else 0)
        else:
            result = node.op.reference(*given)
            assert isinstance(result, Tensor)
            value = result
    bits = value.reshape(-1, channels)
    changes = (bits[1:] != bits[:-1]).sum(0)
    if bool((changes > 1).any()):
        return None
    flipped = bits[0] & ~bits[-1]
    # Of negated counts, those that are at most the last set one.
    set_bits = bits.sum(0, dtype=torch.int32)
    return (most + 1 - set_bits).to(torch.int32), flipped


def _most(product: Node) -> int:
    """The greatest count there can be."""
    op, (_, weight) = product.op, product.operands
    if isinstance(op, BinaryMatmul):
        return op.length
    assert isinstance(op, BinaryConv)
    return op.channels * math.prod(weight.type.shape[1:-1])


def _flipped(product: Node, flipped: Tensor) -> Literal:
    """The product's weight with the signs of some channels (its first axis, or last but one) negated."""
    op, (_, weight) = product.op, product.operands
    assert weight.literal is not None
    bits = weight.literal.tensor
    length = op.length if isinstance(op, BinaryMatmul) else op.channels  # type: ignore[attr-defined]  # the other
    used = pack(torch.ones(length, dtype=torch.bool))
    rows = flipped.reshape(-1, *[1] * (bits.ndim - 1)) if isinstance(op, BinaryConv) else flipped[:, None]
    return Literal(torch.where(rows, bits ^ used, bits))
