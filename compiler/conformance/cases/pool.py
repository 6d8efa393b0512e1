"""Pools."""

from __future__ import annotations

from collections.abc import Iterator

from hardy.compiler.conformance.case import Case, case
from hardy.compiler.ops.pool import AvgPool, MaxPool


def cases() -> Iterator[Case]:
    for layout, shape in (("channels_first", "[2,19,9,11]"), ("channels_last", "[2,9,11,19]")):
        for k, s, p in ((2, 2, 0), (3, 2, 1), (3, 1, 1)):
            args = ((k, k), (s, s), ((p, p), (p, p)), (1, 1), layout)
            yield case(MaxPool(*args), f"f32{shape}", label=f"k{k}s{s}_{layout}")
            yield case(AvgPool(*args), f"f32{shape}", label=f"k{k}s{s}_{layout}")
        args = ((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), layout)
        yield case(AvgPool(*args, count_padding=True), f"f32{shape}", label=f"count_padding_{layout}")
        whole = ((9, 11), (1, 1), ((0, 0), (0, 0)), (1, 1), layout)
        yield case(AvgPool(*whole), f"f32{shape}", label=f"global_{layout}")
    yield case(MaxPool((3,), (2,), ((1, 1),), (1,)), "f32[2,3,12]")
    yield case(MaxPool((2, 2), (1, 1), ((0, 0), (0, 0)), (2, 2)), "f32[1,2,7,7]", label="dilated")
    yield case(AvgPool((2, 2, 2), (2, 2, 2), ((0, 0),) * 3, (1, 1, 1)), "f32[1,2,4,4,4]")
    for dtype in ("i8", "u8", "f64", "bf16"):
        yield case(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), f"{dtype}[1,3,6,6]")
