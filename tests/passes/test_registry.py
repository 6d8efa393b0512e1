"""Passes by name, built in and from other packages."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

import hardy.passes
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.pipeline import Pass
from hardy.passes import BUILT_IN, passes_by_name


@dataclass(frozen=True)
class Foreign(Pass):
    """A pass of another package."""

    def run(self, graph: Graph) -> Graph:
        return graph


NOT_A_PASS = 3


def declare(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    entry = EntryPoint("foreign", value, "hardy.passes")
    monkeypatch.setattr(
        hardy.passes, "entry_points", lambda group: [entry] if group == "hardy.passes" else []
    )


def test_every_pass_has_its_own_name_and_says_what_it_does_in_one_line() -> None:
    named = passes_by_name()
    assert {named[p.name] for p in BUILT_IN} == set(BUILT_IN)
    for kind in BUILT_IN:
        assert kind.__doc__
        assert kind.__doc__.splitlines()[0].endswith("."), kind.name


def test_every_pass_has_defaults_for_its_options() -> None:
    for kind in BUILT_IN:
        assert kind() == kind()


def test_a_package_adds_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, f"{__name__}:Foreign")
    assert passes_by_name()["foreign"] is Foreign


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_package.passes:Foreign", "cannot be loaded: No module named"),
        (f"{__name__}:Missing", "cannot be loaded"),
        (f"{__name__}:NOT_A_PASS", "is not a subclass of Pass"),
    ],
)
def test_a_package_that_cannot_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    declare(monkeypatch, value)
    with pytest.raises(UsageError, match=message) as caught:
        passes_by_name()
    assert caught.value.where == value
