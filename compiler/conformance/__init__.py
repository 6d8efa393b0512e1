"""The conformance kit: one small program for each op, type and corner, for any target to pass."""

from __future__ import annotations

from hardy.compiler.conformance.case import Case, case
from hardy.compiler.conformance.cases import all_cases
from hardy.compiler.conformance.check import Outcome, Verdict, check_case

__all__ = ["Case", "Outcome", "Verdict", "all_cases", "case", "check_case"]
