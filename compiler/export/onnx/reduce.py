"""Reductions, extremes' positions, top-k and running sums in ONNX."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from hardy.compiler.export.onnx.scope import Scope
from hardy.compiler.export.onnx.writer import Writer, reduction, with_attributes
from hardy.compiler.ir import Node, Op
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


def _top_k(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
    op = node.op
    assert isinstance(op, TopK)
    k = scope.ints([op.k], f"{results[0]}_k")
    return [helper.make_node("TopK", [*operands, k], results, axis=op.axis, largest=int(op.largest))]


def _cum_sum(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
    op = node.op
    assert isinstance(op, CumSum)
    axis = scope.constant(np.array(op.axis, dtype=np.int64), f"{results[0]}_axis")
    attributes = {"exclusive": int(op.exclusive), "reverse": int(op.reverse)}
    return [helper.make_node("CumSum", [*operands, axis], results, **attributes)]


WRITERS: dict[type[Op], Writer] = {
    ReduceSum: reduction("ReduceSum"),
    ReduceProd: reduction("ReduceProd"),
    ReduceMax: reduction("ReduceMax"),
    ReduceMin: reduction("ReduceMin"),
    ArgMax: with_attributes(
        "ArgMax",
        lambda op: {"axis": op.axis, "keepdims": int(op.keepdims), "select_last_index": int(op.last)},
    ),
    ArgMin: with_attributes(
        "ArgMin",
        lambda op: {"axis": op.axis, "keepdims": int(op.keepdims), "select_last_index": int(op.last)},
    ),
    TopK: _top_k,
    CumSum: _cum_sum,
}
