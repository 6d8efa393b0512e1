"""hardy behind ONNX's backend interface."""

from __future__ import annotations

import unittest

import numpy as np
import onnx.backend.test
import onnx.parser
import pytest
from onnx import helper

from hardy import onnx_backend
from hardy.compiler.errors import InputError, UnsupportedError


def test_onnxs_own_runner_runs_unchanged_on_hardy() -> None:
    runner = onnx.backend.test.BackendTest(onnx_backend, __name__)
    runner.include("^test_relu_cpu$").include("^test_reshape_negative_dim_cpu$")
    case = runner.test_cases["OnnxBackendNodeModelTest"]
    names = ["test_relu_cpu", "test_reshape_negative_dim_cpu"]
    result = unittest.TestSuite(case(n) for n in names).run(unittest.TestResult())
    assert result is not None
    assert (result.testsRun, result.failures, result.errors, result.skipped) == (2, [], [], [])


def test_run_node_runs_one_operator() -> None:
    x = np.array([-1.0, 2.0], dtype=np.float32)
    (y,) = onnx_backend.run_node(helper.make_node("Relu", ["x"], ["y"]), [x])
    assert y.tolist() == [0, 2]


def test_only_cpu_is_a_device_of_the_backend() -> None:
    assert onnx_backend.supports_device("CPU")
    assert not onnx_backend.supports_device("CUDA")


RESHAPE = "g (float[6] x, int64[2] shape) => (float[n,m] y) { y = Reshape(x, shape) }"


def prepare(text: str) -> onnx_backend.HardyRep:
    return onnx_backend.prepare(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}'))


def test_inputs_that_must_be_constant_are_bound_and_each_value_is_compiled_once() -> None:
    prepared = prepare(RESHAPE)
    x = np.arange(6, dtype=np.float32)
    for shape in ([2, 3], [3, 2], [2, 3]):
        (y,) = prepared.run([x, np.array(shape)])
        assert list(y.shape) == shape
        assert y.reshape(-1).tolist() == x.tolist()
    assert prepared.specialisations == 2


def test_the_data_of_an_op_whose_shape_depends_on_it_is_not_bound() -> None:
    with pytest.raises(UnsupportedError, match="depends on the data"):
        prepare("g (float[4] x) => (int64[1,n] y) { y = NonZero(x) }").run([np.ones(4, dtype=np.float32)])


def test_inputs_are_taken_in_order_by_name_or_alone() -> None:
    prepared = prepare("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    x = np.array([1.0, 2.0], dtype=np.float32)
    for given in ([x], {"x": x}, x):
        (y,) = prepared.run(given)
        assert y.tolist() == [-1, -2]


def test_too_many_inputs_are_an_error() -> None:
    prepared = prepare("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    with pytest.raises(InputError, match="takes 1 inputs, got 2"):
        prepared.run([np.zeros(2, dtype=np.float32)] * 2)


def test_free_dimensions_take_the_sizes_of_the_inputs() -> None:
    prepared = prepare("g (float[n] x) => (float[n] y) { y = Neg(x) }")
    for size in (1, 5):
        assert prepared.run([np.zeros(size, dtype=np.float32)])[0].shape == (size,)


def test_the_target_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDY_TARGET", "cpu")
    prepared = prepare("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    assert prepared.target == "cpu"
    assert prepared.run([np.ones(2, dtype=np.float32)])[0].tolist() == [-1, -1]
