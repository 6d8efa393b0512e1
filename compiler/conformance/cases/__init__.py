"""The cases, one module a family of ops, named as in `hardy.compiler.ops`."""

from __future__ import annotations

import functools

from hardy.compiler.conformance.case import Case
from hardy.compiler.conformance.cases import (
    activation,
    attention,
    binary,
    elementwise,
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

FAMILIES = (
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
    binary,
    resize,
)


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """Every case, in the order of the families."""
    return tuple(c for family in FAMILIES for c in family.cases())
