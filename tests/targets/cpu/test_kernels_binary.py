"""Products of packed signs and packing, exact on every instruction set."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tvm import tirx

from hardy.targets.cpu.isa import by_name, missing_on_host
from hardy.targets.cpu.kernels.binary import binary_conv, binary_matmul, pack_bits, totals, whole_groups
from hardy.targets.cpu.kernels.conv import Conv
from hardy.targets.cpu.kernels.kernel import BITS, Epilogue, EpilogueOperand
from hardy.targets.cpu.kernels.module import lower

quick = settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
small = st.integers(1, 3)
pads = st.integers(0, 2)
ISAS = ["avx512+vnni+vpopcntdq", "avx512", "avx2", "portable"]


@pytest.fixture(scope="module", params=ISAS)
def isa(request):
    """Every way to count bits that this machine can run."""
    chosen = by_name(request.param)
    if missing := missing_on_host(chosen):
        pytest.skip(f"{request.param} needs {', '.join(missing)}")
    return chosen


def signs(seed, *shape):
    return np.random.default_rng(seed).integers(0, 2, shape, np.int8) * 2 - 1


def packed(values):
    return np.packbits(values > 0, axis=-1, bitorder="little")


@quick
@given(m=st.integers(1, 40), n=st.integers(1, 70), k=st.integers(1, 300))
def test_binary_matmul_is_exact_for_any_shape(run, isa, m, n, k):
    a, b = signs(0, m, k), signs(1, n, k)
    x, w = whole_groups(packed(a)), packed(b)
    kernel = binary_matmul(m, n, x.shape[1], isa)
    y = run(kernel, isa, x, kernel.pack(w), np.full(n, k, np.int32), shape=(m, n), dtype="int32")
    np.testing.assert_array_equal(y, a.astype(np.int32) @ b.T.astype(np.int32))


def convolution(s, channels):
    """The shape over bytes, x and weight as signs, and the products with zeros around the image."""
    x = signs(0, s.batch, s.height, s.width, channels)
    w = signs(1, s.out_channels, *s.kernel, channels)
    image = torch.from_numpy(x).float().permute(0, 3, 1, 2)
    top, left, bottom, right = s.pads
    image = F.pad(image, (left, right, top, bottom))
    y = F.conv2d(image, torch.from_numpy(w).float().permute(0, 3, 1, 2), None, s.stride, 0, s.dilation)
    return x, w, y.permute(0, 2, 3, 1).numpy()


def run_conv(run, s, channels, isa, x, w, **options):
    bits = packed(w)
    kernel = binary_conv(s, isa, **options)
    operands = whole_groups(packed(x)), kernel.pack(bits), totals(s, channels, bits)
    return lambda *more, **out: run(kernel, isa, *operands, *more, **out)


@st.composite
def convolutions(draw):
    try:
        return Conv(
            batch=draw(st.integers(1, 2)),
            height=draw(st.integers(1, 12)),
            width=draw(st.integers(1, 20)),
            channels=4 * draw(small),
            out_channels=draw(st.integers(1, 37)),
            kernel=(draw(small), draw(small)),
            stride=(draw(small), draw(small)),
            pads=(draw(pads), draw(pads), draw(pads), draw(pads)),
            dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        )
    except ValueError:
        assume(False)


@quick
@given(s=convolutions(), spare=st.integers(0, 31))
def test_binary_convolution_is_exact_for_any_shape(run, isa, s, spare):
    channels = 8 * s.channels - spare
    x, w, expected = convolution(s, channels)
    y = run_conv(run, s, channels, isa, x, w)(shape=expected.shape, dtype="int32")
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("out", [64, 24])
def test_threshold_and_packing_run_on_the_counts(run, isa, out):
    s = Conv(1, 14, 14, 8, out, (3, 3), (1, 1), (1, 1, 1, 1))
    x, w, counts = convolution(s, 64)
    threshold = np.random.default_rng(2).integers(-40, 40, out).astype(np.int32)
    if isa.lanes("int32") < 8:
        pytest.skip("vectors of four counts are no whole bytes")
    epilogue = Epilogue((EpilogueOperand("int32", "channel"),), lambda acc, o: tirx.GE(acc, o[0]), BITS)
    y = run_conv(run, s, 64, isa, x, w, epilogue=epilogue)(
        threshold, shape=(1, 14, 14, out // 8), dtype="uint8"
    )
    np.testing.assert_array_equal(y, np.packbits(counts >= threshold, axis=-1, bitorder="little"))


@quick
@given(rows=st.integers(1, 9), n=st.integers(1, 70), channel=st.booleans())
def test_bits_are_packed_for_any_shape(run, isa, rows, n, channel):
    x = np.random.default_rng(0).standard_normal((rows, n), np.float32)
    x.flat[::5] = np.nan
    threshold = np.random.default_rng(1).standard_normal(n if channel else 1, np.float32)
    operand = EpilogueOperand("float32", "channel" if channel else "scalar")
    epilogue = Epilogue((operand,), lambda acc, o: tirx.GE(acc, o[0]), BITS)
    kernel = pack_bits(rows, n, isa, x_dtype="float32", epilogue=epilogue)
    y = run(kernel, isa, x, threshold, shape=(rows, -(-n // 8)), dtype="uint8")
    np.testing.assert_array_equal(y, np.packbits(x >= threshold, axis=-1, bitorder="little"))


def test_one_instruction_counts_where_there_is_one():
    isa = by_name("avx512+vnni+vpopcntdq")
    kernel = binary_matmul(14, 64, 32, isa)
    module = tvm.ir.IRModule({"kernel": kernel.func.with_attr("global_symbol", "kernel")})
    assembly = lower(module, tvm.target.Target(isa.target())).inspect_source("s")
    assert "vpopcntd" in assembly


def test_operands_of_rows_enter_before_packing(run, isa):
    x = np.random.default_rng(0).standard_normal((6, 16), np.float32)
    rows = np.random.default_rng(1).standard_normal(6, np.float32)
    epilogue = Epilogue((EpilogueOperand("float32", "row"),), lambda acc, o: tirx.GE(acc, o[0]), BITS)
    y = run(
        pack_bits(6, 16, isa, x_dtype="float32", epilogue=epilogue), isa, x, rows, shape=(6, 2), dtype="uint8"
    )
    np.testing.assert_array_equal(y, np.packbits(x >= rows[:, None], axis=-1, bitorder="little"))
