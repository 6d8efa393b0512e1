"""Float ops between counts and signs: normalization, scale, clamp, then a comparison. Each is one threshold a
channel.

A count runs over few integers, so what the graph computes of each is computed here, for every one. Where a
channel's bit changes once, it is a comparison with an integer, and no bit differs from the graph's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hardy.compiler.interpret import run_node
from hardy.compiler.ir import Graph, Node, Value
from hardy.compiler.ops.binary import PackBits
from hardy.compiler.ops.elementwise import Cast
from hardy.compiler.ops.shape import Reshape, Transpose
from hardy.compiler.types import DType
from hardy.passes.properties import is_elementwise
from hardy.targets.fpga.dataflow.draft import Traced, refuse
from hardy.targets.fpga.dataflow.ranges import Integers
from hardy.targets.fpga.dataflow.steps import Affine, Threshold

if TYPE_CHECKING:
    from hardy.targets.fpga.dataflow.trace import Tracer

MOST_RESULTS = 1 << 27  # of a chain: counts times elements


@dataclass(frozen=True, eq=False)
class Chain:
    """Nodes in order from the cast of `counts` (i32) to the one whose sign `packing` takes."""

    counts: Value
    nodes: tuple[Node, ...]
    packing: Node


def find_chains(graph: Graph) -> dict[Node, Chain]:
    """The chains of a graph by their packing."""
    users, outputs = graph.users(), set(graph.outputs)
    found = {}
    for node in graph.nodes:
        if isinstance(node.op, PackBits) and node.operands[0].type.dtype.is_float:
            chain = _chain(node, users, outputs)
            if chain is not None:
                found[node] = chain
    return found


def _chain(packing: Node, users: dict[Value, list[Node]], outputs: set[Value]) -> Chain | None:
    if any(v.literal is None for v in packing.operands[1:]):
        return None
    nodes: list[Node] = []
    value = packing.operands[0]
    while value.type.dtype is not DType.i32:
        node = value.node
        streams = [v for v in node.operands if v.literal is None]
        follows = is_elementwise(node.op) or isinstance(node.op, Cast | Transpose | Reshape)
        if not follows or len(streams) != 1 or len(users[value]) != 1 or value in outputs:
            return None
        if streams[0].type.size != value.type.size:
            return None
        nodes.append(node)
        value = streams[0]
    return Chain(value, tuple(reversed(nodes)), packing) if nodes else None


def pack_chain(tracer: Tracer, chain: Chain) -> Traced:
    """The bits of a chain's signs, as a step of the layer that counts."""
    x = tracer.values[chain.counts]
    tracer.ordered(x)
    low, high = int(x.draft.low.min()), int(x.draft.high.max())
    size = chain.counts.type.size
    if (high - low + 1) * size > MOST_RESULTS:
        raise refuse(chain.packing, f"{high - low + 1} counts are too many to try for its threshold")
    moved = _moves(chain)
    bits = np.empty((high - low + 1, size), bool)
    for i, count in enumerate(range(low, high + 1)):
        bits[i, moved] = _signs(chain, count)
    order = tracer.ordered(x)
    columns = bits[:, order.reshape(-1)].reshape(len(bits), *order.shape)
    if not (columns == columns[:, :1]).all():
        raise refuse(chain.packing, "its threshold differs from pixel to pixel")
    scale, least = _thresholds(chain.packing, columns[:, 0], low)
    zero = np.zeros(1, np.int64)
    steps = ([Affine(scale, zero)] if (scale < 0).any() else []) + [Threshold(least)]
    stepped = tracer.extendable(chain.packing, x)
    for step in steps:
        stepped.draft.add(step)
    draft = stepped.draft
    draft.shared |= not tracer.private(Value(chain.packing, 0))
    before = np.arange(size, dtype=np.int64) if x.moved is None else x.moved
    return Traced(draft, chain.packing.operands[0].type.shape, before[moved], bits=True)


def _run(chain: Chain, value: torch.Tensor, nodes: Iterable[Node]) -> torch.Tensor:
    for node in nodes:
        (value,) = run_node(node, [value if v.literal is None else v.literal.tensor for v in node.operands])
    return value


def _signs(chain: Chain, count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which bits are set where every count is this one."""
    counts = torch.full(chain.counts.type.shape, count, dtype=torch.int32)
    value = _run(chain, counts, chain.nodes)
    rest = [v.literal.tensor for v in chain.packing.operands[1:] if v.literal is not None]
    return (value >= (rest[0] if rest else 0)).reshape(-1).numpy()


def _moves(chain: Chain) -> Integers:
    """Where each element of the packed value lies among the counts, row-major."""
    places = torch.arange(chain.counts.type.size).reshape(chain.counts.type.shape)
    for node in chain.nodes:
        if isinstance(node.op, Transpose | Reshape):
            places = node.op.reference(places)
    moved: Integers = places.reshape(-1).numpy()
    return moved


def _thresholds(
    packing: Node, bits: np.ndarray[tuple[int, int], np.dtype[np.bool_]], low: int
) -> tuple[Integers, Integers]:
    """For bits [counts, channels]: by what to multiply each channel's count, and from where on its bit is
    set."""
    if ((bits[1:] != bits[:-1]).sum(0) > 1).any():
        raise refuse(packing, "the sign of a channel changes more than once as its count grows")
    falls = bits[0] & ~bits[-1]
    scale = np.where(falls, -1, 1).astype(np.int64)
    number = bits.sum(0, dtype=np.int64)
    high = low + len(bits) - 1
    # Set are the last `number` counts, or of falling ones the first, which are the greatest once negated.
    return scale, np.where(falls, -(low + number - 1), high + 1 - number)
