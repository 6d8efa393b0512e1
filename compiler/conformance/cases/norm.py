"""Normalizations and means."""

from __future__ import annotations

from collections.abc import Iterator

from hardy.compiler.conformance.case import FLOATS, Case, between, case
from hardy.compiler.ops.norm import BatchNorm, GroupNorm, LayerNorm, ReduceMean, RmsNorm


def cases() -> Iterator[Case]:
    for dtype in FLOATS:
        yield case(LayerNorm(1), f"{dtype}[5,48]", f"{dtype}[48]", f"{dtype}[48]")
        yield case(RmsNorm(1), f"{dtype}[5,48]", f"{dtype}[48]")
        yield case(ReduceMean((1,)), f"{dtype}[5,33]")
    yield case(LayerNorm(1), "f32[3,5,7]", label="two_axes")
    yield case(LayerNorm(2, 1e-12), "f32[2,9,384]", "f32[384]", "f32[384]", label="bert", constants=(1, 2))
    yield case(RmsNorm(2), "f32[2,3,65]", label="plain")
    yield case(GroupNorm(4), "f32[2,16,5,6]", "f32[16]", "f32[16]")
    yield case(GroupNorm(6), "f32[2,6,9]", label="instance")
    statistics = {4: between(0.5, 2)}
    vectors = ("f32[19]",) * 4
    yield case(BatchNorm(), "f32[2,19,5,4]", *vectors, fill=statistics)
    yield case(
        BatchNorm(axis=3), "f32[2,5,4,19]", *vectors, fill=statistics, label="last", constants=(1, 2, 3, 4)
    )
    yield case(ReduceMean((2, 3), True), "f32[2,8,7,7]", label="global")
