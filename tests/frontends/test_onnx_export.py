"""Graphs as ONNX files: standard where ONNX has the op, always a file that opens."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from hardy.compiler.conformance import all_cases
from hardy.compiler.errors import ModelError
from hardy.compiler.export.onnx import export, is_standard
from hardy.compiler.frontends.onnx import load
from hardy.compiler.frontends.selftest import check_onnx
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph, Op
from hardy.compiler.ops.activation import Clamp, Softmax
from hardy.compiler.ops.elementwise import Add, Cast, Mul, Neg, Pow
from hardy.compiler.ops.group import Group
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import RmsNorm
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.reduce import ReduceSum, TopK
from hardy.compiler.ops.shape import BroadcastTo, Concat, Gather, Pad, Reshape, Slice, Transpose
from hardy.compiler.ops.transcendental import Tanh
from hardy.compiler.tolerance import require_close
from hardy.compiler.types import DType, TensorType


def network() -> Graph:
    b = Builder("network")
    x = b.input("x", TensorType(DType.f32, (2, 3, 8, 8)))
    weight = b.constant(torch.randn(4, 3, 3, 3), name="weight")
    y = b(Conv((1, 1), ((1, 1), (1, 0)), (1, 1)), x, weight, name="conv", source="model.py:7")
    y = b(Clamp(0.0, 6.0), y)
    y = b(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), b(Pad((0, 0, 1, 0), (0, 0, 0, 1)), y))
    y = b(AvgPool((2, 2), (1, 1), ((1, 1), (0, 0)), (1, 1)), y)
    y = b(Slice((0, 0, 0, 1), (2, 4, 3, 3), (1, 1, 2, 1)), y)
    y = b(Transpose((0, 2, 3, 1)), y)
    y = b(Concat(1), y, b(BroadcastTo(y.type.shape), b(ReduceSum((3,), True), y)))
    y = b(Reshape((2, y.type.size // 2)), y)
    y = b(Matmul(transpose_b=True), y, b.constant(torch.randn(5, y.type.shape[1])))
    y = b(Softmax(1), b(Tanh(), y))
    values, places = b.multi(TopK(3, 1), y)
    picked = b(Gather(0), b.constant(torch.randn(5)), places)
    return b.finish({"probabilities": b(Mul(), values, picked), "places": b(Cast(DType.i32), places)})


def test_a_standard_graph_is_a_valid_model_that_computes_the_same(tmp_path: Path) -> None:
    graph = network()
    proto = export(graph, tmp_path / "network.onnx")
    assert is_standard(proto)
    onnx.checker.check_model(str(tmp_path / "network.onnx"), full_check=True)
    assert check_onnx(tmp_path / "network.onnx", graph).passed


def test_every_op_that_onnx_has_is_valid_and_comes_back_computing_the_same() -> None:
    standard = [(c, proto) for c in all_cases() if is_standard(proto := export(c.graph))]
    ops = {c.op.name for c, _ in standard}
    assert {"add", "softmax", "conv", "max_pool", "reduce_mean", "top_k", "quantize"} <= ops
    for c, proto in standard:
        onnx.checker.check_model(proto, full_check=True)
        results = run(load(proto), c.inputs)
        for name, expected in c.expected().items():
            require_close(f"{c.name}: {name}", expected, results[name], scaled=True)


@pytest.mark.parametrize(
    ("op", "dtype", "standard"),
    [
        (Neg(), "u8", False),
        (Neg(), "i8", True),
        (Pow(), "i16", False),
        (Pow(), "i64", True),
        (Add(), "i4", False),
        (Clamp(0, 3), "u4", False),
        (Cast(DType.i32), "u4", True),
    ],
)
def test_operators_of_onnx_are_written_for_the_types_that_they_have(
    op: Op, dtype: str, standard: bool
) -> None:
    b = Builder()
    x = b.input("x", TensorType(DType(dtype), (2,)))
    proto = export(b.finish({"y": b(op, *[x] * len(op.signature().names))}))
    assert is_standard(proto) == standard
    assert not proto.graph.initializer or standard
    onnx.checker.check_model(proto, full_check=True)


def test_names_and_sources_are_kept() -> None:
    proto = export(network())
    conv = next(n for n in proto.graph.node if n.op_type == "Conv")
    assert conv.name == "conv"
    assert conv.doc_string == "model.py:7"
    assert conv.input[1] == "weight"
    assert [o.name for o in proto.graph.output] == ["probabilities", "places"]


def test_a_graph_survives_the_way_out_and_back() -> None:
    graph = network()
    again = load(export(graph))
    assert again.input_types() == graph.input_types()
    assert again.output_types() == graph.output_types()


def test_ops_that_onnx_lacks_become_nodes_of_hardys_domain_with_their_attributes() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (2, 4)))
    proto = export(b.finish({"y": b(RmsNorm(1, 1e-6), x)}))
    (node,) = proto.graph.node
    assert (node.domain, node.op_type) == ("hardy", "rms_norm")
    assert not is_standard(proto)
    assert {a.name for a in node.attribute} == {"axis", "epsilon"}
    onnx.load_from_string(proto.SerializeToString())


def test_the_graph_inside_a_group_is_nested() -> None:
    inner = Builder("body")
    p = inner.input("p", TensorType(DType.f32, (4,)))
    body = inner.finish({"q": inner(Tanh(), p)})
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (4,)))
    proto = export(b.finish({"y": b(Group("elementwise", body), x)}))
    (attribute,) = [a for a in proto.graph.node[0].attribute if a.name == "body"]
    assert [n.op_type for n in attribute.g.node] == ["Tanh"]


def test_one_value_under_two_output_names_and_an_input_as_output_are_written() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (4,)))
    y = b(Add(), x, x)
    graph = b.finish({"a": y, "b": y, "c": x})
    proto = export(graph)
    onnx.checker.check_model(proto, full_check=True)
    assert check_onnx(proto, graph).passed


def test_equal_hints_get_different_names() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (4,)))
    y = b(Tanh(), b(Tanh(), b(Tanh(), x, name="x"), name="x"), name="y")
    proto = export(b.finish({"y": y}))
    onnx.checker.check_model(proto, full_check=True)


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot write"):
        export(network(), tmp_path / "none" / "network.onnx")
