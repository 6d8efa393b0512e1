"""Activations and softmax in ONNX."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from hardy.compiler.export.onnx.scope import Scope
from hardy.compiler.export.onnx.writer import Writer, plain, with_attributes
from hardy.compiler.frontends.onnx.tensors import ONNX_TYPES
from hardy.compiler.ir import Node, Op
from hardy.compiler.ops.activation import (
    Clamp,
    Elu,
    Gelu,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    LogSoftmax,
    Mish,
    Mod,
    Relu,
    Sigmoid,
    Softmax,
    Softplus,
)


def _clamp(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
    op = node.op
    assert isinstance(op, Clamp)
    dtype = node.type.dtype
    low, high = op.ends(dtype)
    kind = helper.tensor_dtype_to_np_dtype(ONNX_TYPES[dtype])
    limits = [
        scope.constant(np.array(v, dtype=kind), f"{results[0]}_{n}") for n, v in (("min", low), ("max", high))
    ]
    return [helper.make_node("Clip", [*operands, *limits], results)]


_SAME: dict[type[Op], str] = {
    Relu: "Relu",
    Sigmoid: "Sigmoid",
    HardSwish: "HardSwish",
    Softplus: "Softplus",
    Mish: "Mish",
}
WRITERS: dict[type[Op], Writer] = {
    **{op: plain(name) for op, name in _SAME.items()},
    Mod: lambda scope, n, i, o: None if n.type.dtype.is_float else [helper.make_node("Mod", i, o)],
    Clamp: _clamp,
    HardSigmoid: with_attributes("HardSigmoid", lambda op: {"alpha": op.alpha, "beta": op.beta}),
    LeakyRelu: with_attributes("LeakyRelu", lambda op: {"alpha": op.slope}),
    Elu: with_attributes("Elu", lambda op: {"alpha": op.alpha}),
    Gelu: with_attributes("Gelu", lambda op: {"approximate": op.approximate}),
    Softmax: with_attributes("Softmax", lambda op: {"axis": op.axis}),
    LogSoftmax: with_attributes("LogSoftmax", lambda op: {"axis": op.axis}),
}
