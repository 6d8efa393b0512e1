"""Matrix products and convolutions in ONNX."""

from __future__ import annotations

from onnx import NodeProto, helper

from hardy.compiler.export.onnx.scope import Scope
from hardy.compiler.export.onnx.writer import Writer, flat_pads
from hardy.compiler.ir import Node, Op
from hardy.compiler.ops.linear import Conv, Matmul


def _matmul(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
    op = node.op
    assert isinstance(op, Matmul)
    nodes, names = [], list(operands)
    for i, turned in enumerate((op.transpose_a, op.transpose_b)):
        if turned:
            rank = node.operands[i].type.rank
            order = [*range(rank - 2), rank - 1, rank - 2]
            names[i] = f"{results[0]}_operand{i}"
            nodes.append(helper.make_node("Transpose", [operands[i]], [names[i]], name=names[i], perm=order))
    return [*nodes, helper.make_node("MatMul", names, results)]


def _conv(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
    op = node.op
    assert isinstance(op, Conv)
    if op.layout != "channels_first" or not node.type.dtype.is_float:
        return None
    return [
        helper.make_node(
            "Conv",
            operands,
            results,
            strides=op.strides,
            pads=flat_pads(op.padding),
            dilations=op.dilations,
            group=op.groups,
            kernel_shape=node.operands[1].type.shape[2:],
        )
    ]


WRITERS: dict[type[Op], Writer] = {
    Matmul: _matmul,
    Conv: _conv,
}
