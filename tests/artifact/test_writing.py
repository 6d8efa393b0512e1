"""Writing is all or nothing: whatever goes wrong, no half of an artifact is left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import hardy
from hardy.compiler.artifact import Artifact
from hardy.compiler.artifact import folder as folder_module
from hardy.compiler.artifact.folder import NewFolder
from hardy.compiler.errors import ArtifactError, UsageError
from hardy.compiler.ir import Graph


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


FILES = ["graph.ir", "weights.safetensors", "report.json", "manifest.json"]


@pytest.fixture(params=FILES)
def failing_file(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[BaseException], None]:
    """Makes the writing of one file raise."""

    def arm(error: BaseException) -> None:
        write = NewFolder.write

        def broken(self: NewFolder, relative: str, data: object) -> None:
            if relative == request.param:
                (self.path / relative).write_bytes(b"half")
                raise error
            write(self, relative, data)  # type: ignore[arg-type]

        monkeypatch.setattr(NewFolder, "write", broken)

    return arm


def test_full_disk_leaves_nothing(
    artifact: Artifact, tmp_path: Path, failing_file: Callable[[BaseException], None]
) -> None:
    failing_file(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(ArtifactError, match="No space left on device") as caught:
        artifact.save(tmp_path / "deep" / "er" / "model")
    assert "free some space" in caught.value.hint
    assert listing(tmp_path) == {}


def test_interrupt_leaves_the_artifact_that_stood_there(
    graph: Graph, saved: Path, failing_file: Callable[[BaseException], None]
) -> None:
    before = listing(saved.parent)
    failing_file(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        hardy.compile(graph, target="reference", out=saved, keep_passes=False)
    assert listing(saved.parent) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_really_full_disk_leaves_nothing(tmp_path: Path) -> None:
    import subprocess

    import torch

    from hardy.compiler.ir import Builder

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    try:
        b = Builder()
        big = b.finish({"y": b.constant(torch.randn(100_000))})
        with pytest.raises(ArtifactError, match="No space left on device"):
            hardy.compile(big, target="reference", out=disk / "model")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_replacing_works_where_the_system_cannot_exchange(
    graph: Graph, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "_exchange", lambda a, b: False)
    hardy.compile(graph, target="reference", out=saved, keep_passes=False)
    assert not (saved / "passes").exists()
    assert [p.name for p in saved.parent.iterdir()] == ["model.hardy"]


def test_failed_replacement_puts_the_old_artifact_back(
    graph: Graph, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listing(saved.parent)
    monkeypatch.setattr(folder_module, "_exchange", lambda a, b: False)
    rename = Path.rename

    def second_fails(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp" and target == saved:
            raise OSError(errno.EIO, "disk gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(ArtifactError, match="disk gone"):
        hardy.compile(graph, target="reference", out=saved, keep_passes=False)
    assert listing(saved.parent) == before


def test_folder_that_is_no_artifact_is_not_replaced(graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(UsageError, match="is not a hardy artifact, so it is not replaced"):
        hardy.compile(graph, target="reference", out=tmp_path / "mine")
    assert listing(tmp_path) == {"mine": None, "mine/thesis.tex": b"all of it"}


def test_file_at_the_place_is_not_replaced(graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")
    with pytest.raises(UsageError, match="exists and is a file"):
        hardy.compile(graph, target="reference", out=tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "text"


def test_link_at_the_place_is_not_followed(graph: Graph, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(saved)
    with pytest.raises(UsageError, match="is a link"):
        hardy.compile(graph, target="reference", out=tmp_path / "link")


def test_empty_folder_is_taken(graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    hardy.compile(graph, target="reference", out=tmp_path / "empty")
    hardy.load(tmp_path / "empty")


def test_place_is_checked_before_anything_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(UsageError, match="exists and is a file"):
        hardy.compile("not/a/model", target="reference", out=tmp_path / "mine")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_named(graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ArtifactError, match="Permission denied"):
        hardy.compile(graph, target="reference", out=tmp_path / "locked" / "model")
