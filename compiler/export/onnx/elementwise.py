"""Elementwise arithmetic, comparison, logic, selection and casts in ONNX."""

from __future__ import annotations

from typing import Any

from onnx import NodeProto, helper

from hardy.compiler.export.onnx.scope import Scope
from hardy.compiler.export.onnx.writer import Writer, plain, with_attributes
from hardy.compiler.frontends.onnx.tensors import ONNX_TYPES
from hardy.compiler.ir import Node, Op
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
    Sign,
    Sqrt,
    Sub,
    Where,
    Xor,
)
from hardy.compiler.types import DType


def _logical(logical: str, bitwise: str) -> Writer:
    def write(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
        name = logical if node.type.dtype is DType.boolean else bitwise
        return [helper.make_node(name, operands, results)]

    return write


def _cast(op: Cast) -> dict[str, Any]:
    f8 = op.dtype in (DType.f8e4m3, DType.f8e5m2)
    return {"to": ONNX_TYPES[op.dtype], **({"saturate": int(op.saturate)} if f8 else {})}


_SAME: dict[type[Op], str] = {
    Abs: "Abs",
    Neg: "Neg",
    Sign: "Sign",
    Floor: "Floor",
    Ceil: "Ceil",
    Round: "Round",
    Sqrt: "Sqrt",
    IsNan: "IsNaN",
    Add: "Add",
    Sub: "Sub",
    Mul: "Mul",
    Div: "Div",
    Pow: "Pow",
    Equal: "Equal",
    Less: "Less",
    LessEqual: "LessOrEqual",
    Where: "Where",
    Max: "Max",
    Min: "Min",
}
WRITERS: dict[type[Op], Writer] = {
    **{op: plain(name) for op, name in _SAME.items()},
    Not: _logical("Not", "BitwiseNot"),
    And: _logical("And", "BitwiseAnd"),
    Or: _logical("Or", "BitwiseOr"),
    Xor: _logical("Xor", "BitwiseXor"),
    Rem: plain("Mod", fmod=1),
    Cast: with_attributes("Cast", _cast),
}
