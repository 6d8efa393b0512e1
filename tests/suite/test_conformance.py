"""The conformance cases on every target of this repository."""

from __future__ import annotations

import tomllib
import zlib
from pathlib import Path

import pytest

from hardy.compiler.conformance import Case, Verdict, all_cases, check_case
from hardy.targets.cpu.isa import by_name, missing_on_host

# Case names that a target refuses, with its reason. The list may only shrink.
REFUSED: dict[str, dict[str, str]] = tomllib.loads((Path(__file__).parent / "refused.toml").read_text())
WHOLE = ("reference", "cpu")
THIRDS = ("cpu:avx512", "cpu:avx2", "cpu:portable")


def run(target: str, cases: list[Case]) -> None:
    listed = REFUSED.get(target.partition(":")[0], {})
    wrong = []
    for c in cases:
        outcome = check_case(target, c)
        if outcome.verdict is Verdict.wrong:
            wrong.append(f"{c.name}: {outcome.reason}")
        elif outcome.verdict is Verdict.refused and c.name not in listed:
            wrong.append(f"{c.name} is refused: {outcome.reason}")
        elif outcome.verdict is Verdict.ok and c.name in listed:
            wrong.append(f"{c.name} passes now: take it off the list")
    assert not wrong, f"{len(wrong)} of {len(cases)} on {target}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("chunk", range(12))
@pytest.mark.parametrize("target", WHOLE)
def test_target_passes_every_case(target: str, chunk: int) -> None:
    run(target, list(all_cases()[chunk::12]))


@pytest.mark.parametrize("chunk", range(4))
@pytest.mark.parametrize("target", THIRDS)
def test_target_passes_a_fixed_third(target: str, chunk: int) -> None:
    missing = missing_on_host(by_name(target.partition(":")[2]))
    if missing:
        pytest.skip(f"this processor lacks {', '.join(missing)}")
    third = [c for c in all_cases() if zlib.crc32(c.name.encode()) % 3 == 0]
    run(target, third[chunk::4])


def test_the_refused_list_names_real_cases() -> None:
    names = {c.name for c in all_cases()}
    for target, cases in REFUSED.items():
        assert set(cases) <= names, target
