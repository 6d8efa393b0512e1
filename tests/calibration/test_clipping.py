"""Clipping ranges and grids: what each method must give on data whose answer is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardy.compiler.calibration import METHODS, Grid, Histogram, clip_rows
from hardy.compiler.errors import UsageError
from hardy.compiler.types import DType

U8 = Grid(DType.u8)
I8 = Grid(DType.i8, symmetric=True)
ends = st.floats(-(2.0**100), 2.0**100, width=32)


def seen(x: torch.Tensor) -> Histogram:
    histogram = Histogram()
    histogram.update(x)
    return histogram


def noise(x: torch.Tensor, grid: Grid, low: float, high: float) -> float:
    scale, zero = grid.parameters(torch.tensor(low), torch.tensor(high))
    return float((grid.rounded(x, scale, zero) - x).double().square().mean())


def normal(count: int = 4_000) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


@given(ends, ends, st.sampled_from([DType.u8, DType.i8, DType.i4, DType.u4]), st.booleans(), st.booleans())
def test_a_grid_covers_its_range_and_holds_zero(
    a: float, b: float, dtype: DType, symmetric: bool, power_of_two: bool
) -> None:
    grid = Grid(dtype, symmetric, power_of_two)
    low, high = torch.tensor(min(a, b)), torch.tensor(max(a, b))
    scale, zero = grid.parameters(low, high)
    assert float(scale) > 0
    assert torch.isfinite(scale)
    assert dtype.range[0] <= float(zero) <= dtype.range[1]
    assert float(grid.rounded(torch.zeros(()), scale, zero)) == 0.0
    for end in (low, high):
        assert abs(float(grid.rounded(end, scale, zero) - end)) <= float(scale) * 1.001
    if power_of_two:
        assert float(torch.frexp(scale).mantissa) == 0.5
    if symmetric and dtype in (DType.i8, DType.i4):
        assert float(zero) == 0.0


def test_a_range_of_nothing_but_zero_has_a_scale() -> None:
    for grid in (U8, I8, Grid(DType.u8, symmetric=True)):
        scale, _ = grid.parameters(torch.zeros(()), torch.zeros(()))
        assert float(scale) == 1.0


def test_unsigned_symmetric_grids_start_at_zero_without_negative_numbers() -> None:
    grid = Grid(DType.u8, symmetric=True)
    scale, zero = grid.parameters(torch.tensor([0.0, -1.0]), torch.tensor([255.0, 127.0]))
    assert scale.tolist() == [1.0, 1.0]
    assert zero.tolist() == [0.0, 128.0]


def test_wide_types_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot quantize to i32"):
        Grid(DType.i32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", [U8, I8, Grid(DType.i8, symmetric=True, power_of_two=True)])
@pytest.mark.parametrize("values", [normal(), normal().relu(), -normal().abs(), torch.full((9,), 0.5)])
def test_every_method_stays_inside_what_was_seen(method: str, grid: Grid, values: torch.Tensor) -> None:
    low, high = METHODS[method](seen(values), grid, 99.9)
    assert float(values.min().clamp(max=0)) <= low <= high <= float(values.max().clamp(min=0))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_zeros(method: str) -> None:
    low, high = METHODS[method](seen(torch.zeros(100)), U8, 99.9)
    assert (low, high) == (0.0, 0.0)


def test_min_max_covers_an_outlier_that_the_others_clip() -> None:
    grid = Grid(DType.u4)
    histogram = seen(torch.cat([normal(), torch.tensor([100.0])]))
    highs = {name: method(histogram, grid, 99.9)[1] for name, method in METHODS.items()}
    assert highs["min_max"] == 100.0
    assert highs["percentile"] < 10.0
    assert highs["mse"] < 100.0
    assert highs["entropy"] < 100.0


@pytest.mark.parametrize("grid", [U8, I8, Grid(DType.i4, symmetric=True), Grid(DType.u4)])
@pytest.mark.parametrize("values", [normal(), normal().relu(), normal() ** 3, normal() + 1.0])
def test_mse_is_as_good_as_a_search_over_the_data_itself(grid: Grid, values: torch.Tensor) -> None:
    found = noise(values, grid, *METHODS["mse"](seen(values), grid, 0))
    low, high = float(values.min().clamp(max=0)), float(values.max())
    best = min(
        noise(values, grid, low * a / 16, high * b / 16)
        for b in range(1, 17)
        for a in (range(1, 17) if low < 0 else (16,))
    )
    assert found <= best * 1.02


def test_entropy_clips_a_tail_that_a_uniform_distribution_does_not_have() -> None:
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    assert METHODS["entropy"](seen(uniform), U8, 0)[1] > 0.95
    tail = torch.empty(50_000).exponential_(generator=torch.Generator().manual_seed(0))
    assert METHODS["entropy"](seen(tail), U8, 0)[1] < 0.9 * float(tail.max())


def test_rows_are_clipped_one_by_one() -> None:
    rows = torch.stack([normal(512), torch.full((512,), 0.25), torch.zeros(512), normal(512) * 1e-3])
    rows[0, 0] = 40.0
    scale, zero = clip_rows(rows, I8)
    rounded = I8.rounded(rows, scale[:, None], zero[:, None])
    plain, _ = I8.parameters(rows.amin(1), rows.amax(1))
    assert float(scale[0]) <= float(plain[0])
    assert torch.equal(rounded[2], rows[2])
    torch.testing.assert_close(rounded[1], rows[1])
    before = (I8.rounded(rows, plain[:, None], zero[:, None]) - rows).square().sum(1)
    assert bool(((rounded - rows).square().sum(1) <= before).all())


def test_importance_moves_the_clipping() -> None:
    rows = torch.cat([normal(256), torch.tensor([6.0])])[None]
    kept = torch.cat([torch.full((256,), 1e-6), torch.ones(1)])
    narrow, _ = clip_rows(rows, Grid(DType.i4, symmetric=True))
    wide, _ = clip_rows(rows, Grid(DType.i4, symmetric=True), kept)
    assert float(wide) > float(narrow)
