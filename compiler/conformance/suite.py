"""The cases, one function a family of ops."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

from hardy.compiler.conformance.case import Case, between, case, exactly, full_range
from hardy.compiler.ir import Op
from hardy.compiler.ops.activation import (
    Clamp,
    Elu,
    Gelu,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    LogSoftmax,
    Mish,
    Mod,
    Relu,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
)
from hardy.compiler.ops.attention import Attention
from hardy.compiler.ops.elementwise import (
    Abs,
    Add,
    And,
    Cast,
    Ceil,
    Div,
    Equal,
    Floor,
    IsNan,
    Less,
    LessEqual,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    Or,
    Pow,
    Rem,
    Round,
    ShiftLeft,
    ShiftRight,
    Sign,
    Sqrt,
    Sub,
    Where,
    Xor,
)
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import BatchNorm, GroupNorm, LayerNorm, ReduceMean, RmsNorm
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.quant import (
    Dequantize,
    IntegerConv,
    IntegerMatmul,
    Quantize,
    Requantize,
    RequantizeShift,
)
from hardy.compiler.ops.recurrent import Gru, Lstm, Rnn
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
from hardy.compiler.ops.resize import Resize
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
from hardy.compiler.ops.transcendental import (
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atan2,
    Atanh,
    Cos,
    Cosh,
    Erf,
    Exp,
    Expm1,
    Log,
    Log1p,
    Sin,
    Sinh,
    Tan,
    Tanh,
)
from hardy.compiler.types import DType

FLOATS = ("f32", "f64", "f16", "bf16")
INTEGERS = ("i64", "i32", "i16", "i8", "u8")
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -2.5, 0.5, 3e-42, 88.0, -104.0, 1e30)


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """Every case, in the order of the families."""
    families = (
        unary(),
        binary(),
        casts(),
        movement(),
        indexing(),
        reductions(),
        matmuls(),
        convolutions(),
        pools(),
        activations(),
        normalizations(),
        attentions(),
        recurrent_layers(),
        quantization(),
        resizes(),
    )
    return tuple(c for family in families for c in family)


def unary() -> Iterator[Case]:
    real = (Floor(), Ceil(), Round(), Exp(), Sin(), Cos(), Tan(), Atan(), Sinh(), Cosh(), Tanh(), Asinh())
    domains: dict[Op, tuple[float, float]] = {
        Log(): (1e-3, 1e3),
        Sqrt(): (0.0, 1e4),
        Asin(): (-1.0, 1.0),
        Acos(): (-1.0, 1.0),
        Acosh(): (1.0, 1e3),
        Atanh(): (-0.999, 0.999),
        Log1p(): (-0.99, 10.0),
        Expm1(): (-5.0, 5.0),
        Erf(): (-4.0, 4.0),
    }
    functions: tuple[Op, ...] = (*real, *domains)
    for op in functions:
        low, high = domains.get(op, (-6.0, 6.0))
        for dtype in FLOATS:
            yield case(op, f"{dtype}[3,37]", fill=between(low, high))
        yield case(op, f"f32[{len(SPECIAL)}]", label="special", fill=exactly(*SPECIAL))
    plain: tuple[Op, ...] = (Neg(), Abs(), Sign())
    for op in plain:
        for dtype in (*FLOATS, *INTEGERS):
            yield case(op, f"{dtype}[5,19]")
        yield case(op, f"f32[{len(SPECIAL)}]", label="special", fill=exactly(*SPECIAL))
    for dtype in FLOATS:
        yield case(IsNan(), f"{dtype}[{len(SPECIAL)}]", fill=exactly(*SPECIAL))
    for dtype in (*INTEGERS, "bool"):
        yield case(Not(), f"{dtype}[41]")
    yield case(Neg(), "f32[]", label="scalar")
    yield case(Exp(), "f32[0,4]", label="empty")


def binary() -> Iterator[Case]:
    shapes = (("[4,33]", "[4,33]"), ("[2,1,17]", "[3,1]"), ("[]", "[9]"))
    arithmetic: tuple[Op, ...] = (Add(), Sub(), Mul(), Max(), Min(), Equal(), Less(), LessEqual())
    for op in arithmetic:
        for dtype in (*FLOATS, *INTEGERS):
            yield case(op, f"{dtype}[4,33]", f"{dtype}[4,33]")
        for left, right in shapes[1:]:
            yield case(op, f"f32{left}", f"f32{right}")
        n = len(SPECIAL)
        specials = {0: exactly(*SPECIAL), 1: exactly(*[v for v in SPECIAL for _ in SPECIAL])}
        yield case(op, f"f32[{n * n}]", f"f32[{n * n}]", label="special", fill=specials)
    divisions: tuple[Op, ...] = (Div(), Rem(), Mod())
    for op in divisions:
        for dtype in (*FLOATS, *INTEGERS):
            nonzero = exactly(3, -7, 2, 5) if dtype != "u8" else exactly(3, 7, 2, 5)
            yield case(op, f"{dtype}[4,33]", f"{dtype}[4,33]", fill={1: nonzero})
    for dtype in FLOATS:
        yield case(Pow(), f"{dtype}[4,33]", f"{dtype}[4,33]", fill={0: between(0.1, 4), 1: between(-2, 2)})
        yield case(Pow(), f"{dtype}[40]", f"{dtype}[]", label="square", fill={1: exactly(2)}, constants=(1,))
        yield case(Atan2(), f"{dtype}[4,33]", f"{dtype}[4,33]")
    yield case(Pow(), "i64[40]", "i64[40]", fill={0: between(-4, 4), 1: between(0, 5)})
    bitwise: tuple[Op, ...] = (And(), Or(), Xor())
    for op in bitwise:
        for dtype in (*INTEGERS, "bool"):
            yield case(op, f"{dtype}[4,9]", f"{dtype}[9]")
    for shift in (ShiftLeft(), ShiftRight()):
        for dtype in INTEGERS:
            yield case(shift, f"{dtype}[40]", f"{dtype}[40]", fill={1: between(0, 6)})
    for dtype in (*FLOATS, *INTEGERS, "bool"):
        yield case(Where(), "bool[3,1]", f"{dtype}[2,1,5]", f"{dtype}[]")
    for dtype in ("i32", "i8", "u8", "i64"):
        yield case(Add(), f"{dtype}[64]", f"{dtype}[64]", label="wraps", fill=full_range)
        yield case(Mul(), f"{dtype}[64]", f"{dtype}[64]", label="wraps", fill=full_range)


def casts() -> Iterator[Case]:
    names = (*FLOATS, *INTEGERS, "bool")
    for source in names:
        for result in names:
            if source != result:
                yield case(
                    Cast(DType(result)),
                    f"{source}[45]",
                    label=result,
                    fill=between(0, 1 if source == "bool" else 100),
                )
    for result in ("f8e4m3", "f8e5m2"):
        yield case(Cast(DType(result)), "f32[45]", label=result)
        yield case(Cast(DType.f32), f"{result}[45]")
        yield case(
            Cast(DType(result), saturate=True),
            "f32[4]",
            label=f"saturate_{result}",
            fill=exactly(1e9, -1e9, 3, 0),
        )
    for result in ("i4", "u4"):
        yield case(Cast(DType(result)), "i32[45]", label=result)
    yield case(Cast(DType.i32), "f32[6]", label="truncates", fill=exactly(1.9, -1.9, 0.5, -0.5, 7, -8))
    yield case(Cast(DType.i8), "i32[64]", label="keeps_low_bits", fill=full_range)
    yield case(
        Cast(DType.bf16), "f32[64]", label="rounds_to_even", fill=exactly(1.00390625, 1.01171875, 1.005)
    )


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


def reductions() -> Iterator[Case]:
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


def pools() -> Iterator[Case]:
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


def activations() -> Iterator[Case]:
    ops = (
        Relu(),
        Clamp(-1.0, 1.5),
        Sigmoid(),
        HardSigmoid(),
        HardSwish(),
        Silu(),
        Gelu(),
        Gelu("tanh"),
        Softplus(),
        Mish(),
        LeakyRelu(0.1),
        Elu(0.7),
    )
    for op in ops:
        for dtype in FLOATS:
            label = "tanh" if op == Gelu("tanh") else ""
            yield case(op, f"{dtype}[3,37]", fill=between(-8, 8), label=label)
    yield case(Relu(), "i32[40]")
    yield case(Clamp(-5, 6), "i8[40]")
    yield case(Sigmoid(), f"f32[{len(SPECIAL)}]", label="special", fill=exactly(*SPECIAL))
    for dtype in FLOATS:
        yield case(Softmax(1), f"{dtype}[5,33]")
        yield case(LogSoftmax(1), f"{dtype}[5,33]")
    yield case(Softmax(0), "f32[7,4,3]", label="first_axis")
    yield case(Softmax(2), "f32[2,3,128]", label="large", fill=between(-200, 200))


def normalizations() -> Iterator[Case]:
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


def attentions() -> Iterator[Case]:
    qkv = ("f32[2,4,9,16]", "f32[2,4,13,16]", "f32[2,4,13,8]")
    yield case(Attention(0.25), *qkv)
    yield case(Attention(0.25), *qkv, "f32[2,1,1,13]", label="float_mask")
    yield case(Attention(0.25), *qkv, "bool[9,13]", label="bool_mask", fill={3: exactly(1, 0, 1)})
    yield case(Attention(0.25, causal=True), *["f32[1,4,9,16]"] * 3, label="causal")
    yield case(Attention(0.25, causal=True, offset=4), *qkv, label="causal_offset")
    yield case(Attention(0.25), "f32[1,6,5,8]", "f32[1,2,7,8]", "f32[1,2,7,8]", label="shared_heads")
    yield case(Attention(0.25, softcap=2.0), *qkv, label="softcap")


def recurrent_layers() -> Iterator[Case]:
    steps, batch, inputs, hidden = 5, 3, 6, 4
    x = f"f32[{steps},{batch},{inputs}]"
    for direction, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
        for op in (Rnn(direction), Gru(direction), Gru(direction, reset_after=False), Lstm(direction)):
            rows = op.gates * hidden
            types = [x, f"f32[{d},{rows},{inputs}]", f"f32[{d},{rows},{hidden}]"]
            types += [f"f32[{d},{rows}]"] * op.biases + [f"f32[{d},{batch},{hidden}]"] * op.states
            label = direction + ("_reset_before" if op == Gru(direction, reset_after=False) else "")
            fill = between(-0.7, 0.7)
            weights = tuple(range(1, 3 + op.biases))
            yield case(op, *types, label=label, fill=fill, constants=weights)
            last = len(types)
            fills = dict.fromkeys(range(last), fill) | {last: exactly(5, 2, 0)}
            yield case(op, *types, "i64[3]", label=f"{label}_lengths", fill=fills, constants=weights)
    yield case(Rnn("forward", "relu"), x, "f32[1,4,6]", "f32[1,4,4]", "f32[1,4]", "f32[1,3,4]", label="relu")


def quantization() -> Iterator[Case]:
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
    yield case(Quantize(DType.i8, axis=1, block=8), "f32[5,16]", "f32[5,2]", fill=fills, label="block")
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
        "i32[9,3]",
        "i32[3]",
        fill={0: full_range, 1: exactly(1, 8, 31)},
        label="channel",
    )
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


def resizes() -> Iterator[Case]:
    double = ((1, 3, 8, 10), (1.0, 1.0, 2.0, 2.0))
    smaller = ((1, 3, 3, 4), (1.0, 1.0, 0.75, 0.8))
    for shape, scales in (double, smaller):
        for mode in ("nearest", "linear", "cubic"):
            for coordinates in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
                label = f"{mode}_{coordinates}_{shape[2]}"
                yield case(Resize(shape, scales, mode, coordinates), "f32[1,3,4,5]", label=label)
    yield case(Resize(*smaller, "linear", antialias=True), "f32[1,3,4,5]", label="antialias")
    yield case(Resize(*double), "i8[1,3,4,5]", label="integers")
