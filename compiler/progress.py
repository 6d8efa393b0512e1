"""How far long work has come, told from wherever it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Progress(Protocol):
    """Told what is being done: the step that starts, and how many of how many are done."""

    def __call__(self, step: str, done: int, total: int) -> None: ...


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def tell(step: str, done: int, total: int) -> None:
    """Tell whoever listens; `total` is `done` where the number of steps is not known."""
    listener = _current.get()
    if listener is not None:
        listener(step, done, total)


@contextmanager
def telling(listener: Progress | None) -> Iterator[None]:
    """What is told inside goes to the listener."""
    token = _current.set(listener)
    try:
        yield
    finally:
        _current.reset(token)
