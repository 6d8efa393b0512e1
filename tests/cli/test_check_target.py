"""`hardy check-target`: targets by their class, and refusals by reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Hardy

# A target that takes all but what its argument names.
PICKY = """
from dataclasses import dataclass

from hardy.compiler.errors import TargetError
from hardy.targets.reference.target import ReferenceTarget
from hardy.targets.target import YES, no


@dataclass(frozen=True)
class Picky(ReferenceTarget):
    kind = "picky"
    summary = "refuses one op and narrow integers"
    refused: str = "tanh"

    @classmethod
    def create(cls, argument):
        if argument == "everything":
            raise TargetError("nothing would be left")
        return cls(argument or "tanh")

    @property
    def name(self):
        return f"picky:{self.refused}"

    def supports(self, node):
        if node.op.name == self.refused:
            return no(f"there is no {self.refused}")
        if any(t.dtype.value in ("i8", "u8") for t in node.types):
            return no("registers have 32 bits")
        return YES
"""


@pytest.fixture
def picky(tmp_path: Path) -> Path:
    (tmp_path / "picky.py").write_text(PICKY)
    return tmp_path / "picky.py"


@pytest.mark.parametrize("place", ["picky.py", "./picky.py", "picky"])
def test_a_class_that_no_package_declares_is_checked(hardy: Hardy, picky: Path, place: str) -> None:
    done = hardy("check-target", f"{place}:Picky", "--op", "tanh", "--op", "neg", "--json")
    assert done.code == 0, done.err
    verdicts = {(c["op"], c["dtype"]): c["verdict"] for c in done.json["cases"]}
    assert verdicts["tanh", "f32"] == "refused"
    assert verdicts["neg", "f32"] == "ok"


@pytest.mark.parametrize("place", ["picky.py", "picky"])
def test_what_follows_the_class_is_its_argument(hardy: Hardy, picky: Path, place: str) -> None:
    done = hardy("check-target", f"{place}:Picky:neg", "--op", "tanh", "--op", "neg", "--json")
    verdicts = {(c["op"], c["dtype"]): c["verdict"] for c in done.json["cases"]}
    assert verdicts["tanh", "f32"] == "ok"
    assert verdicts["neg", "f32"] == "refused"


def test_a_wrong_result_of_such_a_class_is_noticed(hardy: Hardy, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        PICKY.replace("class Picky", "class Wrong")
        + "    def load(self, artifact):\n        return Negated(super().load(artifact))\n\n\n"
        + "@dataclass(frozen=True)\nclass Negated:\n    inner: object\n\n"
        + "    def run(self, inputs):\n        return tuple(-t for t in self.inner.run(inputs))\n"
    )
    done = hardy("check-target", "wrong.py:Wrong", "--op", "floor", "--json")
    assert done.code == 1
    assert done.json["counts"]["wrong"] == len(done.json["cases"])


def test_a_file_may_import_its_neighbours_and_have_the_name_of_a_library(
    hardy: Hardy, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "picky_parts.py").write_text(PICKY)
    (folder / "numpy.py").write_text("from picky_parts import Picky\n")
    done = hardy("check-target", "other/numpy.py:Picky", "--op", "neg")
    assert done.code == 0, done.err
    assert "0 wrong" in done.out


def test_the_name_of_an_installed_target_wins_over_a_module(hardy: Hardy, tmp_path: Path) -> None:
    (tmp_path / "cpu.py").write_text("raise AssertionError('imported')\n")
    assert hardy("check-target", "cpu:portable", "--op", "neg").code == 0
    done = hardy("check-target", "cpu:Nothing", "--op", "neg")
    assert done.code == 8
    assert "portable" in done.err


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("absent.py:Picky", ["there is no file absent.py", "FILE.py:CLASS"]),
        ("picky.py", ["picky.py names no class", "FILE.py:CLASS"]),
        ("picky.py:", ["picky.py: names no class"]),
        ("picky.py:Pick", ["picky.py has no class 'Pick'", "picky.py defines Picky"]),
        ("picky.py:TargetError", ["TargetError is not a subclass of hardy.Target"]),
        ("picky.py:PICK", ["PICK is not a subclass of hardy.Target"]),
        ("picky.py:Picky:everything", ["nothing would be left"]),
        ("half.py:Half", ["Half does not define summary, describe, load, passes, stages", "new-target.md"]),
        ("broken.py:Broken", ["broken.py cannot be loaded: ValueError: no such device", "broken.py:3"]),
        ("typo.py:Typo", ["typo.py cannot be loaded: SyntaxError", "typo.py:2"]),
        ("needy.py:Needy", ["needy.py cannot be loaded: ModuleNotFoundError", "'not_there'"]),
        ("needy:Needy", ["needy cannot be loaded: ModuleNotFoundError", "'not_there'"]),
        ("not_there:Needy", ["no target and no module 'not_there'", "reference"]),
        ("picky:Pick", ["picky has no class 'Pick'", "picky defines Picky"]),
        ("abacus", ["there is no target 'abacus'", "reference"]),
    ],
)
def test_what_is_no_target_is_named(hardy: Hardy, picky: Path, name: str, messages: list[str]) -> None:
    picky.write_text(PICKY + "PICK = 3\n")
    Path("half.py").write_text(
        "from hardy import Target\n\n\nclass Half(Target):\n    kind = name = 'half'\n"
        "    def create(self): ...\n    def supports(self): ...\n"
    )
    Path("broken.py").write_text("from hardy import Target\n\nraise ValueError('no such device')\n")
    Path("typo.py").write_text("x = 1\nclass Typo(:\n")
    Path("needy.py").write_text("import not_there\n")
    done = hardy("check-target", name, "--op", "neg")
    assert done.code == 8
    assert not done.out
    for message in messages:
        assert message in done.err


def test_refusals_are_counted_by_reason_with_a_few_examples(hardy: Hardy, picky: Path) -> None:
    chosen = ["--op", "tanh", "--op", "neg", "--op", "abs", "--op", "add"]
    done = hardy("check-target", "picky.py:Picky", *chosen, "--json")
    groups = {g["reason"]: g["cases"] for g in done.json["refusals"]}
    refused = [c for c in done.json["cases"] if c["verdict"] == "refused"]
    assert set(groups) == {"there is no tanh", "registers have 32 bits"}
    assert groups["there is no tanh"] == [c["name"] for c in refused if c["op"] == "tanh"]
    narrow = groups["registers have 32 bits"]
    assert narrow == [c["name"] for c in refused if c["dtype"] in ("i8", "u8")]
    sizes = [len(g["cases"]) for g in done.json["refusals"]]
    assert sizes == sorted(sizes, reverse=True)

    table = hardy("check-target", "picky.py:Picky", *chosen).out
    (line,) = [line for line in table.splitlines() if "registers have 32 bits" in line]
    assert f" {len(narrow)} " in line
    assert [n for n in narrow if f" {n}" in line] == ["neg-i8_5x19", "abs-i8_5x19", "add-i8_4x33-i8_4x33"]
    listed = hardy("check-target", "picky.py:Picky", *chosen, "--list-refused").out
    assert all(f"    {n}\n" in listed for n in narrow)


def test_a_case_is_listed_under_each_of_its_reasons(hardy: Hardy, picky: Path) -> None:
    picky.write_text(PICKY.replace("return YES", "return YES if node.op.name == 'input' else no('no ops')"))
    done = hardy("check-target", "picky.py:Picky", "--case", "neg-i8_5x19", "--json")
    assert {g["reason"] for g in done.json["refusals"]} == {"registers have 32 bits"}
    done = hardy("check-target", "picky.py:Picky", "--case", "less-i8", "--json")
    assert {g["reason"]: len(g["cases"]) for g in done.json["refusals"]} == {
        "registers have 32 bits": 1,
        "no ops": 1,
    }
