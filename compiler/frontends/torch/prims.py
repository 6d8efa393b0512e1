"""torch's primitive operators, into which its reference decompositions expand.

They mean what the ATen operators of the same names do, on operands of equal types and shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hardy.compiler.frontends.torch import elementwise, logic, shape, transcendental
from hardy.compiler.frontends.torch.context import IMPORTERS, Context, Operand, aten
from hardy.compiler.ir import Value
from hardy.compiler.ops import elementwise as ew

# The modules whose importers are taken over here: imported first, so that they are in the table.
_FAMILIES = (elementwise, logic, shape, transcendental)
_SAME = {
    "abs": "abs",
    "acos": "acos",
    "acosh": "acosh",
    "add": "add.Tensor",
    "asin": "asin",
    "asinh": "asinh",
    "atan": "atan",
    "atan2": "atan2",
    "atanh": "atanh",
    "bitwise_and": "bitwise_and.Tensor",
    "bitwise_not": "bitwise_not",
    "bitwise_or": "bitwise_or.Tensor",
    "bitwise_xor": "bitwise_xor.Tensor",
    "cat": "cat",
    "ceil": "ceil",
    "cos": "cos",
    "cosh": "cosh",
    "eq": "eq.Tensor",
    "erf": "erf",
    "erfc": "erfc",
    "exp": "exp",
    "exp2": "exp2",
    "expm1": "expm1",
    "floor": "floor",
    "fmax": "fmax",
    "fmin": "fmin",
    "fmod": "fmod.Tensor",
    "ge": "ge.Tensor",
    "gt": "gt.Tensor",
    "hypot": "hypot",
    "isfinite": "isfinite",
    "le": "le.Tensor",
    "log": "log",
    "log10": "log10",
    "log1p": "log1p",
    "log2": "log2",
    "lt": "lt.Tensor",
    "maximum": "maximum",
    "minimum": "minimum",
    "mul": "mul.Tensor",
    "ne": "ne.Tensor",
    "neg": "neg",
    "pow": "pow.Tensor_Tensor",
    "reciprocal": "reciprocal",
    "remainder": "remainder.Tensor",
    "round": "round",
    "rsqrt": "rsqrt",
    "shift_left": "bitwise_left_shift.Tensor",
    "sign": "sign",
    "signbit": "signbit",
    "sin": "sin",
    "sinh": "sinh",
    "sqrt": "sqrt",
    "sub": "sub.Tensor",
    "tan": "tan",
    "tanh": "tanh",
    "trunc": "trunc",
    "view_of": "alias",
    "where": "where.self",
}
for _name, _same in _SAME.items():
    _key = f"aten.{_same}" if "." in _same else f"aten.{_same}.default"
    aten(_name, namespace="prims")(IMPORTERS[_key])


@aten("div", namespace="prims")
def _div(c: Context, x: Operand, y: Operand) -> Value:
    """Integers truncate."""
    return c(ew.Div(), *c.operands(x, y))


@aten("convert_element_type", namespace="prims")
def _convert(c: Context, x: Value, dtype: torch.dtype) -> Value:
    return c.value(x, c.dtype)


@aten("broadcast_in_dim", namespace="prims")
def _broadcast_in_dim(c: Context, x: Value, shape: Sequence[int], dims: Sequence[int]) -> Value:
    view = [1] * len(shape)
    for axis, n in zip(dims, x.type.shape, strict=True):
        view[axis] = n
    return c.e.broadcast(c.e.reshape(x, view), c.shape)


@aten("transpose", namespace="prims")
def _transpose(c: Context, x: Value, permutation: Sequence[int]) -> Value:
    return c.e.transpose(x, permutation)


@aten("squeeze", "reshape", "collapse_view", "split_dim", namespace="prims")
def _reshape(c: Context, x: Value, *rest: Any) -> Value:
    return c.e.reshape(x, c.shape)


@aten("sum", "prod", "amax", "amin", namespace="prims")
def _reduce(c: Context, x: Value, dims: Sequence[int], **options: Any) -> Value:
    if not dims:
        return c.value(x, c.dtype)
    name = str(c.node.target).split(".")[1]
    key = {"sum": "aten.sum.dim_IntList", "prod": "aten.prod.dim_int"}.get(name, f"aten.{name}.default")
    result: Value = IMPORTERS[key](c, x, list(dims))
    return result


@aten("fill", namespace="prims")
def _fill(c: Context, x: Value, value: Operand) -> Value:
    return c.e.broadcast(c.value(value, c.dtype), c.shape)
