"""The types of passes' options: whether a value is of one, and whether one can be written as text."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

from hardy.compiler.errors import UsageError
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType

_PLAIN = (bool, int, float, str, DType, types.NoneType)
_SEQUENCES = (tuple, list, set)


@functools.cache
def option_types(kind: type[Pass]) -> Mapping[str, Any]:
    """A pass's fields and their types; UsageError where an annotation names what its module lacks."""
    try:
        return typing.get_type_hints(kind)
    except NameError as error:
        raise UsageError(
            f"the types of the options of the pass {kind.name} cannot be read: {error}",
            where=kind.__module__,
            hint="import it outside of `if TYPE_CHECKING`",
        ) from error


def writable(expected: Any) -> bool:
    """Whether some value of the type is a Python literal or an element type."""
    if _is_union(expected):
        return any(writable(e) and e is not types.NoneType for e in typing.get_args(expected))
    origin = typing.get_origin(expected) or expected
    return origin in (*_PLAIN, *_SEQUENCES, dict, Any, typing.Literal)


def fits(value: Any, expected: Any) -> bool:
    """Whether a literal is of a type: of the builtin ones, their containers and unions, and `Literal`."""
    origin, parts = typing.get_origin(expected), typing.get_args(expected)
    if _is_union(expected):
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if expected is Any:
        return True
    kind = origin or expected
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind not in (*_PLAIN, *_SEQUENCES, dict) or not isinstance(value, kind):
        return False
    if kind is tuple and parts and parts[-1] is not ...:
        return len(value) == len(parts) and all(map(fits, value, parts))
    if kind in _SEQUENCES and parts:
        return all(fits(v, parts[0]) for v in value)
    if kind is dict and parts:
        return all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    return True


def spell_type(expected: Any) -> str:
    """A type as people write it, without the parts that cannot be written as text."""
    if _is_union(expected):
        return " | ".join(
            spell_type(e) for e in typing.get_args(expected) if writable(e) or e is types.NoneType
        )
    if expected is types.NoneType:
        return "None"
    if isinstance(expected, type) and typing.get_origin(expected) is None:
        return expected.__name__
    return str(expected).removeprefix("typing.").replace("hardy.compiler.types.", "")


def _is_union(expected: Any) -> bool:
    return typing.get_origin(expected) in (typing.Union, types.UnionType)
