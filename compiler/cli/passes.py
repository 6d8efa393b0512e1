"""`hardy passes`: what `--passes` may name."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from hardy.compiler.cli.options import Debug, Json

if TYPE_CHECKING:
    from hardy.compiler.pipeline import Pass


def passes(json: Json = False, debug: Debug = False) -> None:
    """List the passes, their options, and whether they keep the outputs."""
    from hardy.compiler.cli.output import console, print_json, table
    from hardy.passes import passes_by_name

    rows = [_describe(name, kind) for name, kind in sorted(passes_by_name().items())]
    if json:
        print_json({"passes": rows})
        return
    shown = table("pass", "outputs", "what it does", "options")
    shown.columns[0].min_width = max(len(row["name"]) for row in rows)
    for row in rows:
        options = ", ".join(k if v is None else f"{k}={v}" for k, v in row["options"].items())
        shown.add_row(row["name"], "kept" if row["exact"] else "changed", row["summary"], options)
    console().print(shown)


def _describe(name: str, kind: type[Pass]) -> dict[str, Any]:
    """Options that can be written in a list of passes map to the text of their default, None where
    there is none."""
    from hardy.compiler.option_types import option_types, writable

    options = {
        f.name: None if f.default is dataclasses.MISSING else _default(f.default)
        for f in dataclasses.fields(kind)
        if writable(option_types(kind)[f.name])
    }
    first = (kind.__doc__ or "").strip().splitlines()[:1]
    return {"name": name, "exact": kind.exact, "summary": "".join(first), "options": options}


def _default(value: object) -> str:
    return getattr(value, "__qualname__", None) or repr(value)
