"""What a layer computes, against torch; and what is no layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.lower.layer import Layer, MaxPool, add, average_pool, dense, max_pool, reference
from tests.targets.fpga.lower.strategies import layers


@given(layers(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_definition_is_torchs_convolution_pool_and_shift(layer: Layer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, layer.shape).astype(np.int8)
    residuals = [rng.integers(-128, 128, layer.conv_shape).astype(np.int8) for _ in layer.residuals]

    (top, bottom), (left, right) = layer.padding
    padded = F.pad(torch.from_numpy(x).double(), (left, right, top, bottom))
    total = F.conv2d(
        padded,
        torch.from_numpy(layer.weights).double(),
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
    ).long()
    if layer.bias is not None:
        total = total + torch.from_numpy(layer.bias).long()[:, None, None]
    for k, residual in zip(layer.residuals, residuals, strict=True):
        shifts = torch.as_tensor(k).long().reshape(-1, 1, 1)
        total = total + (torch.from_numpy(residual).long() << shifts)
    total = total.int()
    if layer.wide:
        np.testing.assert_array_equal(reference(layer, [x, *residuals]), total.numpy())
        return
    if (pool := layer.pool) is not None:
        (top, bottom), (left, right) = pool.padding
        filled = F.pad(total.double(), (left, right, top, bottom), value=float("-inf"))
        total = F.max_pool2d(filled, pool.kernel, pool.stride).int()
    shift = torch.from_numpy(layer.shifts.copy())[:, None, None]
    half = torch.where(shift > 0, 1 << (shift - 1).clamp(min=0), 0).int()
    expected = ((total + half) >> shift).clamp(layer.low, layer.high).to(torch.int8)

    np.testing.assert_array_equal(reference(layer, [x, *residuals]), expected.numpy())


def test_a_dense_layer_is_a_matrix_product() -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((5, 24), (10, 24)))
    result = reference(dense("dense", 5, w, shift=7), [x.T[None, :, :, None]])
    expected = np.clip((x.astype(int) @ w.T.astype(int) + 64) >> 7, -128, 127)
    np.testing.assert_array_equal(result[0, :, :, 0].T, expected)


def test_pools_and_sums_are_layers() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-128, 128, (1, 5, 6, 6)).astype(np.int8) for _ in range(2))
    pooled = reference(max_pool("pool", x.shape, MaxPool((2, 2), (2, 2))), [x])
    np.testing.assert_array_equal(pooled, x.reshape(1, 5, 3, 2, 3, 2).max((3, 5)))
    mean = reference(average_pool("mean", x.shape, (6, 6), (1, 1), 57, 11), [x])
    np.testing.assert_array_equal(mean, (57 * x.astype(int).sum((2, 3), keepdims=True) + 1024) >> 11)
    total = reference(add("sum", x.shape, 1, 2, shift=2), [x, y])
    np.testing.assert_array_equal(total, np.clip((2 * x.astype(int) + 4 * y.astype(int) + 2) >> 2, -128, 127))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 3}, "times groups"),
        ({"bias": np.zeros(3, np.int32)}, "bias is i32"),
        ({"shift": 32}, "shifts are 0..31"),
        ({"residuals": (32,)}, "residual shifts"),
        ({"low": 5, "high": 4}, "low <= high"),
        ({"stride": (0, 1)}, "strides"),
        ({"dilation": (4, 4)}, "no elements"),
    ],
)
def test_what_is_no_layer_is_refused(change: dict[str, object], message: str) -> None:
    fields = {"name": "layer", "shape": (1, 4, 5, 5), "weights": np.zeros((8, 4, 3, 3), np.int8), **change}
    with pytest.raises(TargetError, match=message):
        Layer(**fields)  # type: ignore[arg-type] # fields of any type
