"""Kernels over the last axis, products of two activations and elementary functions, against float64."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardy.targets.cpu.kernels import math
from hardy.targets.cpu.kernels.batch_matmul import Strides, batch_matmul
from hardy.targets.cpu.kernels.elementwise import elementwise
from hardy.targets.cpu.kernels.kernel import Epilogue, EpilogueOperand
from hardy.targets.cpu.kernels.reduce import layer_norm, reduce_rows, rms_norm, softmax

quick = settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
rows, lengths = st.integers(1, 5), st.integers(1, 150)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@quick
@given(m=rows, n=lengths)
def test_softmax_is_right_for_any_length(run, near, float_isa, m, n):
    x = normal(0, m, n) * 20
    x[0, 0] = -np.inf if n > 1 else 0
    expected = torch.softmax(torch.from_numpy(x).double(), -1).numpy()
    near(run(softmax(m, n, float_isa), float_isa, x, shape=(m, n)), expected, 1, 0)


def test_softmax_keeps_nan_in_its_row(run, float_isa):
    x = normal(0, 3, 40)
    x[1, 7] = np.nan
    y = run(softmax(3, 40, float_isa), float_isa, x, shape=(3, 40))
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()


@quick
@given(m=rows, n=lengths)
def test_norms_are_right_for_any_length(run, near, float_isa, m, n):
    x, gamma, beta = normal(0, m, n) * 3 + 5, normal(1, n), normal(2, n)
    operands = (EpilogueOperand("float32", "channel"),) * 2
    epilogue = Epilogue(operands, lambda acc, o: acc * o[0] + o[1])
    t = torch.from_numpy(x).double()
    expected = torch.layer_norm(t, (n,), eps=1e-5).numpy() * gamma + beta
    y = run(layer_norm(m, n, float_isa, eps=1e-5, epilogue=epilogue), float_isa, x, gamma, beta, shape=(m, n))
    # The mean's rounding error is divided by the row's deviation.
    deviation = np.sqrt(x.astype(np.float64).var(-1, keepdims=True) + 1e-5)
    near(y, expected, n, abs(x).max() / deviation)
    expected = torch.rms_norm(t, (n,), eps=1e-5).numpy()
    near(run(rms_norm(m, n, float_isa, eps=1e-5), float_isa, x, shape=(m, n)), expected, n)


@quick
@given(
    m=rows, n=lengths, fold=st.sampled_from(["sum", "max", "min"]), dtype=st.sampled_from(["float32", "int8"])
)
def test_reductions_are_right_for_any_length(run, near, float_isa, m, n, fold, dtype):
    x = (normal(0, m, n) * 40).astype(dtype)
    out = "int32" if dtype == "int8" and fold == "sum" else dtype
    y = run(reduce_rows(m, n, fold, float_isa, x_dtype=dtype), float_isa, x, shape=(m,), dtype=out)
    expected = getattr(x.astype(np.float64), fold)(-1)
    near(y, expected, n, 40) if dtype == "float32" else np.testing.assert_array_equal(y, expected)


@quick
@given(m=st.integers(1, 40), n=st.integers(1, 40), k=st.integers(1, 40), transpose=st.booleans())
def test_product_of_activations_is_right_for_any_shape(run, near, float_isa, m, n, k, transpose):
    a, b = normal(0, 2, m, k), normal(1, *((2, n, k) if transpose else (2, k, n)))
    kernel = batch_matmul(m, n, k, float_isa, batch=(Strides(2, m * k, n * k, m * n),), transpose_b=transpose)
    expected = a.astype(np.float64) @ (b.transpose(0, 2, 1) if transpose else b)
    near(run(kernel, float_isa, a, b, shape=(2, m, n)), expected, k, 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_product_of_activations_reads_heads_where_they_lie(run, near, float_isa, threads):
    batch, tokens, heads, depth = 2, 21, 3, 20
    q, k = normal(0, batch, tokens, heads, depth), normal(1, batch, tokens, heads, depth)
    row, square = heads * depth, tokens * tokens
    axes = (
        Strides(batch, tokens * row, tokens * row, heads * square),
        Strides(heads, depth, depth, square),
    )
    kernel = batch_matmul(
        tokens,
        tokens,
        depth,
        float_isa,
        batch=axes,
        rows=(row, row, tokens),
        transpose_b=True,
        threads=threads,
    )
    y = run(kernel, float_isa, q, k, shape=(batch, heads, tokens, tokens))
    near(y, np.einsum("bshd,bthd->bhst", q.astype(np.float64), k), depth, 4)


FUNCTIONS = {
    "exp": torch.exp,
    "log": torch.log,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_within_tolerance_of_float64_everywhere(run, float_isa, name):
    every = np.linspace(0, 2**32 - 1, 150_001).astype(np.uint32).view(np.float32)
    special = np.array(
        [0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 88.7228, 88.7229, -87.4, 1, -1], np.float32
    )
    x = np.concatenate([every, np.linspace(-20, 20, 50_001, dtype=np.float32), special])
    epilogue = Epilogue(apply=lambda acc, _: getattr(math, name)(acc))
    y = run(elementwise(1, x.size, float_isa, epilogue=epilogue), float_isa, x, shape=x.shape)
    with np.errstate(all="ignore"):
        # Through f32, so that overflow gives infinity.
        expected = FUNCTIONS[name](torch.from_numpy(x).double()).float().double().numpy()
    np.testing.assert_allclose(y, expected, rtol=1.3e-6, atol=1e-5)


def test_round_to_int_rounds_ties_to_even_and_saturates(run, float_isa):
    x = np.concatenate(
        [np.arange(-100.5, 100.5, 0.5), [2.0**23 + 1, -(2.0**30), 0.49999997, 3e9, -3e9]]
    ).astype(np.float32)
    epilogue = Epilogue(apply=lambda acc, _: math.round_to_int(acc), dtype="int32")
    y = run(elementwise(1, x.size, float_isa, epilogue=epilogue), float_isa, x, shape=x.shape, dtype="int32")
    np.testing.assert_array_equal(y, np.rint(np.clip(x, -(2.0**31), 2.0**31 - 128)).astype(np.int32))
