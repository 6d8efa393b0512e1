"""Narrower floats in storage and in computation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hardy.compiler.errors import UnsupportedError, UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.pipeline import random_inputs, sqnr
from hardy.compiler.types import DType
from hardy.compiler.verify import verify
from hardy.passes import CastFloats, FoldConstants
from tests.passes.quantized_nets import Gated, traced
from tests.rewriting import ops, require_same_outputs

# 20 log10 of about the number of values between 1 and 2, less what sums of errors cost.
LEAST_DB = {DType.f16: 60, DType.bf16: 42, DType.f8e4m3: 24, DType.f8e5m2: 18}


def gated() -> Graph:
    torch.manual_seed(0)
    return traced(Gated(), torch.randn(1, 7, 48))


def quality(before: Graph, after: Graph) -> float:
    verify(after)
    assert after.input_types() == before.input_types()
    assert after.output_types() == before.output_types()
    given = random_inputs(before.input_types())
    (expected,), (actual,) = (run(g, given).values() for g in (before, after))
    return sqnr(expected, actual)


@pytest.mark.parametrize("dtype", LEAST_DB)
def test_weights_are_stored_in_the_type(dtype: DType) -> None:
    before = gated()
    after = CastFloats(dtype).run(before)
    stored = [c.type.dtype for c in after.constants() if len(c.type.shape) == 2]
    assert stored == [dtype] * 3
    assert LEAST_DB[dtype] < quality(before, after) < LEAST_DB[dtype] + 30
    require_same_outputs(after, FoldConstants(unpack=True).run(after))


@pytest.mark.parametrize("dtype", [DType.f16, DType.bf16])
def test_stored_weights_stay_small_until_they_are_unpacked(dtype: DType) -> None:
    after = CastFloats(dtype).run(gated())
    assert FoldConstants().run(after) is after
    unpacked = FoldConstants(unpack=True).run(after)
    assert "cast" not in ops(unpacked)


@pytest.mark.parametrize("dtype", [DType.f16, DType.bf16])
def test_all_is_computed_in_the_type_but_what_needs_f32(dtype: DType) -> None:
    before = gated()
    after = CastFloats(dtype, compute=True).run(before)
    assert 30 < quality(before, after) < LEAST_DB[dtype] + 30
    types = {n.op.name: n.type.dtype for n in after.nodes if n.op.name in ("matmul", "silu", "rms_norm")}
    assert types == {"matmul": dtype, "silu": dtype, "rms_norm": DType.f32}


def test_layers_that_are_skipped_compute_in_f32() -> None:
    after = CastFloats(DType.bf16, compute=True, skip=("down*",)).run(gated())
    products = [n.type.dtype for n in after.nodes if n.op.name == "matmul"]
    assert products == [DType.bf16, DType.bf16, DType.f32]


def test_constants_beyond_f16_become_its_largest() -> None:
    class Masked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.tensor([0.0, -3e38])

    after = CastFloats(DType.f16, compute=True).run(traced(Masked(), torch.randn(3, 2)))
    assert run(after, {after.input_names[0]: torch.zeros(3, 2)})[after.output_names[0]][0, 1] == -65504


def test_options_and_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot cast to i8"):
        CastFloats(DType.i8).run(gated())
    with pytest.raises(UsageError, match="f8e4m3"):
        CastFloats(DType.f8e4m3, compute=True).run(gated())
    module = Gated()
    module.up.weight.data[0, 0] = float("nan")
    with pytest.raises(UnsupportedError, match=r"up\.weight"):
        CastFloats().run(traced(module, torch.randn(1, 7, 48)))
