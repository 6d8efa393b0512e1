"""Joins matrix products of few rows with the dequantization of their constant weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.quant import Dequantize, DequantizeMatmul
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.passes.eliminate_dead_code import EliminateDeadCode

STORED = (DType.i8, DType.u8, DType.i4, DType.u4)


@dataclass(frozen=True)
class FuseDequantize(Pass):
    """Join matrix products of at most `rows` rows with the dequantization of their constant weight.

    Such products wait for their weight, which is then read as it is stored. Products of more rows
    are left alone: there the weight is better unpacked beforehand.
    """

    rows: int = 8

    def run(self, graph: Graph) -> Graph:
        book = ledger()

        def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            op = node.op
            if not isinstance(op, Matmul) or not self._fits(node, op) or not book.take("DequantizeMatmul"):
                return None
            stored = operands[1].node
            assert isinstance(stored.op, Dequantize)
            joined = DequantizeMatmul(op.transpose_b, stored.op.axis, stored.op.block)
            return [b(joined, operands[0], *stored.operands, name=node.name)]

        after = transform(graph, rewrite)
        return graph if after is graph else EliminateDeadCode().run(after)

    def _fits(self, node: Node, op: Matmul) -> bool:
        x, weight = node.operands
        stored = weight.node
        if not isinstance(stored.op, Dequantize) or any(v.literal is None for v in stored.operands):
            return False
        if weight.type.rank != 2 or op.transpose_a or x.type.dtype is not DType.f32 or not weight.type.size:
            return False
        if stored.operands[0].type.dtype not in STORED:
            return False
        out_axis = 0 if op.transpose_b else 1
        scaled_along_k = stored.op.axis != out_axis
        by_output = stored.operands[1].type.rank == 0 or not scaled_along_k
        fits = scaled_along_k if stored.op.block else by_output
        return fits and node.type.size <= self.rows * weight.type.shape[out_axis]
