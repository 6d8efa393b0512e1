"""Normalizations and means in ONNX."""

from __future__ import annotations

from onnx import NodeProto, helper

from hardy.compiler.export.onnx.scope import Scope
from hardy.compiler.export.onnx.writer import Writer, reduction
from hardy.compiler.ir import Node, Op
from hardy.compiler.ops.norm import BatchNorm, LayerNorm, ReduceMean


def _batch_norm(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
    op = node.op
    assert isinstance(op, BatchNorm)
    if op.axis != 1:
        return None
    return [helper.make_node("BatchNormalization", operands, results, epsilon=op.epsilon)]


def _layer_norm(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
    op = node.op
    assert isinstance(op, LayerNorm)
    if len(operands) == 1:  # ONNX always scales
        return None
    return [helper.make_node("LayerNormalization", operands, results, axis=op.axis, epsilon=op.epsilon)]


WRITERS: dict[type[Op], Writer] = {
    ReduceMean: reduction("ReduceMean"),
    BatchNorm: _batch_norm,
    LayerNorm: _layer_norm,
}
