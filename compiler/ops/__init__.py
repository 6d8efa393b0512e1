"""The op set, one module a family. `OPS` maps the names that graphs print to the classes."""

from __future__ import annotations

import inspect
from types import ModuleType

from hardy.compiler import ir
from hardy.compiler.ops import (
    activation,
    attention,
    binary,
    dynamic,
    elementwise,
    group,
    linear,
    norm,
    pool,
    quant,
    recurrent,
    reduce,
    resize,
    shape,
    transcendental,
)

FAMILIES: tuple[ModuleType, ...] = (
    elementwise,
    transcendental,
    shape,
    reduce,
    linear,
    pool,
    activation,
    norm,
    attention,
    recurrent,
    quant,
    dynamic,
    binary,
    resize,
    group,
)


def ops_of(module: ModuleType) -> list[type[ir.Op]]:
    """The ops that a module defines, in order; its shared bases are left out."""
    classes = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, ir.Op)]
    own = [c for c in classes if c.__module__ == module.__name__]
    return [c for c in own if not any(issubclass(d, c) for d in own if d is not c)]


_ALL: list[type[ir.Op]] = [ir.Input, ir.Constant, *[op for module in FAMILIES for op in ops_of(module)]]
OPS: dict[str, type[ir.Op]] = {op.name: op for op in _ALL}
