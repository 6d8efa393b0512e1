"""Movement of elements, and picking and placing them, in ONNX."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from hardy.compiler.export.onnx.scope import Scope
from hardy.compiler.export.onnx.writer import Writer, shaped, with_attributes
from hardy.compiler.frontends.onnx.tensors import ONNX_TYPES
from hardy.compiler.ir import Node, Op
from hardy.compiler.ops.shape import (
    BroadcastTo,
    Concat,
    Gather,
    GatherElements,
    GatherNd,
    Pad,
    Reshape,
    ScatterElements,
    ScatterNd,
    Slice,
    Transpose,
)


def _slice(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
    op = node.op
    assert isinstance(op, Slice)
    rank = range(len(op.starts))
    parts = {"starts": op.starts, "ends": op.stops, "axes": rank, "steps": op.steps}
    extra = [scope.ints(list(values), f"{results[0]}_{name}") for name, values in parts.items()]
    return [helper.make_node("Slice", [*operands, *extra], results)]


def _pad(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
    op = node.op
    assert isinstance(op, Pad)
    if any(op.interior):
        return None
    dtype = node.operands[0].type.dtype
    value = np.array(op.value, dtype=helper.tensor_dtype_to_np_dtype(ONNX_TYPES[dtype]))
    extra = [
        scope.ints([*op.low, *op.high], f"{results[0]}_pads"),
        scope.constant(value, f"{results[0]}_value"),
    ]
    return [helper.make_node("Pad", [*operands, *extra], results)]


WRITERS: dict[type[Op], Writer] = {
    Reshape: shaped("Reshape", lambda op: op.shape, allowzero=1),
    Transpose: with_attributes("Transpose", lambda op: {"perm": op.permutation}),
    BroadcastTo: shaped("Expand", lambda op: op.shape),
    Slice: _slice,
    Concat: with_attributes("Concat", lambda op: {"axis": op.axis}),
    Pad: _pad,
    Gather: with_attributes("Gather", lambda op: {"axis": op.axis}),
    GatherElements: with_attributes("GatherElements", lambda op: {"axis": op.axis}),
    GatherNd: with_attributes("GatherND", lambda op: {"batch_dims": op.batch}),
    ScatterElements: with_attributes(
        "ScatterElements", lambda op: {"axis": op.axis, "reduction": op.reduction}
    ),
    ScatterNd: with_attributes("ScatterND", lambda op: {"reduction": op.reduction}),
}
