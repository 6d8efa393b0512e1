"""Signs, packed bits and their products."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hardy.compiler.conformance.case import Case, Fill, between, case, exactly, full_range
from hardy.compiler.ops.binary import Binarize, BinaryConv, BinaryMatmul, PackBits, Ternarize
from hardy.compiler.types import TensorType

SIGNED = exactly(0.0, -0.0, 1.5, -2.5, float("nan"), float("inf"), float("-inf"), 3e-42, -3e-42)


def bits(length: int) -> Fill:
    """Packed bits of so many elements: those of the last byte that stand for nothing are clear."""

    def fill(t: TensorType, rng: torch.Generator) -> torch.Tensor:
        values = full_range(t, rng)
        values[..., -1] &= 255 >> (-length % 8)
        return values

    return fill


def cases() -> Iterator[Case]:
    for dtype in ("f32", "f64", "f16", "bf16"):
        yield case(Binarize(), f"{dtype}[5,19]")
        yield case(PackBits(), f"{dtype}[3,5,19]")
        yield case(Ternarize(), f"{dtype}[6,3,5]", f"{dtype}[6,1,1]", fill={1: between(0, 1)})
    yield case(Ternarize(), "f32[9]", "f32[]", fill={0: SIGNED, 1: exactly(1.5)}, label="special")
    yield case(Binarize(), "f32[9]", fill=SIGNED, label="special")
    yield case(PackBits(), "f32[2,9]", fill=SIGNED, label="special")
    yield case(PackBits(), "f32[4,64]", "f32[]", label="threshold")
    yield case(PackBits(), "f32[7,40]", "f32[40]", label="channel")
    counts = between(-5, 5)
    yield case(PackBits(), "i32[2,6,37]", "i32[37]", fill=counts, label="counts")
    yield case(PackBits(), "i32[3,128]", fill=counts)
    for k in (5, 64, 100, 576):
        size = -(-k // 8)
        fill = bits(k)
        yield case(
            BinaryMatmul(k), f"u8[9,{size}]", f"u8[37,{size}]", fill=fill, constants=(1,), label=str(k)
        )
    yield case(BinaryMatmul(40), "u8[2,3,4,5]", "u8[3,6,5]", fill=bits(40), label="batch")
    # Bits that stand for nothing count where they differ, on every target alike.
    yield case(BinaryMatmul(13), "u8[4,2]", "u8[7,2]", fill=full_range, constants=(1,), label="surplus")
    for channels, out in ((64, 64), (128, 40), (24, 17), (3, 9)):
        size = -(-channels // 8)
        op = BinaryConv(channels, (1, 1), ((1, 1), (1, 1)), (1, 1))
        types = (f"u8[1,9,11,{size}]", f"u8[{out},3,3,{size}]")
        yield case(op, *types, fill=bits(channels), constants=(1,), label="same")
    strided = BinaryConv(64, (2, 2), ((0, 1), (2, 1)), (1, 2))
    yield case(strided, "u8[2,10,13,8]", "u8[20,3,2,8]", fill=bits(64), constants=(1,), label="strided")
    point = BinaryConv(96, (1, 1), ((0, 0), (0, 0)), (1, 1))
    yield case(point, "u8[1,7,7,12]", "u8[64,1,1,12]", fill=bits(96), constants=(1,), label="pointwise")
    yield case(point, "u8[1,7,7,12]", "u8[8,1,1,12]", fill=bits(96), label="variable")
    line = BinaryConv(20, (1,), ((2, 0),), (1,))
    yield case(line, "u8[2,15,3]", "u8[6,3,3]", fill=bits(20), constants=(1,), label="line")
    cube = BinaryConv(13, (1, 1, 1), ((1, 1), (0, 0), (1, 0)), (1, 1, 1))
    types = ("u8[1,3,4,5,2]", "u8[5,2,2,2,2]")
    yield case(cube, *types, fill=full_range, constants=(1,), label="surplus")
