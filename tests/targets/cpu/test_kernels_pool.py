"""Pooling against torch, padding, rounding up and counting included."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hardy.targets.cpu.kernels.pool import global_pool, pool2d
from hardy.targets.cpu.kernels.window import Window

quick = settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def windows(draw):
    size, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    pad = draw(st.integers(0, size // 2))
    height, width, channels = draw(st.integers(1, 13)), draw(st.integers(1, 13)), draw(st.integers(1, 40))
    try:
        return Window(
            draw(st.integers(1, 2)),
            height,
            width,
            channels,
            (size, size),
            (stride,) * 2,
            (pad,) * 4,
            ceil=draw(st.booleans()),
        )
    except ValueError:
        assume(False)


def image(s, seed=0):
    return np.random.default_rng(seed).standard_normal(
        (s.batch, s.height, s.width, s.channels), dtype=np.float32
    )


def last(y):
    return y.permute(0, 2, 3, 1).numpy()


@quick
@given(s=windows(), count_padding=st.booleans())
def test_average_pooling_agrees_with_torch(run, near, float_isa, s, count_padding):
    x = image(s)
    t = torch.from_numpy(x).double().permute(0, 3, 1, 2)
    expected = last(F.avg_pool2d(t, s.kernel, s.stride, s.pads[0], s.ceil, count_padding))
    assert expected.shape[1:3] == (s.out_h, s.out_w)
    y = run(pool2d(s, "avg", float_isa, count_padding=count_padding), float_isa, x, shape=expected.shape)
    near(y, expected, s.kernel[0] ** 2)


@quick
@given(s=windows())
def test_maximum_pooling_agrees_with_torch_and_keeps_nan(run, float_isa, s):
    x = image(s)
    x.reshape(-1)[:: max(7, x.size // 5)] = np.nan
    x.reshape(-1)[3::11] = -np.inf
    expected = last(
        F.max_pool2d(torch.from_numpy(x).permute(0, 3, 1, 2), s.kernel, s.stride, s.pads[0], 1, s.ceil)
    )
    y = run(pool2d(s, "max", float_isa), float_isa, x, shape=expected.shape)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_integer_pooling_is_exact(run, float_isa, dtype):
    s = Window(1, 9, 11, 37, (3, 3), (2, 2), (1, 1, 1, 1))
    info = np.iinfo(dtype)
    limit = min(info.max, 2**20)
    x = np.random.default_rng(0).integers(max(info.min, -limit), limit, (1, 9, 11, 37)).astype(dtype)
    t = torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2)
    shape = (1, s.out_h, s.out_w, 37)
    y = run(pool2d(s, "max", float_isa, x_dtype=dtype), float_isa, x, shape=shape, dtype=dtype)
    np.testing.assert_array_equal(y, last(F.max_pool2d(t, 3, 2, 1)))
    y = run(pool2d(s, "sum", float_isa, x_dtype=dtype), float_isa, x, shape=shape, dtype="int32")
    np.testing.assert_array_equal(y, last(F.avg_pool2d(t, 3, 2, 1, divisor_override=1)))


@pytest.mark.parametrize("channels", [5, 64, 200])
def test_global_pooling_is_the_mean_over_the_pixels(run, near, float_isa, channels):
    x = np.random.default_rng(0).standard_normal((2, 49, channels), dtype=np.float32)
    y = run(global_pool(2, 49, channels, "avg", float_isa), float_isa, x, shape=(2, channels))
    near(y, x.astype(np.float64).mean(1), 49)
    y = run(global_pool(2, 49, channels, "max", float_isa), float_isa, x, shape=(2, channels))
    np.testing.assert_array_equal(y, x.max(1))


def test_average_of_integers_is_refused():
    from hardy.targets.cpu.isa import by_name

    with pytest.raises(ValueError, match="average"):
        pool2d(Window(1, 4, 4, 1, (2, 2)), "avg", by_name("portable"), x_dtype="int8")
