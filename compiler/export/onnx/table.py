"""The one table from ops to their writers."""

from __future__ import annotations

from hardy.compiler.export.onnx import (
    activation,
    elementwise,
    linear,
    norm,
    pool,
    quant,
    reduce,
    shape,
    transcendental,
)
from hardy.compiler.export.onnx.writer import Writer
from hardy.compiler.ir import Op

FAMILIES = (
    elementwise,
    transcendental,
    activation,
    shape,
    reduce,
    linear,
    pool,
    norm,
    quant,
)

WRITERS: dict[type[Op], Writer] = {op: writer for family in FAMILIES for op, writer in family.WRITERS.items()}
