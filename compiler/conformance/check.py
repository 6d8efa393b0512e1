"""Runs conformance cases on a target."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch

from hardy.compiler.conformance.case import Case
from hardy.compiler.errors import HardyError, MismatchError, Refusal, UnsupportedError
from hardy.compiler.tolerance import require_close
from hardy.targets.target import Target


class Verdict(enum.Enum):
    """How a case ended: right, refused with a reason, or wrong (which includes any crash)."""

    ok = "ok"
    refused = "refused"
    wrong = "wrong"


@dataclass(frozen=True)
class Outcome:
    """How a case ended; `reason` is the whole message, `refusals` the nodes that were not taken."""

    case: Case
    verdict: Verdict
    reason: str = ""
    refusals: tuple[Refusal, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """The distinct reasons of a refusal, without op and source, which differ from case to case."""
        return tuple(dict.fromkeys(r.reason for r in self.refusals)) or (self.reason,)


def check_case(target: str | Target, case: Case) -> Outcome:
    """Compile, run and compare one case.

    A target may refuse with UnsupportedError before it lowers anything; every other error, and
    every result that differs from the reference by more than the tolerance, is wrong.
    """
    from hardy.compiler.driver import compile

    try:
        artifact = compile(case.graph, target=target)
        results = artifact.run(dict(case.inputs))
        for name, expected in case.expected().items():
            _require_result(name, expected, results)
    except UnsupportedError as error:
        return Outcome(case, Verdict.refused, error.message, error.refusals)
    except HardyError as error:
        return Outcome(case, Verdict.wrong, str(error))
    except Exception as error:  # whatever a target under test raises is its verdict
        return Outcome(case, Verdict.wrong, f"{type(error).__name__}: {error}")
    return Outcome(case, Verdict.ok)


def _require_result(name: str, expected: torch.Tensor, results: dict[str, torch.Tensor]) -> None:
    if name not in results:
        raise MismatchError(f"the result {name!r} is missing")
    require_close(name, expected, results[name], scaled=True)
