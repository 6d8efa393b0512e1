"""Observation: streaming statistics equal those of all samples together."""

from __future__ import annotations

import pytest
import torch

from hardy.compiler.calibration import ChannelRange, Moments, Range, Samples, SecondMoments, observe
from hardy.compiler.errors import InputError
from hardy.compiler.ir import Builder
from hardy.compiler.ops.transcendental import Exp, Log
from hardy.compiler.types import DType, TensorType


def test_statistics_equal_those_of_all_samples_together() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (4, 3)))
    y = b(Exp(), x)
    graph = b.finish({"y": y})
    data = torch.randn(10, 4, 3, generator=torch.Generator().manual_seed(0))
    whole, channel, moments, at_input = Range(), ChannelRange(1), Moments(1), Range()
    told: list[int] = []
    count = observe(graph, Samples(lambda: data), {y: [whole, channel, moments], x: [at_input]}, told.append)
    rows = data.exp().reshape(-1, 3)
    assert count == 10
    assert told == list(range(1, 11))
    assert (whole.low, whole.high) == (float(rows.min()), float(rows.max()))
    assert torch.equal(channel.high, rows.amax(0))
    torch.testing.assert_close(moments.mean, rows.double().mean(0))
    torch.testing.assert_close(moments.rms, rows.double().square().mean(0).sqrt())
    assert at_input.low == float(data.min())


def test_a_value_that_becomes_infinite_is_named() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (1,)))
    with b.at("model.py:3"):
        y = b(Log(), x)
    graph = b.finish({"y": y})
    samples = Samples(lambda: [torch.ones(1), torch.zeros(1)])
    with pytest.raises(InputError, match="result of log holds NaN or infinity") as caught:
        observe(graph, samples, {y: [Range()]})
    assert caught.value.where == "sample 1 of the data; model.py:3"


def test_covariance_is_that_of_all_columns_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, n, 3, generator=generator) + 5 for n in (4, 7, 1)]
    moments = SecondMoments(lambda x: x)
    for part in parts:
        moments.update(part)
    together = torch.cat(parts, 1)
    for group in range(2):
        expected = torch.cov(together[group].T, correction=0)
        torch.testing.assert_close(moments.covariance[group], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moments.mean, together.mean(1))
