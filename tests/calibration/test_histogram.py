"""The streaming histogram equals one over all elements at once, whatever the order of the parts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardy.compiler.calibration import Histogram

# Subnormal numbers count as zero where the processor flushes them.
numbers = st.one_of(
    [st.floats(-limit, limit, width=32, allow_subnormal=False) for limit in (2.0**20, 2.0**-10)]
)


@given(st.lists(st.lists(numbers, min_size=1, max_size=20), min_size=1, max_size=6))
def test_parts_give_the_counts_of_the_whole(parts: list[list[float]]) -> None:
    streamed = Histogram(bins=64)
    for part in parts:
        streamed.update(torch.tensor(part))
    whole = torch.tensor([v for part in parts for v in part])
    assert streamed.total == whole.numel()
    assert (streamed.low, streamed.high) == (float(whole.min()), float(whole.max()))
    assert streamed.zeros == int((whole == 0).sum())
    places = [math.floor(math.ldexp(v, -streamed.exponent)) for v in whole.tolist() if v != 0]
    expected = torch.zeros(64, dtype=torch.int64)
    for place in places:
        expected[place - streamed.start] += 1
    assert torch.equal(streamed.counts, expected)


@given(st.lists(numbers, min_size=1, max_size=50).filter(any))
def test_bins_are_no_wider_than_needed(values: list[float]) -> None:
    seen = Histogram(bins=64)
    seen.update(torch.tensor(values))
    span = max(seen.high, 0.0) - min(seen.low, 0.0)
    assert seen.exponent == -120 or span > (seen.bins / 2 - 2) * seen.width


def test_memory_does_not_grow() -> None:
    seen = Histogram()
    size = seen.counts.numel()
    for scale in (1e-30, 1.0, 1e30):
        seen.update(torch.randn(1000) * scale)
    assert seen.counts.numel() == size


def test_the_quantile_is_within_a_bin() -> None:
    seen = Histogram()
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    for part in values.split(100):
        seen.update(part)
    for share in (0.001, 0.3, 0.5, 0.999):
        expected = float(values.sort().values[math.ceil(share * len(values)) - 1])
        assert expected <= seen.quantile(share) <= expected + seen.width


@pytest.mark.parametrize("value", [0.0, 1e-42, -3e38, 3e38])
def test_extreme_constants_are_counted(value: float) -> None:
    seen = Histogram()
    seen.update(torch.full((10,), value))
    assert seen.total == 10
    assert seen.low == seen.high
