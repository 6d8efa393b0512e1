"""Artifacts that are not well: each is refused with its cause."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hardy
from hardy.compiler.artifact import Artifact
from hardy.compiler.artifact.folder import check_relative
from hardy.compiler.artifact.manifest import digest_of
from hardy.compiler.errors import ArtifactError


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None], *, seal: bool = True) -> None:
    """Change a manifest as somebody would who also makes its digest fit."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if seal:
        manifest["digest"] = digest_of(manifest)
    path.write_text(json.dumps(manifest))


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["graph.ir", "weights.safetensors", "report.json", "passes/00-input.ir"])
def test_changed_file_is_named(saved: Path, file: str) -> None:
    flip_byte(saved / file, -2)
    with pytest.raises(ArtifactError, match=f"{file} was changed"):
        hardy.load(saved)


@pytest.mark.parametrize("file", ["graph.ir", "weights.safetensors"])
def test_truncated_file_is_named(saved: Path, file: str) -> None:
    os.truncate(saved / file, 20)
    with pytest.raises(ArtifactError, match=f"{file} was changed"):
        hardy.load(saved)


def test_missing_file_is_named(saved: Path) -> None:
    (saved / "graph.ir").unlink()
    with pytest.raises(ArtifactError, match=r"graph\.ir is missing"):
        hardy.load(saved)


def test_file_that_the_manifest_does_not_list_is_named(saved: Path) -> None:
    (saved / "target").mkdir()
    (saved / "target" / "extra.so").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"target/extra\.so is not part of the artifact"):
        hardy.load(saved)


def test_changed_manifest_is_noticed(saved: Path) -> None:
    edit_manifest(saved, lambda m: m["interface"]["inputs"][0].update(type="f32[2,17]"), seal=False)
    with pytest.raises(ArtifactError, match="manifest was changed"):
        hardy.load(saved)


def test_later_format_version_is_refused_with_what_to_do(saved: Path) -> None:
    edit_manifest(saved, lambda m: m.update(version=2))
    with pytest.raises(ArtifactError, match="format 2, this hardy reads format 1") as caught:
        hardy.load(saved)
    assert "0.1.0" in caught.value.hint


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret", "passes/../../secret", "a//b", "./a", "", "a\\..\\b", "C:/a", "a\0b"]
)
def test_path_that_leaves_the_folder_is_refused(saved: Path, path: str) -> None:
    (saved.parent / "secret").write_text("")
    with pytest.raises(ArtifactError, match="not the path of a file inside"):
        check_relative(path)
    edit_manifest(saved, lambda m: m["files"].update({path: "0" * 64}))
    with pytest.raises(ArtifactError, match="not the path of a file inside"):
        hardy.load(saved)


def test_link_instead_of_a_file_is_refused(saved: Path) -> None:
    outside = saved.parent / "outside"
    shutil.move(saved / "graph.ir", outside)
    (saved / "graph.ir").symlink_to(outside)
    with pytest.raises(ArtifactError, match=r"graph\.ir is a link"):
        hardy.load(saved)


def test_link_instead_of_a_folder_is_refused(saved: Path) -> None:
    shutil.move(saved / "passes", saved.parent / "outside")
    (saved / "passes").symlink_to(saved.parent / "outside")
    with pytest.raises(ArtifactError, match="passes is a link"):
        hardy.load(saved)


def test_link_instead_of_the_manifest_is_refused(saved: Path) -> None:
    shutil.move(saved / "manifest.json", saved.parent / "outside")
    (saved / "manifest.json").symlink_to(saved.parent / "outside")
    with pytest.raises(ArtifactError, match="not a hardy artifact"):
        hardy.load(saved)


def test_special_file_is_refused(saved: Path) -> None:
    os.mkfifo(saved / "pipe")
    with pytest.raises(ArtifactError, match="pipe is not a regular file"):
        hardy.load(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "other"}', "[" * 100_000, "\udcff"])
def test_manifest_that_is_none_is_refused(saved: Path, text: str) -> None:
    (saved / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match="manifest"):
        hardy.load(saved)


@pytest.mark.parametrize(
    "key", ["hardy", "target", "interface", "model", "options", "weights", "graph_weights", "files"]
)
def test_manifest_without_a_section_is_refused(saved: Path, key: str) -> None:
    edit_manifest(saved, lambda m: m.pop(key))
    with pytest.raises(ArtifactError, match=f"lacks a valid '{key}'"):
        hardy.load(saved)


def test_manifest_that_omits_the_graph_is_refused(saved: Path) -> None:
    (saved / "graph.ir").unlink()
    edit_manifest(saved, lambda m: m["files"].pop("graph.ir"))
    with pytest.raises(ArtifactError, match=r"does not list graph\.ir"):
        hardy.load(saved)


@pytest.mark.parametrize("rows", [3, [1], [{"name": "x"}], [{"name": "x", "type": "f33[2]"}], None])
def test_interface_that_is_none_is_refused(saved: Path, rows: object) -> None:
    edit_manifest(saved, lambda m: m["interface"].update(inputs=rows))
    with pytest.raises(ArtifactError, match=r"manifest's inputs|not a tensor type"):
        hardy.load(saved)


def test_graph_that_does_not_parse_is_refused_with_its_line(saved: Path) -> None:
    from hardy.compiler.artifact.folder import sha256_of

    path = saved / "graph.ir"
    path.write_text(path.read_text().replace("matmul(", "matmull("))
    edit_manifest(saved, lambda m: m["files"].update({"graph.ir": sha256_of(path)}))
    with pytest.raises(ArtifactError, match=r"graph\.ir cannot be read: there is no op 'matmull'") as caught:
        hardy.load(saved)
    assert "line" in caught.value.where


def test_weights_that_are_no_safetensors_are_refused(saved: Path) -> None:
    from hardy.compiler.artifact.folder import sha256_of

    path = saved / "weights.safetensors"
    path.write_bytes(b"\x80\x04K\x01.")  # a pickle
    edit_manifest(saved, lambda m: m["files"].update({"weights.safetensors": sha256_of(path)}))
    with pytest.raises(ArtifactError, match="weights cannot be read"):
        hardy.load(saved)


def test_places_that_hold_no_artifact_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="there is no artifact at"):
        Artifact.open(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="not a folder"):
        Artifact.open(tmp_path / "file")
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        Artifact.open(tmp_path)
