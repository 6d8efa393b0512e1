"""ONNX's own suite: what is not listed as failing must pass, and what is listed must fail."""

from __future__ import annotations

import pytest

from tests.onnx.suite import SUITES, Case, cases, known_failures, run, unstable

# The node suite holds this many cases with a basic, static interface; onnxruntime 1.31 passes 1245.
NODE_CASES = 1365
NODE_CASES_TO_PASS = 1245
PARTS = 12


def check(selected: list[Case], suite: str, target: str) -> None:
    known = known_failures(suite, target)
    outcome = run(selected, target)
    print(f"{suite} on {target}: {outcome.passed} of {len(selected)} pass")
    unexpected = outcome.unexpected(known)
    assert not unexpected, f"{len(unexpected)} cases fail that are not listed:\n" + "\n".join(unexpected)
    names = {case.name for case in selected}
    mended = sorted(names & set(known) - set(outcome.failures) - unstable(suite))
    assert not mended, f"these cases pass now; take them off the list: {', '.join(mended)}"


@pytest.mark.parametrize("suite", SUITES)
def test_reference_passes_every_case_that_is_not_listed(suite: str) -> None:
    check(list(cases(suite)), suite, "reference")


# The parts 0, 3, 6 and 9 are a fixed third.
@pytest.mark.parametrize(
    "part", [pytest.param(p, marks=() if p % 3 == 0 else pytest.mark.slow) for p in range(PARTS)]
)
def test_cpu_passes_every_node_case_that_is_not_listed(part: int) -> None:
    selected = [case for case in cases("node") if case.chunk(PARTS) == part]
    check(selected, "node", "cpu")


def test_the_list_leaves_at_least_as_many_cases_as_onnxruntime_passes() -> None:
    assert len(cases("node")) == NODE_CASES
    for target in ("reference", "cpu"):
        assert NODE_CASES - len(known_failures("node", target)) >= NODE_CASES_TO_PASS


@pytest.mark.parametrize("target", ["reference", "cpu"])
@pytest.mark.parametrize("suite", SUITES)
def test_the_list_names_only_cases_that_exist_and_gives_reasons(suite: str, target: str) -> None:
    known = known_failures(suite, target)
    assert set(known) <= {case.name for case in cases(suite)}
    assert all(reason.strip() for reason in known.values())
