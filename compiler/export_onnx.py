"""A graph as an ONNX file, for the viewers that people already use.

Ops that ONNX has become its operators; the others become nodes of the domain "hardy", whose
attributes are the op's. The file always opens in a viewer; it is a runnable model where every node
is standard (`is_standard`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import EncodeError
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from hardy.compiler.errors import ModelError
from hardy.compiler.frontends.onnx.tensors import ONNX_TYPES, to_array
from hardy.compiler.ir import Constant, Graph, Input, Node, Op, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops import activation as act
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops import reduce as red
from hardy.compiler.ops import shape as sh
from hardy.compiler.ops import transcendental as tr
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import BatchNorm, LayerNorm, ReduceMean
from hardy.compiler.ops.pool import AvgPool, MaxPool, Pool
from hardy.compiler.ops.quant import Dequantize, Quantize
from hardy.compiler.types import DType, TensorType

OPSET = 21
DOMAIN = "hardy"

# The writer of one op: the ONNX nodes for it, or None where ONNX says something else.
Writer = Callable[["_Writer", Node, list[str], list[str]], "list[NodeProto] | None"]


def export(graph: Graph, path: str | Path | None = None) -> ModelProto:
    """The graph as an ONNX model, written to `path` (whole or not at all) where one is given."""
    model = _Writer().model(graph)
    if path is not None:
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            temporary.write_bytes(model.SerializeToString())
            temporary.replace(target)
        except (EncodeError, ValueError) as error:
            raise ModelError(f"cannot write {target}: an ONNX file holds at most 2 GiB") from error
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ModelError(f"cannot write {target}: {error.strerror}") from error
    return model


def is_standard(model: ModelProto) -> bool:
    """Whether every node is an operator of ONNX itself."""
    return all(node.domain == "" for node in model.graph.node)


class _Writer:
    def __init__(self) -> None:
        self.names: dict[Value, str] = {}
        self.taken: set[str] = set()
        self.initializers: list[TensorProto] = []

    def model(self, graph: Graph) -> ModelProto:
        nodes: list[NodeProto] = []
        # The interface keeps its names, whatever other nodes are called.
        self.taken.update(graph.input_names, graph.output_names)
        renamed: list[NodeProto] = []
        outputs: dict[Value, str] = {}
        for value, name in zip(graph.outputs, graph.output_names, strict=True):
            if value in outputs or isinstance(value.op, Input | Constant):
                renamed.append(helper.make_node("Identity", [""], [name], name=name))
            else:
                outputs[value] = name
        self.names.update(outputs)
        for node in graph.nodes:
            nodes += self.node(node)
        aliases = iter(renamed)
        for value, name in zip(graph.outputs, graph.output_names, strict=True):
            if outputs.get(value) != name:
                alias = next(aliases)
                alias.input[0] = self.names[value]
                nodes.append(alias)
        proto = helper.make_graph(
            nodes,
            graph.name or "main",
            [_info(name, t) for name, t in graph.input_types().items()],
            [_info(name, t) for name, t in graph.output_types().items()],
            self.initializers,
            value_info=self.value_infos(graph),
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == DOMAIN for node in nodes):
            opsets.append(helper.make_opsetid(DOMAIN, 1))
        return helper.make_model(proto, opset_imports=opsets, producer_name="hardy", ir_version=10)

    def value_infos(self, graph: Graph) -> list[ValueInfoProto]:
        interface = {*graph.inputs, *graph.outputs}
        return [
            _info(self.names[v], v.type)
            for node in graph.nodes
            if not isinstance(node.op, Input | Constant)
            for v in node.values
            if v not in interface
        ]

    def name(self, value: Value, hint: str) -> str:
        if value not in self.names:
            base = hint or value.op.name
            candidate, count = base, 0
            while candidate in self.taken:
                count += 1
                candidate = f"{base}_{count}"
            self.taken.add(candidate)
            self.names[value] = candidate
        return self.names[value]

    def node(self, node: Node) -> list[NodeProto]:
        if isinstance(node.op, Input):
            self.names[node.values[0]] = node.op.label
            return []
        if isinstance(node.op, Constant):
            name = self.name(node.values[0], node.name)
            self.initializers.append(tensor(node.op.literal, name))
            return []
        operands = [self.names[v] for v in node.operands]
        results = [self.name(v, node.name) for v in node.values]
        writer = WRITERS.get(type(node.op))
        nodes = writer(self, node, operands, results) if writer else None
        if nodes is None:
            nodes = [_custom(node, operands, results)]
        for proto in nodes:
            proto.name = proto.name or results[0]
            proto.doc_string = node.source
        return nodes

    def constant(self, data: Any, base: str) -> str:
        """An initializer for what ONNX takes as an operand and hardy as an attribute."""
        name, count = base, 0
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        self.initializers.append(numpy_helper.from_array(np.asarray(data), name))
        return name

    def ints(self, data: Sequence[int], base: str) -> str:
        return self.constant(np.array(data, dtype=np.int64), base)


def tensor(literal: Literal, name: str) -> TensorProto:
    return numpy_helper.from_array(to_array(literal.tensor, literal.type.dtype), name)


def _info(name: str, t: TensorType) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, ONNX_TYPES[t.dtype], t.shape)


def _custom(node: Node, operands: list[str], results: list[str]) -> NodeProto:
    """A node of hardy's own domain with the op's attributes; graphs inside ops are nested."""
    proto = helper.make_node(node.op.name, operands, results, domain=DOMAIN)
    for f in dataclasses.fields(node.op):
        proto.attribute.extend(_attribute(f.name, getattr(node.op, f.name)))
    return proto


def _attribute(name: str, value: Any) -> list[AttributeProto]:
    if isinstance(value, Graph):
        return [helper.make_attribute(name, _Writer().model(value).graph)]
    if isinstance(value, bool):
        return [helper.make_attribute(name, int(value))]
    if isinstance(value, int | float | str):
        return [helper.make_attribute(name, value)]
    if isinstance(value, DType):
        return [helper.make_attribute(name, value.value)]
    if isinstance(value, tuple) and value and all(isinstance(v, int) for v in value):
        return [helper.make_attribute(name, list(value))]
    if isinstance(value, tuple) and value and all(isinstance(v, float) for v in value):
        return [helper.make_attribute(name, list(value))]
    return [helper.make_attribute(name, str(value))] if value not in ((), None) else []


def _plain(name: str, **attributes: Any) -> Writer:
    """One ONNX node over the same operands."""
    return lambda w, node, operands, results: [helper.make_node(name, operands, results, **attributes)]


def _with(name: str, read: Callable[[Any], dict[str, Any]]) -> Writer:
    """One ONNX node whose attributes come from the op's."""
    return lambda w, node, operands, results: [helper.make_node(name, operands, results, **read(node.op))]


