"""How closely two computations of the same thing must agree: one table for all of hardy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from hardy.compiler.errors import MismatchError
from hardy.compiler.types import DType, describe_tensor, dtype_name


@dataclass(frozen=True)
class Tolerance:
    """|actual - expected| <= absolute + relative * |expected|."""

    relative: float
    absolute: float


# The defaults of torch.testing.assert_close; what is not a float must be equal.
TOLERANCES: dict[DType, Tolerance] = {
    DType.f64: Tolerance(1e-7, 1e-7),
    DType.f32: Tolerance(1.3e-6, 1e-5),
    DType.f16: Tolerance(1e-3, 1e-5),
    DType.bf16: Tolerance(1.6e-2, 1e-5),
    DType.f8e4m3: Tolerance(2**-3, 2**-9),
    DType.f8e5m2: Tolerance(2**-2, 2**-16),
}
EXACT = Tolerance(0.0, 0.0)


@dataclass(frozen=True)
class Difference:
    """How far `actual` is from `expected`, and whether that is close enough.

    `absolute` is the greatest difference; `ratio` is the greatest difference over what the
    tolerance allows there (at most 1 passes); `index` is where the ratio is greatest.
    """

    passed: bool
    absolute: float
    ratio: float
    index: tuple[int, ...]
    expected: float
    actual: float


def tolerance(dtype: DType) -> Tolerance:
    return TOLERANCES.get(dtype, EXACT)


def allowed_error(expected: torch.Tensor, *, scaled: bool = False) -> torch.Tensor:
    """What each element may differ by, f64, by the tolerance of its type; for `scaled` see `compare`."""
    dtype = DType.of(expected.dtype)
    limit = tolerance(dtype)
    a = expected.double()
    size = a.abs()
    if scaled and dtype.is_float:
        finite = a[a.isfinite()]
        size = size.clamp(min=float(finite.square().mean().sqrt()) if finite.numel() else 0.0)
        size = size * math.sqrt(1000)
    return limit.absolute + limit.relative * size


def compare(expected: torch.Tensor, actual: torch.Tensor, *, scaled: bool = False) -> Difference:
    """Compare under the tolerance of `expected`'s type; NaN equals NaN, infinities must match.

    With `scaled`, for results of long chains of sums, the tolerance is relative to the tensor's
    root mean square instead of to each element: rounding errors of a sum grow with its terms, not
    with a result that cancels to near zero; the relative part is that of a sum of 1,000 terms.
    """
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        raise MismatchError(f"expected {describe_tensor(expected)}, got {describe_tensor(actual)}")
    if expected.numel() == 0:
        return Difference(True, 0.0, 0.0, (), 0.0, 0.0)
    a, b = expected.double(), actual.double()
    same = (a == b) | (a.isnan() & b.isnan())
    error = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
    allowed = allowed_error(expected, scaled=scaled)
    ratio = torch.where(same, 0.0, error / allowed.clamp(min=1e-300)).nan_to_num(nan=math.inf)
    worst = int(ratio.argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), expected.shape))
    at = ratio.reshape(-1)[worst].item()
    return Difference(
        at <= 1.0,
        float(error.max()),
        at,
        index,
        a.reshape(-1)[worst].item(),
        b.reshape(-1)[worst].item(),
    )


def require_close(
    what: str, expected: torch.Tensor, actual: torch.Tensor, *, scaled: bool = False
) -> Difference:
    """`compare`, raising MismatchError with the worst element."""
    difference = compare(expected, actual, scaled=scaled)
    if not difference.passed:
        raise MismatchError(
            f"{what} differs: at {list(difference.index)} expected {difference.expected!r}, "
            f"got {difference.actual!r} "
            f"({difference.ratio:.3g} times the tolerance of {dtype_name(expected.dtype)})"
        )
    return difference
