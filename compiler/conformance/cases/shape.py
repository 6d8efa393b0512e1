"""Movement of elements, and picking and placing them by index."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hardy.compiler.conformance.case import Case, between, case, exactly
from hardy.compiler.ops.shape import (
    BroadcastTo,
    Concat,
    Gather,
    GatherElements,
    GatherNd,
    Pad,
    Reshape,
    Reverse,
    ScatterElements,
    ScatterNd,
    Slice,
    Transpose,
)


def cases() -> Iterator[Case]:
    yield from movement()
    yield from indexing()


def movement() -> Iterator[Case]:
    for dtype in ("f32", "f64", "bf16", "i64", "i8", "bool"):
        yield case(Reshape((6, 20)), f"{dtype}[2,3,4,5]")
        yield case(Transpose((2, 0, 1)), f"{dtype}[3,17,5]")
        yield case(BroadcastTo((2, 3, 4)), f"{dtype}[3,1]")
        yield case(Slice((1, 0, 3), (3, 4, 9), (1, 2, 3)), f"{dtype}[3,4,9]")
        yield case(Reverse((0, 2)), f"{dtype}[3,2,7]")
        yield case(Concat(1), f"{dtype}[2,3,4]", f"{dtype}[2,1,4]", f"{dtype}[2,5,4]")
        yield case(Pad((1, 0), (2, 3), 1), f"{dtype}[4,5]")
    yield case(Transpose((0, 2, 3, 1)), "f32[2,19,6,7]", label="to_channels_last")
    yield case(Transpose((1, 0)), "f32[70,33]")
    yield case(Pad((1, 0), (0, 2), -1.5, (1, 2)), "f32[4,5]", label="interior")
    yield case(Pad((0,), (2,), -math.inf), "f32[4]", label="infinite")
    yield case(Concat(0), "f32[0,3]", "f32[2,3]", label="empty_part")
    yield case(Slice((0, 2), (4, 2), (1, 1)), "f32[4,5]", label="empty")
    yield case(Reshape(()), "f32[1,1]", label="to_scalar")


def indexing() -> Iterator[Case]:
    for dtype in ("f32", "i64", "i8", "bool"):
        yield case(Gather(1), f"{dtype}[3,7,4]", "i64[2,5]", fill={1: between(-7, 6)})
        yield case(GatherElements(0), f"{dtype}[6,4]", "i64[3,4]", fill={1: between(-6, 5)})
        yield case(GatherNd(), f"{dtype}[4,5,3]", "i64[6,2]", fill={1: between(-4, 3)})
    yield case(Gather(0), "f32[50,16]", "i32[12]", fill={1: between(0, 49)})
    yield case(Gather(0), "f32[50,16]", "i64[]", label="scalar_index", fill={1: exactly(-1)})
    yield case(GatherNd(batch=1), "f32[3,4,5]", "i64[3,2,1]", fill={1: between(-4, 3)})
    for reduction in ("none", "add", "mul", "max", "min"):
        for dtype in ("f32", "i64"):
            # Without a reduction the winner of equal positions is the last; these are distinct.
            rows = exactly(*range(6)) if reduction == "none" else between(-6, 5)
            types = (f"{dtype}[6,4]", "i64[6,1]", f"{dtype}[6,1]")
            yield case(ScatterElements(0, reduction), *types, label=reduction, fill={1: rows})
            types = (f"{dtype}[6,4]", "i64[6,1]", f"{dtype}[6,4]")
            yield case(ScatterNd(reduction), *types, label=reduction, fill={1: rows})
