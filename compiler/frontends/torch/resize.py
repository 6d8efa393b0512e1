"""Upsampling and resampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hardy.compiler.frontends.torch.context import Context, aten
from hardy.compiler.frontends.torch.shape import gather_axis
from hardy.compiler.ir import Value
from hardy.compiler.ops.resize import Resize


def _scales(c: Context, x: Value, given: Sequence[float | None]) -> tuple[float, ...]:
    """Result over input size of each axis: as the model states it, else as the sizes do."""
    shape, results = x.type.shape, c.shape
    stated = [None] * (len(shape) - len(given)) + list(given)
    return tuple(
        float(s) if s is not None and s > 0 and i >= 2 else m / n
        for i, (s, n, m) in enumerate(zip(stated, shape, results, strict=True))
    )


def _nearest_positions(n: int, m: int, scale: float | None, exact: bool) -> torch.Tensor:
    """The input element that torch copies to each result element.

    torch computes positions in f32, whose rounding decides between neighbours.
    """
    step = torch.tensor(1 / scale if scale is not None and scale > 0 else n / m, dtype=torch.float32)
    at = torch.arange(m, dtype=torch.float32)
    at = (at + 0.5) * step if exact else at * step
    return at.floor().long().clamp(max=n - 1)


def _nearest(rank: int, exact: bool) -> None:
    name = f"_upsample_nearest_exact{rank}d" if exact else f"upsample_nearest{rank}d"

    @aten(name)
    def import_(c: Context, x: Value, output_size: Sequence[int], *scales: float | None) -> Value:
        op = Resize(
            c.shape,
            _scales(c, x, scales),
            "nearest",
            "half_pixel" if exact else "asymmetric",
            "round_prefer_ceil" if exact else "floor",
        )
        wanted = [
            _nearest_positions(n, m, s, exact)
            for n, m, s in zip(x.type.shape[2:], c.shape[2:], scales or (None,) * rank, strict=True)
        ]
        changed = op.axes(x.type.shape)
        if all(
            torch.equal(w, op.nearest(a, x.type.shape[a]) if a in changed else torch.arange(c.shape[a]))
            for a, w in enumerate(wanted, 2)
        ):
            return c(op, x)
        for axis, positions in enumerate(wanted, 2):
            x = gather_axis(c, x, axis, positions)
        return x

    @aten(f"{name}.vec")
    def import_vec(
        c: Context, x: Value, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None
    ) -> Value:
        return import_(c, x, (), *(scale_factors or (None,) * rank))


for _rank in (1, 2, 3):
    _nearest(_rank, exact=False)
    _nearest(_rank, exact=True)


def _smooth(name: str, rank: int, mode: str, antialias: bool = False) -> None:
    @aten(name)
    def import_(
        c: Context, x: Value, output_size: Sequence[int], align_corners: bool, *scales: float | None
    ) -> Value:
        if align_corners and antialias:
            c.unsupported("antialiasing with align_corners", hint="use align_corners=False")
        if align_corners:
            # First and last elements lie on each other, so that stated scales do not matter.
            scales = (None,) * rank
        op = Resize(
            c.shape,
            _scales(c, x, scales),
            mode,
            "align_corners" if align_corners else "half_pixel",
            # Pillow's cubic with antialiasing, Keys' otherwise.
            cubic=-0.5 if antialias else -0.75,
            antialias=antialias,
            exclude_outside=antialias,
        )
        return c(op, x)

    @aten(f"{name}.vec")
    def import_vec(
        c: Context,
        x: Value,
        output_size: Sequence[int] | None,
        align_corners: bool,
        scale_factors: Sequence[float] | None,
    ) -> Value:
        return import_(c, x, (), align_corners, *(scale_factors or ()))


_smooth("upsample_linear1d", 1, "linear")
_smooth("upsample_bilinear2d", 2, "linear")
_smooth("upsample_trilinear3d", 3, "linear")
_smooth("upsample_bicubic2d", 2, "cubic")
_smooth("_upsample_bilinear2d_aa", 2, "linear", antialias=True)
_smooth("_upsample_bicubic2d_aa", 2, "cubic", antialias=True)
