"""torch's operator tests through the frontend and the reference interpreter."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hardy.compiler.errors import HardyError, MismatchError
from tests.opinfo.harness import ALL_ENTRIES, ENTRIES, check, samples

# Entry -> words of the error, or several such where samples are refused for different reasons.
Table = dict[str, str | list[str]]
TABLE = tomllib.loads((Path(__file__).parent / "refused.toml").read_text())
REFUSED: Table = TABLE["refused"]
PARTLY: Table = TABLE["partly"]
NOT_RUN: Table = TABLE["not_run"]


def check_entry(name: str, *, thorough: bool) -> None:
    """Every sample agrees with torch, or is refused for the reason in the table."""
    refusals: list[HardyError] = []
    passed = 0
    for sample in samples(name, thorough=thorough):
        try:
            check(sample)
            passed += 1
        except MismatchError:
            raise
        except HardyError as error:
            refusals.append(error)
    listed = REFUSED.get(name) or PARTLY.get(name) or []
    reasons = [listed] if isinstance(listed, str) else listed
    for error in refusals:
        assert any(r in str(error) for r in reasons), f"the table says {reasons} of {name}, not {error}"
    if name in REFUSED:
        assert passed == 0, f"{passed} samples of {name} pass: remove it from the table, or list it as partly"
    elif name in PARTLY and thorough:
        assert refusals, f"{name} passes: remove it from the table"
        assert passed, f"{name} is refused whole"


@pytest.mark.parametrize("name", sorted(set(ENTRIES) - set(NOT_RUN)))
def test_samples_agree_with_torch(name: str) -> None:
    check_entry(name, thorough=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ENTRIES) - set(NOT_RUN)))
def test_many_samples_agree_with_torch(name: str) -> None:
    check_entry(name, thorough=True)


def test_table_names_only_entries_of_torch_and_each_once() -> None:
    names = [*REFUSED, *PARTLY, *NOT_RUN]
    assert len(names) == len(set(names))
    assert set(names) <= set(ALL_ENTRIES)
    assert set(ALL_ENTRIES) - set(ENTRIES) <= set(NOT_RUN), "entries without float32 samples are not run"


def test_most_of_torchs_entries_are_taken() -> None:
    assert len(ENTRIES) - len(REFUSED) - len(set(NOT_RUN) & set(ENTRIES)) >= 450
