"""The pass manager: order, records, dumps, validation, errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from hardy.compiler.cli.output import console
from hardy.compiler.cli.tables import print_passes
from hardy.compiler.errors import GraphError, MismatchError, UsageError
from hardy.compiler.ir import Builder, Graph, Node
from hardy.compiler.notes import note
from hardy.compiler.ops.elementwise import Abs, Add, Cast, Mul, Neg
from hardy.compiler.pipeline import Dump, Pass, Pipeline, Validate, random_inputs, sqnr
from hardy.compiler.text import parse_graph, print_graph
from hardy.compiler.types import DType, TensorType
from hardy.passes import Simplify, passes_by_name

F32 = TensorType(DType.f32, (4,))


def example() -> Graph:
    b = Builder()
    x = b.input("x", F32)
    y = b(Neg(), b(Neg(), x))
    return b.finish({"y": b(Add(), b(Mul(), y, b.constant(torch.arange(4.0))), b.scalar(0, DType.f32))})


@dataclass(frozen=True)
class Nothing(Pass):
    """Does nothing."""

    times: int = 1

    def run(self, graph: Graph) -> Graph:
        return graph


@dataclass(frozen=True)
class Offset(Pass):
    """Adds an error to every output, and owns up to it."""

    amount: float
    exact: ClassVar[bool] = False

    def run(self, graph: Graph) -> Graph:
        b = Builder(graph.name)
        inputs = [b.input(n, t) for n, t in graph.input_types().items()]
        values = b.inline(graph, inputs)
        moved = [b(Add(), v, b.scalar(self.amount, v.type.dtype)) for v in values]
        return b.finish(dict(zip(graph.output_names, moved, strict=True)))


@dataclass(frozen=True)
class SecretOffset(Offset):
    """Adds an error, and says it is exact."""

    exact: ClassVar[bool] = True


@dataclass(frozen=True)
class Broken(Pass):
    """Stores a wrong type."""

    def run(self, graph: Graph) -> Graph:
        *rest, last = graph.nodes
        wrong = Node(last.op, last.operands, (TensorType(DType.f64, (4,)),))
        return graph.with_nodes([*rest, wrong], [wrong.values[0]])


def test_passes_are_named_after_their_class_or_say_their_name() -> None:
    assert Nothing.name == "nothing"
    assert SecretOffset.name == "secret_offset"
    assert passes_by_name()["group"].__name__ == "FormGroups"


def test_each_pass_leaves_a_record() -> None:
    records = Pipeline((Nothing(2), Simplify())).run(example()).records
    first, second = records
    assert (first.index, first.name, first.options, first.changed) == (1, "nothing", {"times": 2}, False)
    assert first.rewrites == {}
    assert (second.before.nodes, second.after.nodes) == (4, 1)
    assert (second.after.parameters, second.after.bytes, second.after.macs) == (4, 16, 0)
    assert second.rewrites == {"Involution": 1, "Neutral": 1}
    assert second.changed
    assert second.seconds > 0


def test_a_limit_stops_all_rewriting() -> None:
    for limit, nodes in ((0, 4), (1, 2), (2, 1), (3, 1)):
        result = Pipeline((Simplify(), Simplify())).run(example(), limit=limit)
        assert result.records[-1].after.nodes == nodes
        assert sum(sum(r.rewrites.values()) for r in result.records) == min(limit, 2)


def test_a_pipeline_stops_after_a_pass() -> None:
    result = Pipeline((Nothing(), Simplify(), Nothing())).run(example(), stop_after="simplify")
    assert [r.name for r in result.records] == ["nothing", "simplify"]


def test_stopping_after_an_unknown_pass_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="no pass 'typo'") as caught:
        Pipeline((Nothing(), Simplify())).run(example(), stop_after="typo")
    assert caught.value.hint == "it has nothing, simplify"


def test_a_pass_that_breaks_the_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="shape rule") as caught:
        Pipeline((Nothing(), Broken())).run(example(), [Dump(tmp_path)])
    assert caught.value.where.startswith("pass 2 (broken); ")
    assert str(tmp_path / "02-broken.ir") in caught.value.where
    assert print_graph(example()) == (tmp_path / "02-broken.before.ir").read_text()


def test_an_error_of_any_kind_names_the_pass() -> None:
    @dataclass(frozen=True)
    class Fails(Pass):
        """Fails."""

        def run(self, graph: Graph) -> Graph:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        Pipeline((Fails(),)).run(example())
    assert caught.value.__notes__ == ["in pass 1 (fails)"]


def test_dump_writes_every_stage_and_a_summary(tmp_path: Path) -> None:
    result = Pipeline((Nothing(), Simplify())).run(example(), [Dump(tmp_path / "new" / "folder")])
    folder = tmp_path / "new" / "folder"
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["00-input.ir", "01-nothing.ir", "02-simplify.ir", "summary.json"]
    text = (folder / "02-simplify.ir").read_text()
    assert print_graph(parse_graph(text, {c.digest: c for c in result.graph.constants()})) == text
    summary = json.loads((folder / "summary.json").read_text())
    assert [row["name"] for row in summary] == ["nothing", "simplify"]
    assert summary[1]["rewrites"] == {"Involution": 1, "Neutral": 1}


def test_what_a_pass_notes_is_in_its_record_alone(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Notes(Pass):
        """Says how many nodes there are."""

        def run(self, graph: Graph) -> Graph:
            note("nodes", len(graph.nodes))
            return graph

    note("outside", "of a pipeline is dropped")
    first, second = Pipeline((Notes(), Nothing())).run(example(), [Validate(), Dump(tmp_path)]).records
    assert first.notes == {"nodes": len(example().nodes)}
    assert second.notes == {}
    assert json.loads((tmp_path / "summary.json").read_text())[0]["notes"] == first.notes


def test_notes_are_shown_below_the_table_of_passes(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Notes(Pass):
        """Notes a figure and a table."""

        def run(self, graph: Graph) -> Graph:
            note("share", 0.25)
            note("layers", [{"layer": "conv", "zeros": 12}, {"layer": "linear", "zeros": 3456}])
            return graph

    (record,) = Pipeline((Notes(),)).run(example()).records
    print_passes(console(), [record.to_json()])
    below = capsys.readouterr().out.partition("notes: share: 0.25\n")[2].split()
    assert below[:4] == ["notes:", "layers", "layer", "zeros"]
    assert below[-4:] == ["conv", "12", "linear", "3,456"]


def test_validate_passes_what_is_exact() -> None:
    record = Pipeline((Simplify(),)).run(example(), [Validate()]).records[0]
    assert record.notes == {"largest_difference": {"y": 0.0}}


def test_validate_catches_a_pass_that_is_not_exact() -> None:
    with pytest.raises(MismatchError, match="secret_offset changes output 'y'") as caught:
        Pipeline((SecretOffset(1e-3),)).run(example(), [Validate()])
    assert "pass 1 (secret_offset)" in caught.value.where


def test_validate_holds_small_errors_against_the_start() -> None:
    # Each step is within the tolerance; together they are not.
    with pytest.raises(MismatchError):
        Pipeline((SecretOffset(8e-6),) * 50).run(example(), [Validate()])


def test_validate_reports_the_noise_of_a_lossy_pass_and_goes_on_from_there() -> None:
    records = Pipeline((Offset(0.1), Simplify())).run(example(), [Validate()]).records
    (noise,) = records[0].notes["sqnr_db"].values()
    expected = example()
    x = random_inputs(expected.input_types())["x"]
    assert noise == pytest.approx(sqnr(x * torch.arange(4.0), x * torch.arange(4.0) + 0.1))
    assert records[1].notes["largest_difference"] == {"y": 0.0}


def test_validate_takes_given_inputs() -> None:
    @dataclass(frozen=True)
    class DropAbs(Pass):
        """Takes all inputs to be positive."""

        def run(self, graph: Graph) -> Graph:
            return graph.with_nodes(graph.nodes[:1], graph.inputs)

    b = Builder()
    graph = b.finish({"y": b(Abs(), b.input("x", F32))})
    Pipeline((DropAbs(),)).run(graph, [Validate({"x": torch.tensor([1.0, 2, 3, 4])})])
    with pytest.raises(MismatchError, match=r"at \[1\] expected 2.0, got -2.0"):
        Pipeline((DropAbs(),)).run(graph, [Validate({"x": torch.tensor([1.0, -2, 3, 4])})])


def test_random_inputs_are_seeded_and_in_range() -> None:
    types = {
        "f": TensorType(DType.f32, (100,)),
        "ids": TensorType(DType.i64, (100,)),
        "u8": TensorType(DType.u8, (1000,)),
        "mask": TensorType(DType.boolean, (100,)),
        "i4": TensorType(DType.i4, (100,)),
    }
    a, b = random_inputs(types, 1), random_inputs(types, 1)
    assert all(torch.equal(a[n], b[n]) for n in types)
    assert not torch.equal(a["f"], random_inputs(types, 2)["f"])
    assert set(a["ids"].tolist()) == {0, 1}
    assert a["u8"].max() > 200
    assert a["i4"].min() >= -8
    assert a["i4"].max() <= 7
    assert {n: t.dtype for n, t in a.items()} == {n: t.dtype.torch for n, t in types.items()}


def test_sqnr_is_in_decibels() -> None:
    x = torch.ones(10)
    assert sqnr(x, x) == float("inf")
    assert sqnr(x, x + 0.1) == pytest.approx(20, abs=1e-3)
    assert sqnr(torch.zeros(3), x[:3]) == -float("inf")


def test_integers_must_be_equal_under_validation() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.i32, (4,)))
    graph = b.finish({"y": b(Cast(DType.i64), x)})
    with pytest.raises(MismatchError):
        Pipeline((SecretOffset(1),)).run(graph, [Validate()])
