"""Resizing by every mode and rule of coordinates."""

from __future__ import annotations

from collections.abc import Iterator

from hardy.compiler.conformance.case import Case, case
from hardy.compiler.ops.resize import Resize


def cases() -> Iterator[Case]:
    double = ((1, 3, 8, 10), (1.0, 1.0, 2.0, 2.0))
    smaller = ((1, 3, 3, 4), (1.0, 1.0, 0.75, 0.8))
    for shape, scales in (double, smaller):
        for mode in ("nearest", "linear", "cubic"):
            for coordinates in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
                label = f"{mode}_{coordinates}_{shape[2]}"
                yield case(Resize(shape, scales, mode, coordinates), "f32[1,3,4,5]", label=label)
    yield case(Resize(*smaller, "linear", antialias=True), "f32[1,3,4,5]", label="antialias")
    yield case(Resize(*double), "i8[1,3,4,5]", label="integers")
