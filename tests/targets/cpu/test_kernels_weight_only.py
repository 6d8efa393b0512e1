"""Products of few rows with weights of 8 and 4 bits, against float64."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardy.targets.cpu.kernels import math
from hardy.targets.cpu.kernels.kernel import Epilogue, EpilogueOperand
from hardy.targets.cpu.kernels.weight_only import Layout, weight_only_matmul

quick = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def check(run, near, isa, m, n, k, bits, block, zero, epilogue=None, extra=(), after=lambda y: y):
    random = np.random.default_rng(0)
    count, half = -(-k // block), 1 << bits - 1
    layout = Layout(m, n, k, bits, block, isa)
    x = random.standard_normal((m, k), dtype=np.float32)
    integers = random.integers(-half, half, (n, k)).astype(np.int8)
    scale = random.random((n, count), dtype=np.float32) / half
    zeros = random.integers(-half, half, (n, count)).astype(zero or "int8")
    if zero == "float32":
        zeros += random.random((n, count), dtype=np.float32)
    arrays = [x, layout.pack(integers), layout.pack_parameter(scale)]
    shift = 0
    if zero:
        arrays.append(layout.pack_parameter(zeros))
        shift = zeros.repeat(block, 1)[:, :k].astype(np.float64)
    kernel = weight_only_matmul(layout, zero=zero, epilogue=epilogue)
    y = run(kernel, isa, *arrays, *extra, shape=(m, n))
    w = (integers - shift) * scale.repeat(block, 1)[:, :k].astype(np.float64)
    near(y, after(x.astype(np.float64) @ w.T), k, 2 * np.sqrt(k))


@quick
@given(
    m=st.integers(1, 18),
    n=st.integers(1, 150),
    k=st.integers(1, 80),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([5, 16, 32, 80]),
    zero=st.sampled_from(["", "int8", "float32"]),
)
def test_product_is_right_for_any_shape(run, near, float_isa, m, n, k, bits, block, zero):
    check(run, near, float_isa, m, n, k, bits, min(block, k), zero)


@pytest.mark.parametrize("bits", [4, 8])
def test_product_is_right_for_one_row_and_many_panels(run, near, float_isa, bits):
    check(run, near, float_isa, 1, 600, 256, bits, 64, "int8")


def test_results_go_through_the_epilogue(run, near, float_isa):
    bias = np.random.default_rng(1).standard_normal(37, dtype=np.float32)
    epilogue = Epilogue(
        (EpilogueOperand("float32", "channel"),), lambda acc, o: math.clamp(acc + o[0], 0.0, np.inf)
    )
    check(
        run, near, float_isa, 3, 37, 40, 4, 8, "float32", epilogue, [bias], lambda y: np.maximum(y + bias, 0)
    )


def test_packed_weight_takes_half_a_byte_for_each_element(float_isa):
    layout = Layout(1, 48, 64, 4, 32, float_isa)
    assert layout.pack(np.zeros((48, 64), np.int8)).nbytes == 48 * 64 // 2
