"""Convolutions and depthwise convolutions, against float64 and against exact integers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hardy.targets.cpu.kernels.conv import Conv, conv2d
from hardy.targets.cpu.kernels.depthwise import depthwise
from hardy.targets.cpu.kernels.kernel import Epilogue, EpilogueOperand
from hardy.targets.cpu.kernels.window import Window

quick = settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
small = st.integers(1, 3)
pads = st.integers(0, 2)


def exact(x, w, b, s, pad_value=0):
    """The convolution in float64, which holds every i32 sum."""
    image = torch.from_numpy(x).double().permute(0, 3, 1, 2)
    top, left, bottom, right = s.pads
    image = F.pad(image, (left, right, top, bottom), value=pad_value)
    groups = s.groups if isinstance(s, Conv) else s.channels
    y = F.conv2d(image, torch.from_numpy(w).double(), None, s.stride, 0, s.dilation, groups)
    return y.permute(0, 2, 3, 1).numpy() + (0 if b is None else b)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def integers(seed, dtype, *shape):
    low, high = {"uint8": (0, 256), "int8": (-128, 128)}[dtype]
    values = np.random.default_rng(seed).integers(low, high, shape)
    values.reshape(-1)[: max(1, values.size // 3)] = high - 1
    return values.astype(dtype)


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    try:
        return Conv(
            batch=draw(st.integers(1, 2)),
            height=draw(st.integers(1, 12)),
            width=draw(st.integers(1, 20)),
            channels=draw(st.integers(1, 9)) * groups,
            out_channels=draw(st.integers(1, 37)) * groups,
            kernel=(draw(small), draw(small)),
            stride=(draw(small), draw(small)),
            pads=(draw(pads), draw(pads), draw(pads), draw(pads)),
            dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
            groups=groups,
        )
    except ValueError:
        assume(False)


@quick
@given(s=convolutions(), bias=st.booleans())
def test_convolution_is_right_for_any_shape(run, near, float_isa, s, bias):
    x = normal(0, s.batch, s.height, s.width, s.channels)
    w, b = normal(1, s.out_channels, s.channels // s.groups, *s.kernel), normal(2, s.out_channels)
    kernel = conv2d(s, float_isa, bias=bias)
    shape = (s.batch, s.out_h, s.out_w, s.out_channels)
    y = run(kernel, float_isa, x, kernel.pack(w), *([b] if bias else []), shape=shape)
    near(y, exact(x, w, b if bias else None, s), w[0].size, 3)


@quick
@given(s=convolutions(), x_dtype=st.sampled_from(["uint8", "int8"]), pad=st.integers(0, 127))
def test_integer_convolution_is_exact_for_any_shape(run, isa, s, x_dtype, pad):
    x = integers(0, x_dtype, s.batch, s.height, s.width, s.channels)
    w = integers(1, "int8", s.out_channels, s.channels // s.groups, *s.kernel)
    b = np.random.default_rng(2).integers(-(2**20), 2**20, s.out_channels).astype(np.int32)
    kernel = conv2d(s, isa, x_dtype=x_dtype, bias=True, pad_value=pad)
    shape = (s.batch, s.out_h, s.out_w, s.out_channels)
    y = run(kernel, isa, x, kernel.pack(w), b, shape=shape, dtype="int32")
    np.testing.assert_array_equal(y, exact(x, w, b, s, pad).astype(np.int64))


@pytest.mark.parametrize(
    "s",
    [
        Conv(1, 32, 32, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3)),
        Conv(1, 14, 14, 256, 40, (3, 3), (1, 1), (1, 1, 1, 1)),
        Conv(2, 7, 7, 64, 96, (3, 3), (1, 1), (1, 1, 1, 1)),
        Conv(1, 9, 9, 1024, 33, (1, 1), (2, 2)),
        Conv(1, 16, 16, 32, 32, (3, 3), (1, 1), (1, 1, 1, 1), groups=4),
    ],
    ids=str,
)
def test_convolution_is_right_at_model_shapes(run, near, float_isa, s):
    x = normal(0, s.batch, s.height, s.width, s.channels)
    w = normal(1, s.out_channels, s.channels // s.groups, *s.kernel)
    kernel = conv2d(s, float_isa)
    y = run(kernel, float_isa, x, kernel.pack(w), shape=(s.batch, s.out_h, s.out_w, s.out_channels))
    near(y, exact(x, w, None, s), w[0].size, np.sqrt(w[0].size))


def test_convolution_with_threads_and_a_residual(run, near, float_isa):
    s = Conv(2, 13, 11, 12, 35, (3, 3), (1, 1), (1, 1, 1, 1))
    x, w = normal(0, 2, 13, 11, 12), normal(1, 35, 12, 3, 3)
    residual = normal(2, 2, 13, 11, 35)
    epilogue = Epilogue((EpilogueOperand("float32", "full"),), lambda acc, o: acc + o[0])
    kernel = conv2d(s, float_isa, epilogue=epilogue, threads=2)
    y = run(kernel, float_isa, x, kernel.pack(w), residual, shape=(2, 13, 11, 35))
    near(y, exact(x, w, None, s) + residual, 108, 10)


@st.composite
def windows(draw):
    kernel = draw(st.sampled_from([(3, 3), (5, 5), (1, 3), (2, 1)]))
    try:
        return Window(
            batch=draw(st.integers(1, 2)),
            height=draw(st.integers(1, 12)),
            width=draw(st.integers(1, 12)),
            channels=draw(st.integers(1, 40)),
            kernel=kernel,
            stride=(draw(small), draw(small)),
            pads=tuple(draw(st.integers(0, kernel[i % 2] // 2)) for i in range(4)),
            dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        )
    except ValueError:
        assume(False)


@quick
@given(s=windows(), bias=st.booleans())
def test_depthwise_convolution_is_right_for_any_shape(run, near, float_isa, s, bias):
    x = normal(0, s.batch, s.height, s.width, s.channels)
    w, b = normal(1, s.channels, 1, *s.kernel), normal(2, s.channels)
    kernel = depthwise(s, float_isa, bias=bias)
    shape = (s.batch, s.out_h, s.out_w, s.channels)
    y = run(kernel, float_isa, x, kernel.pack(w), *([b] if bias else []), shape=shape)
    near(y, exact(x, w, b if bias else None, s), w[0].size, 3)


@quick
@given(s=windows(), x_dtype=st.sampled_from(["uint8", "int8"]), pad=st.sampled_from([0, 0, 1, 127]))
def test_integer_depthwise_convolution_is_exact_for_any_shape(run, isa, s, x_dtype, pad):
    x = integers(0, x_dtype, s.batch, s.height, s.width, s.channels)
    w = integers(1, "int8", s.channels, 1, *s.kernel)
    kernel = depthwise(s, isa, x_dtype=x_dtype, pad_value=pad)
    shape = (s.batch, s.out_h, s.out_w, s.channels)
    y = run(kernel, isa, x, kernel.pack(w), shape=shape, dtype="int32")
    np.testing.assert_array_equal(y, exact(x, w, None, s, pad).astype(np.int64))


def test_depthwise_convolution_is_right_at_model_shapes(run, near, float_isa):
    for s in (
        Window(1, 14, 14, 96, (3, 3), (1, 1), (1, 1, 1, 1)),
        Window(1, 15, 15, 24, (3, 3), (2, 2), (1, 1, 1, 1)),
        Window(1, 9, 40, 16, (7, 7), (1, 1), (3, 3, 3, 3)),
    ):
        x, w = normal(0, 1, s.height, s.width, s.channels), normal(1, s.channels, 1, *s.kernel)
        kernel = depthwise(s, float_isa)
        y = run(kernel, float_isa, x, kernel.pack(w), shape=(1, s.out_h, s.out_w, s.channels))
        near(y, exact(x, w, None, s), w[0].size, 3)


def test_shapes_without_output_are_refused():
    with pytest.raises(ValueError, match="no output"):
        Conv(1, 2, 2, 1, 1, (3, 3))
    with pytest.raises(ValueError, match="groups"):
        Conv(1, 2, 2, 3, 4, (1, 1), groups=2)
    with pytest.raises(ValueError, match="no output"):
        Window(1, 2, 2, 1, (3, 3))
