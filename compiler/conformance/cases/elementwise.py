"""Elementwise arithmetic, comparison, logic, selection and casts."""

from __future__ import annotations

from collections.abc import Iterator

from hardy.compiler.conformance.case import (
    FLOATS,
    INTEGERS,
    SPECIAL,
    Case,
    between,
    case,
    exactly,
    full_range,
)
from hardy.compiler.ir import Op
from hardy.compiler.ops.activation import Mod
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
from hardy.compiler.types import DType


def cases() -> Iterator[Case]:
    yield from unary()
    yield from binary()
    yield from casts()


def real_function(op: Op, low: float = -6.0, high: float = 6.0) -> Iterator[Case]:
    """Each float type over low..high, and f32 at special values."""
    for dtype in FLOATS:
        yield case(op, f"{dtype}[3,37]", fill=between(low, high))
    yield case(op, f"f32[{len(SPECIAL)}]", label="special", fill=exactly(*SPECIAL))


def unary() -> Iterator[Case]:
    rounding: tuple[Op, ...] = (Floor(), Ceil(), Round())
    for op in rounding:
        yield from real_function(op)
    yield from real_function(Sqrt(), 0.0, 1e4)
    signed: tuple[Op, ...] = (Neg(), Abs(), Sign())
    for op in signed:
        for dtype in (*FLOATS, *INTEGERS):
            yield case(op, f"{dtype}[5,19]")
        yield case(op, f"f32[{len(SPECIAL)}]", label="special", fill=exactly(*SPECIAL))
    for dtype in FLOATS:
        yield case(IsNan(), f"{dtype}[{len(SPECIAL)}]", fill=exactly(*SPECIAL))
    for dtype in (*INTEGERS, "bool"):
        yield case(Not(), f"{dtype}[41]")
    yield case(Neg(), "f32[]", label="scalar")


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
    for dtype in INTEGERS:
        low = 0 if dtype == "u8" else -4
        yield case(Pow(), f"{dtype}[40]", f"{dtype}[40]", fill={0: between(low, 4), 1: between(low, 5)})
    bitwise: tuple[Op, ...] = (And(), Or(), Xor())
    for op in bitwise:
        for dtype in (*INTEGERS, "bool"):
            yield case(op, f"{dtype}[4,9]", f"{dtype}[9]")
    for shift in (ShiftLeft(), ShiftRight()):
        for dtype in INTEGERS:
            yield case(shift, f"{dtype}[40]", f"{dtype}[40]", fill={1: between(0, 6)})
    for dtype in (*FLOATS, *INTEGERS, "bool"):
        yield case(Where(), "bool[3,1]", f"{dtype}[2,1,5]", f"{dtype}[]")
    for dtype in ("i32", "i8", "u8", "i64", "i4", "u4"):
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
