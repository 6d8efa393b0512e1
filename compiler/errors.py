"""Errors that people see: what failed, where, what was expected, what to do.

Every error hardy raises on purpose is a `HardyError`; the command line turns it into one
message and the class's exit code, without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class HardyError(Exception):
    """Something the user can act on.

    `where` names the op, source line, file or field at fault; `hint` says what would help.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            lines.append(f"  at: {self.where}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)


class UsageError(HardyError):
    """A command or call whose arguments do not make sense."""

    exit_code = 2


class ModelError(HardyError):
    """A model file or module that cannot be read or traced."""

    exit_code = 3


@dataclass(frozen=True)
class Refusal:
    """One node that is not taken: its op, source line, and why."""

    op: str
    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op} ({self.source or 'no source'}): {self.reason}"


class UnsupportedError(HardyError):
    """A valid construct that the frontend, pass or target does not take.

    `refusals` holds the nodes at fault, where the message is about nodes; it shows the first ten.
    """

    exit_code = 4

    def __init__(
        self, message: str, *, where: str = "", hint: str = "", refusals: Sequence[Refusal] = ()
    ) -> None:
        if refusals:
            message += f":{listing([str(r) for r in refusals])}"
        super().__init__(message, where=where, hint=hint)
        self.refusals = tuple(refusals)


class GraphError(HardyError):
    """A graph that breaks a rule of the IR."""

    exit_code = 5


class ArtifactError(HardyError):
    """An artifact that is damaged, of another version, or not for this machine."""

    exit_code = 6


class InputError(HardyError):
    """Run-time inputs that do not fit a graph's interface."""

    exit_code = 7


class TargetError(HardyError):
    """A target that is missing, misnamed or cannot work on this machine."""

    exit_code = 8


class MismatchError(HardyError):
    """Two computations of the same thing that differ by more than the tolerance."""

    exit_code = 9


def listing(items: Sequence[str], shown: int = 10) -> str:
    """Items for the end of a message, one a line, and how many more there are."""
    lines = [*items[:shown], *([f"and {len(items) - shown} more"] if len(items) > shown else [])]
    return "".join(f"\n    {line}" for line in lines)
