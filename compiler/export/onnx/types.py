"""Which element types an operator of ONNX takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import NodeProto, TensorProto, defs

from hardy.compiler.frontends.onnx.tensors import ONNX_TYPES
from hardy.compiler.types import DType


def takes_types(proto: NodeProto, types: Mapping[str, DType], opset: int) -> bool:
    """Whether the operator is defined for the values whose types are given by name."""
    schema = defs.get_schema(proto.op_type, opset)
    return _fit(proto.input, schema.inputs, types) and _fit(proto.output, schema.outputs, types)


def _fit(
    names: Sequence[str], formals: Sequence[defs.OpSchema.FormalParameter], types: Mapping[str, DType]
) -> bool:
    # The last formal parameter of a variadic operator stands for all that follow.
    return all(
        f"tensor({TensorProto.DataType.Name(ONNX_TYPES[types[name]]).lower()})"
        in formals[min(i, len(formals) - 1)].types
        for i, name in enumerate(names)
        if name in types
    )
