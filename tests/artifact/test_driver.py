"""The way from a graph to an artifact: passes chosen, run, checked, dumped, reported."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import hardy
from hardy.compiler.driver import _validate_program, compile_model
from hardy.compiler.errors import MismatchError, TargetError, UnsupportedError, UsageError
from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.models import Binding
from hardy.compiler.ops.elementwise import Add, Neg, Sub
from hardy.compiler.pass_list import describe_pass, parse_pass, resolve_passes, split_list
from hardy.compiler.pipeline import Pass, sqnr
from hardy.compiler.types import DType
from hardy.passes import LowerQuantization
from hardy.targets.reference.target import ReferenceTarget
from hardy.targets.target import YES, Package, QuantizationScheme, Stage, Support, find_target, no


@dataclass(frozen=True)
class AddToSub(Pass):
    """x + y as x - (-y)."""

    note: str = ""

    def run(self, graph: Graph) -> Graph:
        def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            return [b(Sub(), operands[0], b(Neg(), operands[1]))] if isinstance(node.op, Add) else None

        return transform(graph, rewrite)


@dataclass(frozen=True)
class WrongSign(Pass):
    """x + y as x - y: claims to be exact and is not."""

    def run(self, graph: Graph) -> Graph:
        def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            return [b(Sub(), *operands)] if isinstance(node.op, Add) else None

        return transform(graph, rewrite)


@dataclass(frozen=True)
class Calibrated(Pass):
    """Changes nothing, with data."""

    dtype: DType
    calibration: object = None
    level: float = 0.5

    def run(self, graph: Graph) -> Graph:
        return graph


KNOWN: dict[str, type[Pass]] = {p.name: p for p in (AddToSub, WrongSign, Calibrated)}


class Picky(ReferenceTarget):
    """The reference without `add`, which its own pass removes, in two stages."""

    def supports(self, node: Node) -> Support:
        return no("adding is beyond it") if isinstance(node.op, Add) else YES

    def passes(self) -> tuple[Pass, ...]:
        return (AddToSub(),)

    def stages(self) -> tuple[Stage, ...]:
        (last,) = super().stages()
        return (Stage("look", lambda graph: graph, lambda graph: {"sub/graph.txt": graph.name}), last)


class Liar(ReferenceTarget):
    """Runs another graph than the one it was given."""

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("lie", lambda graph: Package({}, {}, {}), lambda package: {}),)

    def load(self, artifact: Any) -> Any:
        return super().load(_Other(WrongSign().run(artifact.graph)))


@dataclass(frozen=True)
class _Other:
    graph: Graph
    folder: Any = None
    manifest: Any = None
    weights: Any = None


def test_target_passes_run_and_are_reported(graph: Graph, x: torch.Tensor) -> None:
    artifact = hardy.compile(graph, target=Picky())
    torch.testing.assert_close(artifact.run(x=x)["y"], hardy.compile(graph, target="reference").run(x=x)["y"])
    (row,) = artifact.report["passes"]
    assert row["name"] == "add_to_sub"
    assert row["changed"] is True
    assert row["after"]["nodes"] == row["before"]["nodes"] + 1
    assert "seconds" not in row
    assert list(artifact.passes) == ["00-input.ir", "01-add_to_sub.ir"]
    assert "neg(" in artifact.passes["01-add_to_sub.ir"]


def test_listed_passes_replace_the_targets_own_unless_they_say_dots(graph: Graph) -> None:
    with pytest.raises(UnsupportedError, match="adding is beyond it") as caught:
        hardy.compile(graph, target=Picky(), passes=[])
    assert "`...`" in caught.value.hint
    artifact = hardy.compile(graph, target=Picky(), passes=[Calibrated(DType.i8), ...])
    assert [row["name"] for row in artifact.manifest["options"]["passes"]] == ["calibrated", "add_to_sub"]


def test_calibration_reaches_the_passes_that_take_it(graph: Graph) -> None:
    data = [torch.zeros(2, 16)]
    with pytest.raises(UsageError, match="no pass takes the calibration data"):
        hardy.compile(graph, target="reference", calibration=data)
    from hardy.compiler.driver import plan_passes

    planned = plan_passes(ReferenceTarget(), [Calibrated(DType.i8), AddToSub()], data)
    assert planned[0] == Calibrated(DType.i8, data)
    assert planned[1] == AddToSub()


@dataclass(frozen=True)
class Schemed(Pass):
    """Changes nothing, with a scheme and a number of samples."""

    scheme: QuantizationScheme | None = None
    samples: int | None = None

    def run(self, graph: Graph) -> Graph:
        return graph


def test_the_targets_scheme_reaches_the_passes_that_take_it_and_have_none() -> None:
    from hardy.compiler.driver import plan_passes

    own = QuantizationScheme(DType.i8, DType.i8, True, False)
    planned = plan_passes(find_target("cpu:avx2"), [Schemed(), Schemed(own), AddToSub()], samples=7)
    assert planned == (
        Schemed(find_target("cpu:avx2").describe().quantization, 7),
        Schemed(own, 7),
        AddToSub(),
    )
    assert plan_passes(ReferenceTarget(), [Schemed()]) == (Schemed(),)
    with pytest.raises(UsageError, match="no pass takes the number of samples"):
        plan_passes(ReferenceTarget(), [AddToSub()], samples=7)
    assert describe_pass(Schemed(own))["options"]["scheme"]["activations"] == "i8"


def test_a_preset_is_a_list_of_passes_around_the_targets_own() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)).eval()
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    artifact = hardy.compile(module, (x,), target="reference", preset="int8", calibration=[x, -x], samples=1)
    names = [row["name"] for row in artifact.manifest["options"]["passes"]]
    assert names[-1] == "quantize"
    assert {n.operands[0].type.dtype for n in artifact.graph.nodes if n.op.name == "dequantize"} == {
        DType.u8,
        DType.i8,
    }
    (actual,) = artifact.run(dict.fromkeys(artifact.inputs, x)).values()
    assert sqnr(module(x).detach(), actual) > 25
    assert artifact.report["passes"][-1]["notes"]["samples"] == 1
    with pytest.raises(UsageError, match="there is no preset 'int7'"):
        hardy.compile(module, (x,), target="reference", preset="int7")
    with pytest.raises(UsageError, match="one or the other"):
        hardy.compile(module, (x,), target="reference", preset="int8", passes=[])
    with pytest.raises(UsageError, match="has no calibration data"):
        hardy.compile(module, (x,), target="reference", preset="int8")


def test_what_a_pass_tells_reaches_whoever_watches_the_compilation() -> None:
    told: list[tuple[str, int, int]] = []
    module = torch.nn.Linear(64, 64).eval()
    x = torch.zeros(8, 64)
    compile_model(
        module,
        (x,),
        binding=Binding({}, {}, {}),
        target="reference",
        preset="int8",
        calibration=[x, x, x],
        samples=2,
        progress=lambda step, done, total: told.append((step, done, total)),
    )
    # The data is read for the ranges of activations and once more for the rounding of weights.
    assert [t for t in told if t[0] == "calibrate"] == 2 * [("calibrate", 1, 2), ("calibrate", 2, 2)]


def test_validate_finds_the_pass_that_is_wrong(graph: Graph) -> None:
    with pytest.raises(MismatchError, match="wrong_sign changes output 'y'"):
        hardy.compile(graph, target="reference", passes=[WrongSign()], validate=True)


def test_validate_finds_the_program_that_is_wrong(graph: Graph) -> None:
    hardy.compile(graph, target=Liar())
    with pytest.raises(MismatchError, match="output 'y' of the compiled program"):
        hardy.compile(graph, target=Liar(), validate=True)


def test_a_lossy_pass_that_changed_nothing_does_not_weaken_validation(graph: Graph) -> None:
    compilation = compile_model(
        graph, None, binding=Binding({}, {}, {}), target="reference", passes=[LowerQuantization()]
    )
    assert not LowerQuantization.exact
    (unchanged,) = compilation.passes
    other = hardy.compile(WrongSign().run(graph), target="reference")
    with pytest.raises(MismatchError, match="output 'y' of the compiled program"):
        _validate_program(other, graph, [LowerQuantization()], [unchanged])
    changed = dataclasses.replace(unchanged, changed=True)
    _validate_program(other, graph, [LowerQuantization()], [changed])


def test_validate_refuses_a_target_that_cannot_run_here(graph: Graph) -> None:
    class Absent(ReferenceTarget):
        def check(self) -> list[str]:
            return ["there is no such board"]

    hardy.compile(graph, target=Absent())
    with pytest.raises(TargetError, match="no such board"):
        hardy.compile(graph, target=Absent(), validate=True)


def test_stop_after_keeps_the_graph_as_it_stands_for_the_reference(graph: Graph, x: torch.Tensor) -> None:
    artifact = hardy.compile(graph, target=Picky(), passes=[..., WrongSign()], stop_after="add_to_sub")
    assert artifact.target_name == "reference"
    assert artifact.report["stopped_after"] == "add_to_sub"
    assert [row["name"] for row in artifact.report["passes"]] == ["add_to_sub"]
    assert artifact.run(x=x)["y"].shape == (2, 9)
    with pytest.raises(UsageError, match="no pass 'nothing'"):
        hardy.compile(graph, target=Picky(), stop_after="nothing")


def test_dump_shows_passes_and_stages(graph: Graph, tmp_path: Path) -> None:
    hardy.compile(graph, target=Picky(), dump=tmp_path)
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["00-input.ir", "01-add_to_sub.ir", "02-look/sub/graph.txt", "summary.json"]


def test_progress_counts_every_step(graph: Graph, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    compile_model(
        graph,
        None,
        binding=Binding({}, {}, {}),
        target=Picky(),
        out=tmp_path / "a",
        progress=lambda step, done, total: told.append((step, done, total)),
    )
    assert told == [
        ("import the model", 0, 5),
        ("add_to_sub", 1, 5),
        ("lower: look", 2, 5),
        ("lower: graph", 3, 5),
        ("write the artifact", 4, 5),
    ]


def test_last_stage_that_gives_no_package_is_named(graph: Graph) -> None:
    class Unfinished(ReferenceTarget):
        def stages(self) -> tuple[Stage, ...]:
            return (Stage("nothing", lambda graph: None, lambda result: {}),)

    with pytest.raises(TargetError, match="gave a NoneType, not a Package"):
        hardy.compile(graph, target=Unfinished())


def test_weights_of_a_package_come_back_by_name(graph: Graph, tmp_path: Path) -> None:
    given = {"a": torch.arange(40.0), "b": torch.arange(40.0), "c": torch.tensor(3, dtype=torch.int16)}

    class Packed(ReferenceTarget):
        keeps_graph_weights = False

        def stages(self) -> tuple[Stage, ...]:
            package = Package({"code/program.bin": b"\0\1"}, given, {"entry": "main"})
            return (Stage("pack", lambda graph: package, lambda package: {}),)

        def load(self, artifact: Any) -> Any:
            assert (artifact.folder / "code" / "program.bin").read_bytes() == b"\0\1"
            assert artifact.manifest == {"entry": "main"}
            assert {n: t.tolist() for n, t in artifact.weights.items()} == {
                n: t.tolist() for n, t in given.items()
            }
            return self

        def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
            return tuple(torch.zeros(0) for _ in range(4))

    in_memory = hardy.compile(graph, target=Packed())
    assert list(in_memory.run(x=torch.zeros(2, 16))) == ["y", "narrow", "half", "same"]
    in_memory.save(tmp_path / "a")
    loaded = hardy.load(tmp_path / "a", target=Packed())
    assert (
        loaded.manifest["weights"]["a"] == loaded.manifest["weights"]["b"] != loaded.manifest["weights"]["c"]
    )


@pytest.mark.parametrize("path", ["../escape", "/absolute", "a/../../b"])
def test_package_may_not_write_outside_the_artifact(graph: Graph, tmp_path: Path, path: str) -> None:
    class Escaping(ReferenceTarget):
        def stages(self) -> tuple[Stage, ...]:
            return (Stage("pack", lambda graph: Package({path: b""}, {}, {}), lambda package: {}),)

    with pytest.raises(hardy.ArtifactError, match="not the path of a file inside"):
        hardy.compile(graph, target=Escaping(), out=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "a int is not a model"),
        ("no/such/model.onnx", "there is no model"),
        ("no_such_module:model", "cannot import no_such_module"),
        ("hardy:no_such_function", "hardy has no function 'no_such_function'"),
        ("hardy.compiler.cli.output:console", "must return"),
        (".", "is a folder, not a model"),
        (__file__, r"neither \.onnx nor \.pt2"),
    ],
)
def test_what_is_no_model_is_refused(model: object, message: str) -> None:
    with pytest.raises(hardy.HardyError, match=message):
        hardy.trace(model)


def test_graph_takes_no_example_inputs_and_nothing_to_bind(graph: Graph) -> None:
    assert hardy.trace(graph) is graph
    with pytest.raises(UsageError, match="takes no example inputs"):
        hardy.trace(graph, (torch.zeros(1),))
    with pytest.raises(UsageError, match="nothing to bind"):
        hardy.trace(graph, dims={"n": 1})


def test_pass_lists_are_read() -> None:
    assert split_list("a, b(x=(1,2), y=[3]),...") == ["a", "b(x=(1,2), y=[3])", "..."]
    assert parse_pass("calibrated(dtype=u8, level=-0.25)", KNOWN) == Calibrated(DType.u8, None, -0.25)
    assert parse_pass("add_to_sub(note='a(b')", KNOWN) == AddToSub("a(b")
    assert resolve_passes(None, (AddToSub(),)) == (AddToSub(),)
    assert resolve_passes("...", (AddToSub(),)) == (AddToSub(),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "no pass 'nothing'"),
        ("add_to_sub(x=1)", "no option 'x'"),
        ("add_to_sub(1)", "cannot read the pass"),
        ("add_to_sub(", "cannot read the pass"),
        ("a.b", "cannot read the pass"),
        ("calibrated", "needs dtype"),
        ("calibrated(dtype=f33)", "not a literal"),
        ("calibrated(dtype=open('x'))", "not a literal"),
        ("calibrated(**x)", "no option None"),
    ],
)
def test_pass_lists_that_make_no_sense_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_pass(text, KNOWN)


def test_passes_are_described_without_addresses() -> None:
    described = describe_pass(Calibrated(DType.i8, calibration=[torch.zeros(2), print, {1: object()}]))
    assert described == {
        "name": "calibrated",
        "options": {"dtype": "i8", "calibration": ["Tensor", "print", {"1": "object"}]},
    }
    assert describe_pass(AddToSub()) == {"name": "add_to_sub", "options": {}}
