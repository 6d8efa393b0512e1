"""Pass lists as text: `prune(sparsity=0.5), quantize, ...`, where `...` is the target's own pipeline."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import EllipsisType
from typing import Any

from hardy.compiler.errors import UsageError
from hardy.compiler.option_types import fits, option_types, spell_type, writable
from hardy.compiler.pipeline import Pass, changed_options
from hardy.compiler.types import DType

Listed = Pass | str | EllipsisType


def resolve_passes(listed: Iterable[Listed] | str | None, own: Sequence[Pass]) -> tuple[Pass, ...]:
    """The pipeline for what a caller listed: passes, their names with options, and `...` for `own`.

    None stands for `own`. UsageError names a pass or option that does not exist.
    """
    if listed is None:
        return tuple(own)
    if isinstance(listed, str):
        listed = split_list(listed)
    result: list[Pass] = []
    known: Mapping[str, type[Pass]] = {}
    for item in listed:
        if item is ... or item == "...":
            result.extend(own)
        elif isinstance(item, str):
            known = known or _all_passes()
            result.append(parse_pass(item, known))
        elif isinstance(item, Pass):
            result.append(item)
        else:
            raise UsageError(f"{item!r} is not a pass, the name of one, or `...`")
    return tuple(result)


def _all_passes() -> Mapping[str, type[Pass]]:
    from hardy.passes import passes_by_name

    return passes_by_name()


def split_list(text: str) -> list[str]:
    """The entries of a comma-separated list; commas inside brackets do not separate."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([") - (c in ")]")
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [p.strip() for p in parts if p.strip()]


def parse_pass(text: str, known: Mapping[str, type[Pass]]) -> Pass:
    """`name` or `name(option=value, ...)` as a pass; values are Python literals or element types."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"cannot read the pass {text!r}", hint="write name or name(option=value)") from error
    call = tree if isinstance(tree, ast.Call) else None
    name = call.func if call else tree
    if not isinstance(name, ast.Name) or (call and call.args):
        raise UsageError(f"cannot read the pass {text!r}", hint="write name or name(option=value)")
    if name.id not in known:
        raise UsageError(f"there is no pass {name.id!r}", hint=f"there are {', '.join(sorted(known))}")
    kind = known[name.id]
    fields = {f.name: f for f in dataclasses.fields(kind)}
    options: dict[str, Any] = {}
    for keyword in call.keywords if call else ():
        if keyword.arg not in fields:
            listing = ", ".join(fields) or "none"
            raise UsageError(
                f"the pass {name.id} has no option {keyword.arg!r}", hint=f"its options are {listing}"
            )
        options[keyword.arg] = _value(keyword.value, kind, keyword.arg)
    needed = [
        f.name
        for f in fields.values()
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in options
    ]
    if needed:
        raise UsageError(
            f"the pass {name.id} needs {', '.join(needed)}", hint=f"write {name.id}({needed[0]}=...)"
        )
    return kind(**options)


def _value(node: ast.expr, kind: type[Pass], option: str) -> Any:
    """The value of an option, of the type that the pass's field declares."""
    expected = option_types(kind)[option]
    if not writable(expected):
        raise UsageError(
            f"the option {option} of the pass {kind.name} cannot be written as text",
            hint=f"give it in Python: {kind.__name__}({option}=...)",
        )
    if isinstance(node, ast.Name) and node.id in {d.value for d in DType}:
        value: Any = DType(node.id)
    else:
        try:
            value = ast.literal_eval(node)
        except ValueError as error:
            raise UsageError(
                f"the value of {kind.name}'s option {option} is not a literal or an element type: "
                f"{ast.unparse(node)}",
                hint=f"it must be {spell_type(expected)}; text stands in quotes",
            ) from error
    if not fits(value, expected):
        raise UsageError(f"{kind.name}'s option {option} must be {spell_type(expected)}, got {value!r}")
    return value


def describe_pass(pass_: Pass) -> dict[str, Any]:
    """Name and options that are not at their default, in words that do not change from run to run."""
    return {"name": pass_.name, "options": changed_options(pass_)}
