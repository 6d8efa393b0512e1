"""What a pass that makes a graph cheaper may expect of it, as notes for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardy.compiler.cost import estimate_seconds, statistics
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph, Node
from hardy.compiler.notes import note
from hardy.targets.target import Target, find_target


def as_target(given: object) -> Target | None:
    """A pass's option `target`: a target, the name of one, or None."""
    if isinstance(given, str):
        return find_target(given)
    if given is None or isinstance(given, Target):
        return given
    raise UsageError(f"the option target must be a target or its name, got {type(given).__name__}")


def note_expected(
    before: Graph,
    after: Graph,
    target: Target | None,
    *,
    figures: Mapping[str, tuple[float, float]] | None = None,
    done: Mapping[Node, float] | None = None,
) -> None:
    """Note MACs, bytes of constants and, where the target states its speed, seconds before and after.

    `figures` adds or replaces some; `done` is the share of a node's multiplications that the target
    does not skip in `after`.
    """
    old, new = statistics(before), statistics(after)
    rows: dict[str, tuple[float, float]] = {
        "MACs": (old.macs, new.macs),
        "bytes": (old.bytes, new.bytes),
        **(figures or {}),
    }
    if target is not None:
        device = target.describe()
        was = estimate_seconds(before, device, target.cost)
        now = estimate_seconds(after, device, target.cost, done)
        if was is not None and now is not None:
            rows[f"seconds on {device.name}"] = (was, now)
    note("expected", [_row(name, *pair) for name, pair in rows.items()])


def _row(name: str, before: float, after: float) -> dict[str, Any]:
    return {"expected": name, "before": before, "after": after, "share": after / before if before else 1.0}
