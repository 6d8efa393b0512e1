"""What a pass has to say about what it did: figures for the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_current: ContextVar[dict[str, Any] | None] = ContextVar("notes", default=None)


def note(key: str, value: Any) -> None:
    """Put a figure under `key` into the record of the running pass; outside of a pipeline it is dropped.

    The value is what JSON can hold: numbers, text, lists and mappings of these. A list of mappings
    is shown as a table, one row each.
    """
    notes = _current.get()
    if notes is not None:
        notes[key] = value


@contextmanager
def taking_notes() -> Iterator[dict[str, Any]]:
    """What is noted inside, by key."""
    notes: dict[str, Any] = {}
    token = _current.set(notes)
    try:
        yield notes
    finally:
        _current.reset(token)
