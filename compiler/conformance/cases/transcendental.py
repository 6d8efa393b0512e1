"""Transcendental functions, each over the part of the line where it is real."""

from __future__ import annotations

from collections.abc import Iterator

from hardy.compiler.conformance.case import FLOATS, Case, case
from hardy.compiler.conformance.cases.elementwise import real_function
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


def cases() -> Iterator[Case]:
    for op in (Exp(), Sin(), Cos(), Tan(), Atan(), Sinh(), Cosh(), Tanh(), Asinh()):
        yield from real_function(op)
    yield from real_function(Log(), 1e-3, 1e3)
    yield from real_function(Asin(), -1.0, 1.0)
    yield from real_function(Acos(), -1.0, 1.0)
    yield from real_function(Acosh(), 1.0, 1e3)
    yield from real_function(Atanh(), -0.999, 0.999)
    yield from real_function(Log1p(), -0.99, 10.0)
    yield from real_function(Expm1(), -5.0, 5.0)
    yield from real_function(Erf(), -4.0, 4.0)
    yield case(Exp(), "f32[0,4]", label="empty")
    for dtype in FLOATS:
        yield case(Atan2(), f"{dtype}[4,33]", f"{dtype}[4,33]")
