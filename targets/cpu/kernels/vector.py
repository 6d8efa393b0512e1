"""Folding vectors: maximum, minimum, sum and product, across vectors and down to one number."""

from __future__ import annotations

from typing import Literal

import numpy as np
from tvm import tirx

from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Code, Expr

# `greatest` is a maximum that may lose NaN, in fewer instructions.
Fold = Literal["max", "min", "sum", "product", "greatest"]


def identity(fold: Fold, dtype: str, lanes: int) -> Expr:
    """The value that changes no fold."""
    if fold in ("sum", "product"):
        return emit.const(int(fold == "product"), dtype, lanes)
    if dtype.startswith("float"):
        return emit.const(float("-inf") if fold != "min" else float("inf"), dtype, lanes)
    info = np.iinfo(dtype)
    return emit.const(int(info.min if fold != "min" else info.max), dtype, lanes)


def combine(fold: Fold, acc: Expr, x: Expr) -> Expr:
    """One step of a fold; maximum and minimum keep NaN."""
    if fold == "sum":
        return acc + x
    if fold == "product":
        return acc * x
    if fold == "greatest":
        return tirx.Max(acc, x)
    if emit.type_of(x).startswith("float"):
        name = "llvm.maximum" if fold == "max" else "llvm.minimum"
        return emit.intrinsic(str(x.ty.dtype), name, acc, x)
    return tirx.Max(acc, x) if fold == "max" else tirx.Min(acc, x)


def across(code: Code, fold: Fold, value: Expr) -> Expr:
    """The fold of a vector's lanes, by halves: a scalar variable. Lanes must be a power of two."""
    value = code.let(value)
    lanes = emit.lanes_of(value)
    if lanes == 1:
        return value
    half = lanes // 2
    low = code.let(tirx.Shuffle([value], list(range(half))))
    high = code.let(tirx.Shuffle([value], list(range(half, lanes))))
    return across(code, fold, combine(fold, low, high))
