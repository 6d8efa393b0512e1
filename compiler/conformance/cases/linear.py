"""Matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Iterator

from hardy.compiler.conformance.case import Case, case
from hardy.compiler.ops.linear import Conv, Matmul


def cases() -> Iterator[Case]:
    yield from matmuls()
    yield from convolutions()


def matmuls() -> Iterator[Case]:
    for m, k, n in ((1, 1, 1), (5, 7, 3), (16, 64, 48), (33, 130, 65), (1, 256, 100), (128, 384, 96)):
        yield case(Matmul(), f"f32[{m},{k}]", f"f32[{k},{n}]")
        yield case(Matmul(), f"f32[{m},{k}]", f"f32[{k},{n}]", label="constant", constants=(1,))
        yield case(
            Matmul(transpose_b=True),
            f"f32[{m},{k}]",
            f"f32[{n},{k}]",
            label="constant_transposed",
            constants=(1,),
        )
    yield case(Matmul(transpose_b=True), "f32[2,3,17,8]", "f32[2,3,9,8]", label="transpose_b")
    yield case(Matmul(transpose_a=True), "f32[2,8,17]", "f32[2,8,9]", label="transpose_a")
    yield case(Matmul(), "f32[4,1,5,6]", "f32[3,6,7]", label="broadcast_batch")
    yield case(Matmul(), "f32[2,5,6]", "f32[6,7]", label="shared_right", constants=(1,))
    yield case(Matmul(), "f32[3,0]", "f32[0,4]", label="empty_sum")
    for dtype in ("f64", "f16", "bf16", "i32", "i64"):
        yield case(Matmul(), f"{dtype}[9,20]", f"{dtype}[20,11]")


def conv(
    strides: int = 1, pad: int = 0, dilation: int = 1, groups: int = 1, rank: int = 2, last: bool = False
) -> Conv:
    layout = "channels_last" if last else "channels_first"
    return Conv((strides,) * rank, ((pad, pad),) * rank, (dilation,) * rank, groups, layout)


def convolutions() -> Iterator[Case]:
    shapes = [
        ("plain", conv(), "[1,3,9,11]", "[5,3,3,3]"),
        ("padded", conv(pad=1), "[2,16,12,12]", "[32,16,3,3]"),
        ("stride2", conv(2, 1), "[1,16,13,15]", "[24,16,3,3]"),
        ("dilated", conv(pad=2, dilation=2), "[1,8,14,14]", "[16,8,3,3]"),
        ("pointwise", conv(), "[1,40,7,9]", "[33,40,1,1]"),
        ("pointwise_stride2", conv(2), "[1,32,8,8]", "[64,32,1,1]"),
        ("stem", conv(2, 3), "[1,3,32,32]", "[64,3,7,7]"),
        ("groups", conv(pad=1, groups=4), "[1,16,8,8]", "[24,4,3,3]"),
        ("depthwise", conv(pad=1, groups=37), "[1,37,10,12]", "[37,1,3,3]"),
        ("depthwise5_stride2", conv(2, 2, groups=32), "[1,32,15,15]", "[32,1,5,5]"),
        ("depthwise_multiplier", conv(pad=1, groups=6), "[1,6,8,8]", "[12,1,3,3]"),
        ("one_pixel", conv(), "[1,19,1,1]", "[7,19,1,1]"),
    ]
    for label, op, x, w in shapes:
        out = w[1:].split(",")[0]
        yield case(op, f"f32{x}", f"f32{w}", f"f32[{out}]", label=label, constants=(1, 2))
        batch, channels, *spatial = x[1:-1].split(",")
        moved = f"[{batch},{','.join(spatial)},{channels}]"
        op = Conv(op.strides, op.padding, op.dilations, op.groups, "channels_last")
        yield case(op, f"f32{moved}", f"f32{w}", label=f"{label}_last", constants=(1,))
    yield case(conv(pad=1), "f32[1,4,6,6]", "f32[8,4,3,3]", label="dynamic_weight")
    uneven = Conv((1, 2), ((0, 1), (2, 0)), (1, 1))
    yield case(uneven, "f32[1,4,6,9]", "f32[8,4,2,3]", label="uneven", constants=(1,))
    yield case(conv(2, 1, rank=1), "f32[2,5,20]", "f32[7,5,3]", "f32[7]", constants=(1, 2))
    yield case(conv(1, 1, rank=3), "f32[1,3,5,6,7]", "f32[4,3,3,3,3]", constants=(1,))
    for dtype in ("f64", "f16", "bf16", "i32", "i64"):
        yield case(conv(pad=1), f"{dtype}[1,3,6,6]", f"{dtype}[4,3,3,3]", constants=(1,))
