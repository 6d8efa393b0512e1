"""Facts about ops that several passes need."""

from __future__ import annotations

import functools

from hardy.compiler.ir import Op
from hardy.compiler.ops.activation import Mod
from hardy.compiler.ops.elementwise import (
    Binary,
    Bitwise,
    Cast,
    Comparison,
    IsNan,
    ShiftLeft,
    ShiftRight,
    Unary,
    Where,
)
from hardy.compiler.ops.norm import BatchNorm
from hardy.compiler.ops.quant import Dequantize, Quantize, Requantize, RequantizeShift

_ELEMENTWISE = (Unary, Binary, Comparison, Bitwise, IsNan, ShiftLeft, ShiftRight, Where, Cast, Mod)
_ALONG_AXIS = (BatchNorm, Quantize, Dequantize, Requantize, RequantizeShift)


@functools.cache
def broadcasts(op: type[Op]) -> bool:
    """Whether each result element depends on one element of each operand, which broadcast."""
    return issubclass(op, _ELEMENTWISE)


@functools.cache
def along_axis(op: type[Op]) -> bool:
    """Whether each result element depends on one element of the first operand, and on the entries
    of the others (vectors along the op's `axis`, or scalars) for it."""
    return issubclass(op, _ALONG_AXIS)


def is_elementwise(op: Op) -> bool:
    """Either kind; a blocked quantization is neither."""
    return broadcasts(type(op)) or (along_axis(type(op)) and not getattr(op, "block", 0))
