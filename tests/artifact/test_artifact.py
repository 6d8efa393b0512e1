"""Artifacts that are well: written, read, run, the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hardy
from hardy.compiler.artifact import Artifact
from hardy.compiler.artifact.weights import ALIGNMENT, read_weights, write_weights
from hardy.compiler.errors import ArtifactError, InputError, UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.literal import Literal
from hardy.compiler.text import print_graph
from hardy.compiler.types import DType
from hardy.targets.reference.target import ReferenceTarget


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_saved_artifact_computes_what_the_graph_computes(graph: Graph, saved: Path, x: torch.Tensor) -> None:
    results = hardy.load(saved).run(x=x)
    expected = run(graph, {"x": x})
    assert list(results) == ["y", "narrow", "half", "same"]
    assert all(torch.equal(results[name], expected[name]) for name in expected)


def test_results_are_not_views_of_the_input(artifact: Artifact, x: torch.Tensor) -> None:
    given = x.clone()
    result = artifact.run(x=given)["same"]
    given.zero_()
    assert torch.equal(result, x)


def test_graph_reads_back_as_it_was_saved(graph: Graph, saved: Path) -> None:
    assert print_graph(hardy.load(saved).graph) == print_graph(graph)


def test_two_builds_are_byte_identical(graph: Graph, tmp_path: Path) -> None:
    hardy.compile(graph, target="reference", out=tmp_path / "a")
    hardy.compile(graph, target="reference", out=tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_copy_of_a_loaded_artifact_is_the_same_artifact(saved: Path, tmp_path: Path) -> None:
    hardy.load(saved).save(tmp_path / "copy")
    assert contents(saved) == contents(tmp_path / "copy")


def test_artifact_in_memory_writes_no_files(
    graph: Graph, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a temporary folder was made")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    assert hardy.compile(graph, target="reference").run(x=x)["y"].shape == (2, 9)


def test_manifest_says_what_goes_in_and_out(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    assert manifest["interface"]["inputs"] == [{"name": "x", "type": "f32[2,16]"}]
    assert [row["type"] for row in manifest["interface"]["outputs"]] == [
        "f32[2,9]", "i4[3,7]", "bf16[5,3]", "f32[2,16]",
    ]  # fmt: skip
    assert manifest["target"]["name"] == "reference"
    assert manifest["model"]["kind"] == "graph"


def test_weights_are_plain_safetensors_stored_once_and_aligned(saved: Path, graph: Graph) -> None:
    tensors = {n: t for n, t in load_file(saved / "weights.safetensors").items() if not n.startswith("pad.")}
    assert set(tensors) == {c.digest for c in graph.constants()}
    mapped = read_weights(saved / "weights.safetensors")
    assert all(t.data_ptr() % ALIGNMENT == 0 for t in mapped.values())


def test_weights_file_keeps_every_type_and_shape(tmp_path: Path) -> None:
    tensors = {f"{d.value}-{n}": torch.ones(n, 3).to(d.torch) for d in DType for n in (0, 1, 5)}
    tensors["scalar"] = torch.tensor(2.5)
    literals = {name: Literal(tensor) for name, tensor in tensors.items()}
    path = tmp_path / "w"
    with path.open("wb") as file:
        write_weights(literals, lambda data: file.write(data))
    found = read_weights(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name].float(), tensor.float())
        assert found[name].data_ptr() % ALIGNMENT == 0


def test_empty_weights_file_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "w"
    with path.open("wb") as file:
        write_weights({}, lambda data: file.write(data))
    assert read_weights(path) == {}


class WithoutGraphWeights(ReferenceTarget):
    """A target that, like most, does not need the graph's constants."""

    keeps_graph_weights = False


def test_graph_without_weights_shows_its_structure_and_refuses_its_data(graph: Graph, tmp_path: Path) -> None:
    hardy.compile(graph, target=WithoutGraphWeights(), out=tmp_path / "a")
    opened = Artifact.open(tmp_path / "a")
    assert print_graph(opened.graph) == print_graph(graph)
    assert opened.manifest["graph_weights"] is False
    assert read_weights(tmp_path / "a" / "weights.safetensors") == {}
    with pytest.raises(ArtifactError, match=r"data of constant f32\[16,9\]") as caught:
        run(opened.graph, {"x": torch.zeros(2, 16)})
    assert "keep_graph_weights" in caught.value.hint