def _shaped(name: str, read: Callable[[Any], Sequence[int]], **attributes: Any) -> Writer:
    """One ONNX node with a shape or axes as second operand."""

    def write(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
        extra = w.ints(read(node.op), f"{results[0]}_{name.lower()}")
        return [helper.make_node(name, [*operands, extra], results, **attributes)]

    return write


def _reduction(name: str) -> Writer:
    def write(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
        axes = w.ints(node.op.axes, f"{results[0]}_axes")  # type: ignore[attr-defined]
        keep = int(node.op.keepdims)  # type: ignore[attr-defined]
        return [helper.make_node(name, [*operands, axes], results, keepdims=keep, noop_with_empty_axes=1)]

    return write


def _slice(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
    op = node.op
    assert isinstance(op, sh.Slice)
    rank = range(len(op.starts))
    parts = {"starts": op.starts, "ends": op.stops, "axes": rank, "steps": op.steps}
    extra = [w.ints(list(values), f"{results[0]}_{name}") for name, values in parts.items()]
    return [helper.make_node("Slice", [*operands, *extra], results)]


def _pad(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
    op = node.op
    assert isinstance(op, sh.Pad)
    if any(op.interior):
        return None
    dtype = node.operands[0].type.dtype
    value = np.array(op.value, dtype=helper.tensor_dtype_to_np_dtype(ONNX_TYPES[dtype]))
    extra = [w.ints([*op.low, *op.high], f"{results[0]}_pads"), w.constant(value, f"{results[0]}_value")]
    return [helper.make_node("Pad", [*operands, *extra], results)]


def _matmul(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
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


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    return [p[0] for p in padding] + [p[1] for p in padding]


def _conv(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
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
            pads=_pads(op.padding),
            dilations=op.dilations,
            group=op.groups,
            kernel_shape=node.operands[1].type.shape[2:],
        )
    ]


def _pool(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
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
            pads=_pads(op.padding),
            dilations=op.dilations,
            **extra,
        )
    ]


def _clamp(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
    op = node.op
    assert isinstance(op, act.Clamp)
    dtype = node.type.dtype
    low, high = op.low, op.high
    if dtype.is_integer:
        low, high = max(low, dtype.range[0]), min(high, dtype.range[1])
    kind = helper.tensor_dtype_to_np_dtype(ONNX_TYPES[dtype])
    limits = [
        w.constant(np.array(v, dtype=kind), f"{results[0]}_{n}") for n, v in (("min", low), ("max", high))
    ]
    return [helper.make_node("Clip", [*operands, *limits], results)]


def _top_k(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
    op = node.op
    assert isinstance(op, red.TopK)
    k = w.ints([op.k], f"{results[0]}_k")
    return [helper.make_node("TopK", [*operands, k], results, axis=op.axis, largest=int(op.largest))]


def _cum_sum(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
    op = node.op
    assert isinstance(op, red.CumSum)
    axis = w.constant(np.array(op.axis, dtype=np.int64), f"{results[0]}_axis")
    attributes = {"exclusive": int(op.exclusive), "reverse": int(op.reverse)}
    return [helper.make_node("CumSum", [*operands, axis], results, **attributes)]


def _batch_norm(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
    op = node.op
    assert isinstance(op, BatchNorm)
    if op.axis != 1:
        return None
    return [helper.make_node("BatchNormalization", operands, results, epsilon=op.epsilon)]


def _layer_norm(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
    op = node.op
    assert isinstance(op, LayerNorm)
    if len(operands) == 1:  # ONNX always scales
        return None
    return [helper.make_node("LayerNormalization", operands, results, axis=op.axis, epsilon=op.epsilon)]


def _logical(logical: str, bitwise: str) -> Writer:
    def write(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
        name = logical if node.type.dtype is DType.boolean else bitwise
        return [helper.make_node(name, operands, results)]

    return write


def _cast(op: ew.Cast) -> dict[str, Any]:
    f8 = op.dtype in (DType.f8e4m3, DType.f8e5m2)
    return {"to": ONNX_TYPES[op.dtype], **({"saturate": int(op.saturate)} if f8 else {})}


def _quantize(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto] | None:
    op = node.op
    assert isinstance(op, Quantize)
    if op.dtype is DType.i32:
        return None
    attributes = {"axis": op.axis, "output_dtype": ONNX_TYPES[op.dtype]}
    if op.block:
        attributes["block_size"] = op.block
    return [helper.make_node("QuantizeLinear", operands, results, **attributes)]


def _dequantize(w: _Writer, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
    op = node.op
    assert isinstance(op, Dequantize)
    attributes = {"axis": op.axis}
    if op.block:
        attributes["block_size"] = op.block
    return [helper.make_node("DequantizeLinear", operands, results, **attributes)]


_SAME: dict[type[Op], str] = {
    ew.Neg: "Neg",
    ew.Abs: "Abs",
    ew.Sign: "Sign",
    ew.Floor: "Floor",
    ew.Ceil: "Ceil",
    ew.Round: "Round",
    tr.Exp: "Exp",
    tr.Log: "Log",
    ew.Sqrt: "Sqrt",
    tr.Sin: "Sin",
    tr.Cos: "Cos",
    tr.Tan: "Tan",
    tr.Asin: "Asin",
    tr.Acos: "Acos",
    tr.Atan: "Atan",
    tr.Sinh: "Sinh",
    tr.Cosh: "Cosh",
    tr.Tanh: "Tanh",
    tr.Asinh: "Asinh",
    tr.Acosh: "Acosh",
    tr.Atanh: "Atanh",
    tr.Erf: "Erf",
    ew.IsNan: "IsNaN",
    ew.Add: "Add",
    ew.Sub: "Sub",
    ew.Mul: "Mul",
    ew.Div: "Div",
    ew.Pow: "Pow",
    ew.Equal: "Equal",
    ew.Less: "Less",
    ew.LessEqual: "LessOrEqual",
    ew.Where: "Where",
    act.Relu: "Relu",
    act.Sigmoid: "Sigmoid",
    act.HardSwish: "HardSwish",
    act.Softplus: "Softplus",
    act.Mish: "Mish",
}

WRITERS: dict[type[Op], Writer] = {
    **{op: _plain(name) for op, name in _SAME.items()},
    ew.Max: _plain("Max"),
    ew.Min: _plain("Min"),
    ew.Not: _logical("Not", "BitwiseNot"),
    ew.And: _logical("And", "BitwiseAnd"),
    ew.Or: _logical("Or", "BitwiseOr"),
    ew.Xor: _logical("Xor", "BitwiseXor"),
    ew.Rem: _plain("Mod", fmod=1),
    ew.Cast: _with("Cast", _cast),
    act.Mod: lambda w, n, i, o: None if n.type.dtype.is_float else [helper.make_node("Mod", i, o)],
    act.Clamp: _clamp,
    act.HardSigmoid: _with("HardSigmoid", lambda op: {"alpha": op.alpha, "beta": op.beta}),
    act.LeakyRelu: _with("LeakyRelu", lambda op: {"alpha": op.slope}),
    act.Elu: _with("Elu", lambda op: {"alpha": op.alpha}),
    act.Gelu: _with("Gelu", lambda op: {"approximate": op.approximate}),
    act.Softmax: _with("Softmax", lambda op: {"axis": op.axis}),
    act.LogSoftmax: _with("LogSoftmax", lambda op: {"axis": op.axis}),
    sh.Reshape: _shaped("Reshape", lambda op: op.shape, allowzero=1),
    sh.Transpose: _with("Transpose", lambda op: {"perm": op.permutation}),
    sh.BroadcastTo: _shaped("Expand", lambda op: op.shape),
    sh.Slice: _slice,
    sh.Concat: _with("Concat", lambda op: {"axis": op.axis}),
    sh.Pad: _pad,
    sh.Gather: _with("Gather", lambda op: {"axis": op.axis}),
    sh.GatherElements: _with("GatherElements", lambda op: {"axis": op.axis}),
    sh.GatherNd: _with("GatherND", lambda op: {"batch_dims": op.batch}),
    sh.ScatterElements: _with("ScatterElements", lambda op: {"axis": op.axis, "reduction": op.reduction}),
    sh.ScatterNd: _with("ScatterND", lambda op: {"reduction": op.reduction}),
    red.ReduceSum: _reduction("ReduceSum"),
    red.ReduceProd: _reduction("ReduceProd"),
    red.ReduceMax: _reduction("ReduceMax"),
    red.ReduceMin: _reduction("ReduceMin"),
    red.ArgMax: _with(
        "ArgMax",
        lambda op: {"axis": op.axis, "keepdims": int(op.keepdims), "select_last_index": int(op.last)},
    ),
    red.ArgMin: _with(
        "ArgMin",
        lambda op: {"axis": op.axis, "keepdims": int(op.keepdims), "select_last_index": int(op.last)},
    ),
    red.TopK: _top_k,
    red.CumSum: _cum_sum,
    ReduceMean: _reduction("ReduceMean"),
    Matmul: _matmul,
    Conv: _conv,
    MaxPool: _pool,
    AvgPool: _pool,
    BatchNorm: _batch_norm,
    LayerNorm: _layer_norm,
    Quantize: _quantize,
    Dequantize: _dequantize,
}
