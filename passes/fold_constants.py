"""Computes at compile time what depends on constants only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hardy.compiler.errors import GraphError
from hardy.compiler.interpret import run_node
from hardy.compiler.ir import Builder, Constant, Graph, Input, Node, Value, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.literal import Literal
from hardy.compiler.ops.activation import Mod
from hardy.compiler.ops.elementwise import Cast, Div, Rem, ShiftLeft, ShiftRight
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.ops.shape import BroadcastTo
from hardy.compiler.pipeline import Pass

# Floats that are cast are not worth keeping narrow below.
STORED_BYTES = 1 << 12


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace nodes whose operands are all constants by their reference results.

    A node may add up to `growth` bytes to the graph; one that would add more, such as a broadcast of
    a scalar to a large shape, stays. `total` bounds what all nodes together add. Data is read only
    where a result is computed from it.

    Quantized constants, and large ones in narrower floats, stay as they are stored; with `unpack`, they
    too are computed, whatever that adds.
    """

    growth: int = 1 << 20
    total: int = 1 << 26
    unpack: bool = False

    def run(self, graph: Graph) -> Graph:
        # Results that are known but not worth storing: broadcasts, as views that occupy nothing.
        views: dict[Value, torch.Tensor] = {}
        left = self.total
        book = ledger()

        def known(v: Value) -> torch.Tensor | None:
            op = v.node.op
            return op.literal.tensor if isinstance(op, Constant) else views.get(v)

        def fold(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            nonlocal left
            if isinstance(node.op, Constant | Input):
                return None
            tensors = [t for t in map(known, operands) if t is not None]
            if len(tensors) != len(operands) or not _is_defined(node, tensors):
                return None
            added = max(0, sum(t.nbytes for t in node.types) - _stored_bytes(operands))
            if added and _is_storage(node, tensors):
                if not self.unpack:
                    return None
                added = 0
            if isinstance(node.op, BroadcastTo) and added:
                current = b.append(
                    node
                    if operands == node.operands
                    else Node(node.op, operands, node.types, node.name, node.source)
                )
                views[current[0]] = tensors[0].broadcast_to(node.op.shape)
                return current
            if added > min(self.growth, left) or not book.take(f"fold {node.op.name}"):
                return None
            left -= added
            return [
                b.constant(Literal(result, t.dtype), name=node.name)
                for result, t in zip(_evaluate(node, tensors), node.types, strict=True)
            ]

        return transform(graph, fold)


def _stored_bytes(operands: Sequence[Value]) -> int:
    return sum(v.type.nbytes for v in dict.fromkeys(operands) if isinstance(v.node.op, Constant))


def _is_storage(node: Node, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether the node widens what is stored narrow to save memory."""
    if isinstance(node.op, Cast):
        return tensors[0].is_floating_point() and tensors[0].nbytes > STORED_BYTES
    return isinstance(node.op, Dequantize)


def _evaluate(node: Node, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        try:
            return run_node(node, tensors)
        except (RuntimeError, IndexError) as error:
            raise GraphError(
                f"{node.op.name} cannot be computed: {error}", where=node.source or node.name
            ) from error


def _is_defined(node: Node, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether the result is defined: integer division by zero and wild shifts are left for the target."""
    if node.types[0].dtype.is_float:
        return True
    if isinstance(node.op, Div | Rem | Mod):
        return bool((tensors[1] != 0).all())
    if isinstance(node.op, ShiftLeft | ShiftRight):
        return bool(((tensors[1] >= 0) & (tensors[1] < node.types[0].dtype.bits)).all())
    return True
