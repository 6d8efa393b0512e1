"""Quantization, requantization and integer products."""

from __future__ import annotations

from collections.abc import Iterator

from hardy.compiler.conformance.case import Case, between, case, exactly, full_range
from hardy.compiler.ops.dynamic import DynamicQuantize
from hardy.compiler.ops.quant import (
    Dequantize,
    DequantizeMatmul,
    IntegerConv,
    IntegerMatmul,
    Quantize,
    Requantize,
    RequantizeShift,
)
from hardy.compiler.types import DType


def cases() -> Iterator[Case]:
    positive = between(0.01, 0.1)
    for dtype in ("i8", "u8", "i4", "u4", "i16"):
        zero = between(0, 3)
        yield case(
            Quantize(DType(dtype)),
            "f32[5,17]",
            "f32[]",
            f"{dtype}[]",
            fill={1: positive, 2: zero},
            label=dtype,
        )
        yield case(
            Dequantize(),
            f"{dtype}[5,17]",
            "f32[]",
            f"{dtype}[]",
            fill={0: between(0, 7), 1: positive, 2: zero},
        )
    fills = {1: positive, 2: between(-5, 5)}
    yield case(Quantize(DType.i8, axis=1), "f32[5,17]", "f32[17]", "i8[17]", fill=fills, label="channel")
    yield case(Dequantize(axis=0), "i8[5,17]", "f32[5]", "i8[5]", fill=fills, label="channel")
    yield case(Dequantize(axis=1, block=8), "i8[5,16]", "f32[5,2]", fill=fills, label="block")
    yield case(Dequantize(axis=1, block=8), "i8[5,19]", "f32[5,3]", fill=fills, label="short_block")
    yield case(Quantize(DType.i8, axis=1, block=8), "f32[5,16]", "f32[5,2]", fill=fills, label="block")
    real = {1: positive, 2: between(-3.5, 9.5)}
    yield case(Dequantize(1, 8), "u4[5,16]", "f32[5,2]", "f32[5,2]", fill=real, label="real_zero_point")
    yield from _products_with_stored_weights()
    ties = {0: exactly(0.5, 1.5, 2.5, -0.5, -1.5, 300, -300), 1: exactly(1), 2: exactly(0)}
    yield case(Quantize(DType.i8), "f32[7]", "f32[]", "i8[]", fill=ties, label="ties_and_saturation")
    accumulators = {0: between(-60000, 60000), 1: between(0.0005, 0.003)}
    for dtype in ("i8", "u8"):
        yield case(
            Requantize(DType(dtype)), "i32[9,33]", "f32[]", f"{dtype}[]", fill=accumulators, label=dtype
        )
        yield case(
            Requantize(DType(dtype), 1),
            "i32[9,33]",
            "f32[33]",
            f"{dtype}[]",
            fill=accumulators,
            label=f"{dtype}_channel",
        )
        yield case(
            RequantizeShift(DType(dtype)),
            "i32[9,33]",
            "i32[]",
            fill={0: between(-60000, 60000), 1: exactly(9)},
            label=dtype,
        )
    yield case(
        RequantizeShift(DType.i8, 1),
        "i32[9,4]",
        "i32[4]",
        fill={0: full_range, 1: exactly(0, 1, 8, 31)},
        label="channel",
    )
    yield case(
        RequantizeShift(DType.u8),
        "i32[9,33]",
        "i32[]",
        fill={0: between(-300, 300), 1: exactly(0)},
        label="no_shift",
    )
    zeros = exactly(0, 0, 0, 1.5, 3.0, 0.25)
    for label, by_range in (
        ("tensor", DynamicQuantize(DType.u8)),
        ("rows", DynamicQuantize(DType.i8, rows=True)),
        ("symmetric", DynamicQuantize(DType.i8, rows=True, symmetric=True)),
    ):
        yield case(by_range, "f32[5,33]", label=label)
        yield case(by_range, "f32[2,3]", fill={0: zeros}, label=f"{label}_zeros")
    for a in ("u8", "i8"):
        for w in ("i8", "u8"):
            types = (f"{a}[17,70]", f"{w}[70,35]")
            yield case(IntegerMatmul(), *types, fill=full_range)
            yield case(IntegerMatmul(), *types, fill=full_range, label="constant", constants=(1,))
            yield case(IntegerMatmul(), *types, f"{a}[]", f"{w}[35]", fill=full_range, label="zeros")
            op = IntegerConv((1, 1), ((1, 1), (1, 1)), (1, 1))
            yield case(
                op,
                f"{a}[1,16,7,9]",
                f"{w}[24,16,3,3]",
                f"{a}[]",
                fill=full_range,
                label="zero",
                constants=(1,),
            )
    yield case(IntegerMatmul(transpose_b=True), "u8[4,12]", "i8[5,12]", fill=full_range, label="transposed")
    strided = IntegerConv((2, 2), ((0, 1), (0, 1)), (1, 1), groups=8)
    yield case(
        strided,
        "u8[1,8,9,9]",
        "i8[8,1,3,3]",
        "u8[]",
        "i8[8]",
        fill=full_range,
        label="depthwise",
        constants=(1, 3),
    )


def _products_with_stored_weights() -> Iterator[Case]:
    """Few rows, for which targets have kernels of their own, and many."""
    for dtype in ("i8", "u8", "i4", "u4"):
        fills = {1: full_range, 2: between(0.01, 0.1), 3: full_range}
        for m in (1, 3, 40):
            types = (f"f32[2,{m},70]", f"{dtype}[35,70]", "f32[35,3]", f"{dtype}[35,3]")
            op, label = DequantizeMatmul(True, axis=1, block=32), f"{dtype}_{m}_rows"
            yield case(op, *types, fill=fills, label=label, constants=(1, 2, 3))
        plain = ("f32[1,70]", f"{dtype}[70,35]", "f32[35]")
        yield case(DequantizeMatmul(axis=1), *plain, fill=fills, label=f"{dtype}_channel", constants=(1, 2))
    real = {1: full_range, 2: between(0.01, 0.1), 3: between(-3.5, 9.5)}
    types = ("f32[2,70]", "u4[35,70]", "f32[35,3]", "f32[35,3]")
    op = DequantizeMatmul(True, axis=1, block=32)
    yield case(op, *types, fill=real, label="real_zero_point", constants=(1, 2, 3))
    by_column, by_row = ("f32[3,8]", "i8[8,5]", "f32[5]"), ("f32[3,8]", "i8[8,5]", "f32[8]")
    yield case(DequantizeMatmul(axis=1), *by_column, label="weight_known_at_run_time")
    yield case(DequantizeMatmul(axis=0), *by_row, label="scaled_along_k", constants=(1, 2))
