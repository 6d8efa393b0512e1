"""Counts rewrites, and stops them: how a wrong one is found by bisection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Ledger:
    """Counts rewrites by label. After `limit` of them none is allowed any more, which is how a bad
    rewrite is found by bisection."""

    limit: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    total: int = 0

    def take(self, label: str) -> bool:
        """Count one rewrite; False, counting nothing, where the limit is reached."""
        if self.limit is not None and self.total >= self.limit:
            return False
        self.total += 1
        self.counts[label] = self.counts.get(label, 0) + 1
        return True


_current: ContextVar[Ledger | None] = ContextVar("ledger", default=None)


def ledger() -> Ledger:
    """The ledger that rewrites are counted in here; outside `recording`, a new one without a limit."""
    return _current.get() or Ledger()


@contextmanager
def recording(book: Ledger) -> Iterator[Ledger]:
    """Rewrites made inside are counted in `book`."""
    token = _current.set(book)
    try:
        yield book
    finally:
        _current.reset(token)
