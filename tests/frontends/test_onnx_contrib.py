"""onnxruntime's own operators compute what onnxruntime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from hardy.compiler.frontends.onnx import load
from hardy.compiler.interpret import run
from hardy.compiler.tolerance import require_close

Array = np.ndarray[Any, Any]


def floats(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def bytes_(*shape: int, dtype: type = np.uint8) -> Array:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.random.default_rng(sum(shape)).integers(low, high, shape).astype(dtype)


def f32(value: float) -> Array:
    return np.array(value, dtype=np.float32)


def u8(value: int) -> Array:
    return np.array(value, dtype=np.uint8)


def i8(value: int) -> Array:
    return np.array(value, dtype=np.int8)


def whole(n: int) -> Array:
    return np.arange(n, dtype=np.int32) * 100 - 200


X, Y = bytes_(2, 3, 4, 4), bytes_(1, 3, 1, 4)
QUANTIZED = [f32(0.02), u8(120)]

CASES: list[tuple[str, list[Array], dict[str, Any]]] = [
    ("Gelu", [floats(2, 8)], {}),
    ("BiasGelu", [floats(2, 8), floats(8)], {}),
    ("FastGelu", [floats(2, 8), floats(8)], {}),
    ("QuickGelu", [floats(2, 8)], {"alpha": 1.5}),
    ("FusedMatMul", [floats(2, 8, 4), floats(2, 5, 8)], {"transA": 1, "transB": 1, "alpha": 0.5}),
    ("SkipLayerNormalization", [floats(2, 3, 8), floats(3, 8, 2).reshape(2, 3, 8), *[floats(8)] * 3], {}),
    ("SkipSimplifiedLayerNormalization", [floats(2, 3, 8), floats(2, 3, 8), floats(8)], {"epsilon": 1e-6}),
    (
        "MatMulIntegerToFloat",
        [bytes_(3, 8), bytes_(8, 5), f32(0.1), floats(5), u8(7), bytes_(5), floats(5)],
        {},
    ),
    ("QLinearAdd", [X, *QUANTIZED, Y, f32(0.03), u8(99), f32(0.05), u8(128)], {}),
    ("QLinearMul", [X, *QUANTIZED, Y, f32(0.03), u8(99), f32(0.05), u8(128)], {}),
    ("QLinearSigmoid", [X, *QUANTIZED, f32(1 / 256), u8(0)], {}),
    ("QLinearLeakyRelu", [X, *QUANTIZED, f32(0.02), u8(30)], {"alpha": 0.1}),
    ("QLinearGlobalAveragePool", [X, *QUANTIZED, f32(0.01), u8(120)], {}),
    (
        "QLinearAveragePool",
        [X, *QUANTIZED, f32(0.01), u8(120)],
        {"kernel_shape": [3, 3], "pads": [1, 0, 1, 0], "strides": [2, 1]},
    ),
    ("QLinearSoftmax", [X, *QUANTIZED, f32(1 / 256), u8(0)], {"axis": 1, "opset": 13}),
    ("QLinearWhere", [X > 99, X, *QUANTIZED, X, f32(0.03), u8(99), f32(0.05), u8(128)], {}),
    (
        "QGemm",
        [bytes_(3, 8), *QUANTIZED, bytes_(5, 8, dtype=np.int8), f32(0.01), i8(0), whole(5), f32(0.3), u8(9)],
        {"transB": 1},
    ),
    ("QGemm", [bytes_(3, 8), *QUANTIZED, bytes_(8, 5, dtype=np.int8), f32(0.01), i8(0), whole(5)], {}),
    ("DynamicQuantizeMatMul", [floats(3, 8), bytes_(8, 5), f32(0.01), u8(120), floats(5)], {}),
    ("QLinearConcat", [f32(0.03), u8(100), X, *QUANTIZED, X, f32(0.05), u8(7)], {"axis": 1}),
]


@pytest.mark.parametrize(("op", "arrays", "attributes"), CASES, ids=[c[0] for c in CASES])
def test_a_contrib_op_agrees_with_onnxruntime(
    op: str, arrays: list[Array], attributes: dict[str, Any]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    first = next(i for i, a in enumerate(arrays) if a.ndim)
    names = [f"x{i}" for i in range(len(arrays))]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], domain="com.microsoft", **attributes)],
        "g",
        [
            helper.make_tensor_value_info(
                names[first], helper.np_dtype_to_tensor_dtype(arrays[first].dtype), arrays[first].shape
            )
        ],
        [onnx.ValueInfoProto(name="y")],
        [
            numpy_helper.from_array(a, n)
            for i, (a, n) in enumerate(zip(arrays, names, strict=True))
            if i != first
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {names[first]: arrays[first]})
    actual = run(load(proto), {names[first]: torch.from_numpy(arrays[first])})["y"]
    require_close(op, torch.from_numpy(expected), actual, scaled=True)
