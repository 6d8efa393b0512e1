"""Transcendental functions in ONNX."""

from __future__ import annotations

from hardy.compiler.export.onnx.writer import Writer, plain
from hardy.compiler.ir import Op
from hardy.compiler.ops.transcendental import (
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Cos,
    Cosh,
    Erf,
    Exp,
    Log,
    Sin,
    Sinh,
    Tan,
    Tanh,
)

_SAME: dict[type[Op], str] = {
    Exp: "Exp",
    Log: "Log",
    Sin: "Sin",
    Cos: "Cos",
    Tan: "Tan",
    Asin: "Asin",
    Acos: "Acos",
    Atan: "Atan",
    Sinh: "Sinh",
    Cosh: "Cosh",
    Tanh: "Tanh",
    Asinh: "Asinh",
    Acosh: "Acosh",
    Atanh: "Atanh",
    Erf: "Erf",
}
WRITERS: dict[type[Op], Writer] = {op: plain(name) for op, name in _SAME.items()}
