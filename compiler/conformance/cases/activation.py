"""Activations and softmax."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hardy.compiler.conformance.case import FLOATS, SPECIAL, Case, between, case, exactly, full_range
from hardy.compiler.ops.activation import (
    Clamp,
    Elu,
    Gelu,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    LogSoftmax,
    Mish,
    Relu,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
)


def cases() -> Iterator[Case]:
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
    yield case(Clamp(0.0, 300), "u8[40]", label="end_outside", fill=full_range)
    yield case(Clamp(-math.inf, 2**53 + 1), "i64[40]", label="open", fill=full_range)
    yield case(Sigmoid(), f"f32[{len(SPECIAL)}]", label="special", fill=exactly(*SPECIAL))
    for dtype in FLOATS:
        yield case(Softmax(1), f"{dtype}[5,33]")
        yield case(LogSoftmax(1), f"{dtype}[5,33]")
    yield case(Softmax(0), "f32[7,4,3]", label="first_axis")
    yield case(Softmax(2), "f32[2,3,128]", label="large", fill=between(-200, 200))
