"""Matrix products with a constant weight, against float64 and against exact integers."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import tirx

from hardy.targets.cpu.kernels import emit, math
from hardy.targets.cpu.kernels.kernel import Epilogue, EpilogueOperand
from hardy.targets.cpu.kernels.matmul import matmul
from hardy.targets.cpu.kernels.module import compile_kernels

quick = settings(max_examples=7, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
sizes = st.integers(1, 70)
INTEGERS = {"uint8": (0, 256), "int8": (-128, 128)}


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def integers(seed, dtype, *shape):
    low, high = INTEGERS[dtype]
    values = np.random.default_rng(seed).integers(low, high, shape)
    # The extremes at the beginning, where saturating instructions would show.
    values.reshape(-1)[: max(1, values.size // 3)] = high - 1
    return values.astype(dtype)


@quick
@given(m=sizes, n=sizes, k=sizes, bias=st.booleans(), transposed=st.booleans())
def test_product_is_right_for_any_shape(run, near, float_isa, m, n, k, bias, transposed):
    x, w, b = normal(0, m, k), normal(1, k, n), normal(2, n)
    kernel = matmul(m, n, k, float_isa, bias=bias, transposed=transposed)
    packed = kernel.pack(np.ascontiguousarray(w.T) if transposed else w)
    y = run(kernel, float_isa, x, packed, *([b] if bias else []), shape=(m, n))
    near(y, x.astype(np.float64) @ w + (b if bias else 0), k)


@pytest.mark.parametrize(
    ("m", "n", "k"), [(128, 96, 1536), (49, 64, 2048), (30, 40, 1024), (1, 1000, 640), (257, 16, 3)]
)
def test_product_is_right_for_large_and_conflicting_shapes(run, near, float_isa, m, n, k):
    x, w = normal(0, m, k), normal(1, k, n)
    kernel = matmul(m, n, k, float_isa)
    y = run(kernel, float_isa, x, kernel.pack(w), shape=(m, n))
    near(y, x.astype(np.float64) @ w, k, np.sqrt(k))


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_give_the_same_bits(run, float_isa, threads):
    m, n, k = 61, 50, 1024
    x, w = normal(0, m, k), normal(1, k, n)
    one, many = (matmul(m, n, k, float_isa, threads=t) for t in (1, threads))
    expected = run(one, float_isa, x, one.pack(w), shape=(m, n))
    np.testing.assert_array_equal(run(many, float_isa, x, many.pack(w), shape=(m, n)), expected)


def test_epilogue_gets_full_channel_and_scalar_operands(run, near, float_isa):
    m, n, k = 21, 29, 17
    x, w, b = normal(0, m, k), normal(1, k, n), normal(2, n)
    residual, scale, slope = normal(3, m, n), normal(4, n), normal(5, 1)
    operands = tuple(EpilogueOperand("float32", kind) for kind in ("full", "channel", "scalar"))
    epilogue = Epilogue(operands, lambda acc, o: math.gelu(acc * o[1] + o[0]) * o[2])
    kernel = matmul(m, n, k, float_isa, bias=True, epilogue=epilogue)
    assert kernel.inputs == ("x", "weight", "bias", "epilogue0", "epilogue1", "epilogue2", "output")
    y = run(kernel, float_isa, x, kernel.pack(w), b, residual, scale, slope, shape=(m, n))
    before = (x.astype(np.float64) @ w + b) * scale + residual
    near(y, before * 0.5 * (1 + torch.erf(torch.from_numpy(before) / 2**0.5).numpy()) * slope, k, 4)


@pytest.mark.parametrize(("m", "n", "k"), [(37, 61, 33), (29, 40, 2304)])
def test_full_operand_may_be_the_output(near, float_isa, m, n, k):
    x, w, y = normal(0, m, k), normal(1, k, n), normal(2, m, n)
    expected = np.maximum(x.astype(np.float64) @ w + y, 0)
    epilogue = Epilogue(
        (EpilogueOperand("float32", "full"),), lambda acc, o: math.clamp(acc + o[0], 0.0, np.inf)
    )
    kernel = matmul(m, n, k, float_isa, epilogue=epilogue)
    compile_kernels({"k": kernel}, float_isa)["k"](x, kernel.pack(w), y, y)
    near(y, expected, k, np.sqrt(k))


@quick
@given(m=sizes, n=sizes, k=sizes, x_dtype=st.sampled_from(["uint8", "int8"]), bias=st.booleans())
def test_integer_product_is_exact_for_any_shape(run, isa, m, n, k, x_dtype, bias):
    x, w = integers(0, x_dtype, m, k), integers(1, "int8", k, n)
    b = np.random.default_rng(2).integers(-(2**20), 2**20, n).astype(np.int32)
    kernel = matmul(m, n, k, isa, x_dtype=x_dtype, bias=bias)
    y = run(kernel, isa, x, kernel.pack(w), *([b] if bias else []), shape=(m, n), dtype="int32")
    np.testing.assert_array_equal(y, x.astype(np.int64) @ w.astype(np.int64) + (b if bias else 0))


def test_integer_product_can_be_requantized_in_the_epilogue(run, isa):
    m, n, k = 33, 45, 64

    def requantize(acc, operands):
        lanes = emit.lanes_of(acc)
        rounded = math.round_to_int(tirx.Cast(emit.vector("float32", lanes), acc) * operands[0])
        low, high = (emit.const(limit, "int32", lanes) for limit in (-128, 127))
        return tirx.Cast(emit.vector("int8", lanes), tirx.Min(tirx.Max(rounded, low), high))

    x, w = integers(0, "uint8", m, k), integers(1, "int8", k, n)
    scale = (np.random.default_rng(2).random(n) * 1e-3).astype(np.float32)
    epilogue = Epilogue((EpilogueOperand("float32", "channel"),), requantize, "int8")
    kernel = matmul(m, n, k, isa, x_dtype="uint8", epilogue=epilogue)
    y = run(kernel, isa, x, kernel.pack(w), scale, shape=(m, n), dtype="int8")
    exact = (x.astype(np.int32) @ w.astype(np.int32)).astype(np.float32) * scale
    np.testing.assert_array_equal(y, np.clip(np.rint(exact), -128, 127).astype(np.int8))
