"""Reductions, extremes' positions, top-k and running sums."""

from __future__ import annotations

from collections.abc import Iterator

from hardy.compiler.conformance.case import SPECIAL, Case, between, case, exactly
from hardy.compiler.ops.reduce import (
    ArgMax,
    ArgMin,
    CumSum,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    TopK,
)


def cases() -> Iterator[Case]:
    for op in (ReduceSum, ReduceMax, ReduceMin, ReduceProd):
        for dtype in ("f32", "f64", "f16", "bf16", "i64", "i32"):
            fill = between(0.5, 1.5) if op is ReduceProd and dtype[0] in "fb" else between(-3, 3)
            yield case(op((2,)), f"{dtype}[3,4,35]", fill=fill)
        for axes, keep in (((0,), False), ((1,), True), ((0, 2), False), ((0, 1, 2), False), ((), False)):
            label = f"axes{''.join(map(str, axes))}{'k' if keep else ''}"
            yield case(op(axes, keep), "f32[5,6,7]", label=label, fill=between(0.5, 1.5))
        yield case(op((1,)), "f32[3,0]", label="empty")
    yield case(ReduceSum((1,)), "f32[3,10000]", label="long")
    yield case(ReduceMax((0,)), f"f32[{len(SPECIAL)}]", label="nan", fill=exactly(*SPECIAL))
    for dtype in ("bool", "i8", "u8"):
        yield case(ReduceMax((1,)), f"{dtype}[4,9]")
        yield case(ReduceMin((0,)), f"{dtype}[4,9]")
    for pick in (ArgMax, ArgMin):
        for dtype in ("f32", "f64", "i64", "i32", "i8"):
            yield case(pick(1), f"{dtype}[4,23,3]")
        yield case(pick(0, keepdims=True), "f32[9,4]", label="ties", fill=exactly(1, 1, 2, 2))
        yield case(pick(0, last=True), "f32[9,4]", label="last_of_ties", fill=exactly(1, 1, 2, 2))
    for dtype in ("f32", "i64", "i32"):
        yield case(TopK(3, 1), f"{dtype}[4,11,2]")
        yield case(TopK(4, 0, largest=False), f"{dtype}[6,3]", fill=exactly(2, 1, 1, 3, 2))
    yield case(TopK(64, 1), "f32[2,64]", label="sort")
    for dtype in ("f32", "f64", "i64", "i32"):
        for exclusive in (False, True):
            for backwards in (False, True):
                label = f"{'e' if exclusive else ''}{'r' if backwards else ''}"
                yield case(CumSum(1, exclusive, backwards), f"{dtype}[3,9,2]", label=label)
