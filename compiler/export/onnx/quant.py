"""Quantization in ONNX."""

from __future__ import annotations

from onnx import NodeProto, helper

from hardy.compiler.export.onnx.scope import Scope
from hardy.compiler.export.onnx.writer import Writer
from hardy.compiler.frontends.onnx.tensors import ONNX_TYPES
from hardy.compiler.ir import Node, Op
from hardy.compiler.ops.quant import Dequantize, Quantize
from hardy.compiler.types import DType


def _quantize(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
    op = node.op
    assert isinstance(op, Quantize)
    if op.dtype is DType.i32:
        return None
    attributes = {"axis": op.axis, "output_dtype": ONNX_TYPES[op.dtype]}
    if op.block:
        attributes["block_size"] = op.block
    return [helper.make_node("QuantizeLinear", operands, results, **attributes)]


def _dequantize(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
    op = node.op
    assert isinstance(op, Dequantize)
    if any(v.type.dtype is not node.operands[0].type.dtype for v in node.operands[2:]):
        return None
    attributes = {"axis": op.axis}
    if op.block:
        attributes["block_size"] = op.block
    return [helper.make_node("DequantizeLinear", operands, results, **attributes)]


WRITERS: dict[type[Op], Writer] = {
    Quantize: _quantize,
    Dequantize: _dequantize,
}
