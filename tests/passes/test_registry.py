"""Passes by name, built in and from other packages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Literal

import pytest

import hardy.passes
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.option_types import fits, option_types, spell_type, writable
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.passes import BUILT_IN, GroupPolicy, passes_by_name


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


def test_the_default_of_every_option_that_can_be_written_is_of_its_type() -> None:
    for kind in BUILT_IN:
        for f in dataclasses.fields(kind):
            expected = option_types(kind)[f.name]
            assert not writable(expected) or fits(f.default, expected), (kind.name, f.name)


@pytest.mark.parametrize(
    ("expected", "right", "wrong"),
    [
        (int, [3, -1], [True, 1.5, "3", None]),
        (float, [1.5, 1], [True, "1"]),
        (bool, [True], [1]),
        (str | None, ["a", None], [1]),
        (DType, [DType.i8], ["i8", 8]),
        (tuple[int, ...], [(), (1, 2)], [[1], (1, "a"), 1]),
        (tuple[int, str], [(1, "a")], [(1,), (1, 2), ("a", 1)]),
        (dict[str, float], [{}, {"a": 1}], [{1: 1.0}, {"a": "b"}]),
        (Literal["row", "column"], ["row"], ["diagonal", 1]),
        (Callable[[int], int] | tuple[str, ...], [("a",)], ["a", 1]),
    ],
)
def test_option_is_checked_against_the_type_of_the_field(
    expected: object, right: list[object], wrong: list[object]
) -> None:
    assert writable(expected)
    assert all(fits(value, expected) for value in right)
    assert not any(fits(value, expected) for value in wrong)


def test_what_only_python_can_give_cannot_be_written() -> None:
    assert not writable(Callable[[int], int])
    assert not writable(frozenset[str])
    assert not writable(GroupPolicy | None)
    assert spell_type(Callable[[int], int] | tuple[str, ...] | None) == "tuple[str, ...] | None"


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
