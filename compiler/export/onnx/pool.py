"""Pools in ONNX."""

from __future__ import annotations

from onnx import NodeProto, helper

from hardy.compiler.export.onnx.scope import Scope
from hardy.compiler.export.onnx.writer import Writer, flat_pads
from hardy.compiler.ir import Node, Op
from hardy.compiler.ops.pool import AvgPool, MaxPool, Pool
from hardy.compiler.types import DType


def _pool(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
    op = node.op
    assert isinstance(op, Pool)
    allowed = node.type.dtype.is_float or (
        isinstance(op, MaxPool) and node.type.dtype in (DType.i8, DType.u8)
    )
    if op.layout != "channels_first" or not allowed or node.type.dtype is DType.bf16:
        return None
    extra = {"count_include_pad": int(op.count_padding)} if isinstance(op, AvgPool) else {}
    return [
        helper.make_node(
            "AveragePool" if isinstance(op, AvgPool) else "MaxPool",
            operands,
            results,
            kernel_shape=op.kernel,
            strides=op.strides,
            pads=flat_pads(op.padding),
            dilations=op.dilations,
            **extra,
        )
    ]


WRITERS: dict[type[Op], Writer] = {
    MaxPool: _pool,
    AvgPool: _pool,
}
