"""The target interface: what is refused before a target is used, and how its faults show."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from hardy.compiler.conformance import Verdict, all_cases, check_case
from hardy.compiler.errors import TargetError
from hardy.targets.reference.target import ReferenceTarget
from hardy.targets.target import Loaded, Runner, load_target


class Crashing(ReferenceTarget):
    """Fails with an error of its own when it loads a program."""

    def load(self, artifact: Loaded) -> Runner:
        raise KeyError("no such register")


def test_an_incomplete_target_is_refused_by_what_it_lacks() -> None:
    entry = EntryPoint("bare", "hardy.targets.target:Target", "hardy.targets")
    with pytest.raises(TargetError, match="does not define kind, summary, create, describe") as info:
        load_target(entry)
    assert info.value.where == entry.value


def test_a_class_that_is_no_target_is_refused() -> None:
    entry = EntryPoint("graph", "hardy.compiler.ir:Graph", "hardy.targets")
    with pytest.raises(TargetError, match="is not a subclass"):
        load_target(entry)


def test_a_crash_of_a_target_is_a_wrong_verdict_and_not_the_end() -> None:
    outcome = check_case(Crashing.create(""), all_cases()[0])
    assert outcome.verdict is Verdict.wrong
    assert "KeyError" in outcome.reason
    assert "no such register" in outcome.reason