def test_keep_graph_weights_keeps_them(graph: Graph, tmp_path: Path, x: torch.Tensor) -> None:
    hardy.compile(graph, target=WithoutGraphWeights(), out=tmp_path / "a", keep_graph_weights=True)
    opened = Artifact.open(tmp_path / "a")
    assert torch.equal(run(opened.graph, {"x": x})["y"], run(graph, {"x": x})["y"])


def test_artifact_on_disk_is_replaced_by_a_new_one(graph: Graph, saved: Path, x: torch.Tensor) -> None:
    (saved.parent / "kept").write_text("beside")
    hardy.compile(graph, target="reference", out=saved, keep_passes=False)
    assert not (saved / "passes").exists()
    assert hardy.load(saved).run(x=x)["y"].shape == (2, 9)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["kept", "model.hardy"]


def test_loaded_artifact_still_runs_after_it_was_replaced(graph: Graph, saved: Path, x: torch.Tensor) -> None:
    loaded = hardy.load(saved)
    hardy.compile(graph, target="reference", out=saved)
    assert loaded.run(x=x)["y"].shape == (2, 9)


def test_saving_an_artifact_onto_itself_is_refused(saved: Path) -> None:
    with pytest.raises(UsageError, match="already at"):
        hardy.load(saved).save(saved)


def test_inputs_may_be_numpy_arrays_of_any_layout(artifact: Artifact, x: torch.Tensor) -> None:
    expected = artifact.run(x=x)["y"]
    array = x.numpy()
    read_only = array.copy()
    read_only.flags.writeable = False
    foreign = array.astype(array.dtype.newbyteorder())
    for given in (array, np.asfortranarray(array), array[::-1].copy()[::-1], read_only, foreign):
        assert torch.equal(artifact.run({"x": given})["y"], expected)
    assert torch.equal(artifact.run(x=x.T.contiguous().T)["y"], expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "input 'x' is missing"),
        ({"x": torch.zeros(2, 16), "z": torch.zeros(1)}, "no input 'z'"),
        ({"x": torch.zeros(2, 17)}, r"must be f32\[2,16\], got f32\[2,17\]$"),
        ({"x": torch.zeros(2, 16, dtype=torch.float64)}, r"must be f32\[2,16\], got f64\[2,16\]$"),
        ({"x": np.zeros((2, 16), np.complex64)}, r"must be f32\[2,16\], got complex64\[2,16\]$"),
        ({"x": np.zeros((2, 16), np.uint32)}, r"must be f32\[2,16\], got uint32\[2,16\]$"),
        ({"x": np.zeros((2, 16), ">f8")}, r"must be f32\[2,16\], got f64\[2,16\]$"),
        (
            {"x": np.array([["a"] * 16] * 2)},
            "cannot be used: no tensor holds elements of type <U1",
        ),
        ({"x": [[0.0] * 16] * 2}, "must be a tensor or an array, got list"),
    ],
)
def test_wrong_inputs_name_the_cause(artifact: Artifact, given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        artifact.run(given)  # type: ignore[arg-type]


def test_input_given_twice_is_refused(artifact: Artifact, x: torch.Tensor) -> None:
    with pytest.raises(InputError, match="given twice"):
        artifact.run({"x": x}, x=x)


def test_artifact_of_an_unknown_target_can_be_opened_but_not_loaded(graph: Graph, tmp_path: Path) -> None:
    class Elsewhere(ReferenceTarget):
        @property
        def name(self) -> str:
            return "elsewhere"

    hardy.compile(graph, target=Elsewhere(), out=tmp_path / "a")
    assert Artifact.open(tmp_path / "a").target_name == "elsewhere"
    with pytest.raises(hardy.TargetError, match="no target 'elsewhere'"):
        hardy.load(tmp_path / "a")
    with pytest.raises(hardy.TargetError, match="is for elsewhere, not for reference"):
        hardy.load(tmp_path / "a", target=ReferenceTarget())
    assert hardy.load(tmp_path / "a", target=Elsewhere()).target_name == "elsewhere"
