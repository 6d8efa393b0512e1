"""An artifact in a folder: every file is checked against the manifest before anything is used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from hardy.compiler.artifact.built import GRAPH, PASSES, REPORT, TARGET, WEIGHTS
from hardy.compiler.artifact.folder import NewFolder, list_files, sha256_of
from hardy.compiler.artifact.manifest import AGAIN, MANIFEST, parse_type, read_interface, read_manifest
from hardy.compiler.artifact.weights import read_weights
from hardy.compiler.errors import ArtifactError, GraphError
from hardy.compiler.ir import Graph
from hardy.compiler.literal import Literal
from hardy.compiler.text import parse_graph
from hardy.compiler.types import TensorType

_CONSTANT = re.compile(r": ([a-z0-9]+\[[0-9,]*\]) = constant\(#([0-9a-f]{32})\)")


class AbsentLiteral(Literal):
    """A constant whose type and digest are known and whose data the artifact does not hold."""

    __slots__ = ()

    def __init__(self, type: TensorType, digest: str) -> None:
        self.type = type
        self._digest = digest

    @property
    def tensor(self) -> torch.Tensor:  # type: ignore[override]
        raise ArtifactError(
            f"the data of constant {self.type} #{self._digest} is not in the artifact",
            hint="compile with keep_graph_weights (--keep-graph-weights) to compute with its graph",
        )


def read_graph(text: str, tensors: Mapping[str, torch.Tensor]) -> Graph:
    """The graph that a text stands for; `tensors` has the data of some of its constants by digest, the
    others are absent. GraphError where the text is none."""
    return parse_graph(text, _Literals(text, tensors))


class _Literals(Mapping[str, Literal]):
    """The constants that a graph's text names, made when they are asked for."""

    def __init__(self, text: str, tensors: Mapping[str, torch.Tensor]) -> None:
        self.types = {digest: parse_type(t) for t, digest in _CONSTANT.findall(text)}
        self.tensors = tensors
        self.made: dict[str, Literal] = {}

    def __getitem__(self, digest: str) -> Literal:
        if digest not in self.made:
            t = self.types[digest]
            if digest in self.tensors:
                self.made[digest] = Literal(self.tensors[digest], t.dtype)
            else:
                self.made[digest] = AbsentLiteral(t, digest)
        return self.made[digest]

    def __contains__(self, digest: object) -> bool:
        return digest in self.types

    def __iter__(self) -> Iterator[str]:
        return iter(self.types)

    def __len__(self) -> int:
        return len(self.types)


@dataclass
class Opened:
    """The parts of an artifact on disk, read when they are asked for."""

    folder: Path
    manifest: dict[str, Any]

    @staticmethod
    def check(folder: Path) -> Opened:
        """Open a folder; ArtifactError unless it holds exactly the manifest's files with their hashes."""
        manifest = read_manifest(folder)
        listed = manifest["files"]
        for needed in (GRAPH, WEIGHTS, REPORT):
            if needed not in listed:
                raise ArtifactError(f"the manifest does not list {needed}", where=str(folder))
        present = set(list_files(folder)) - {MANIFEST}
        for relative in sorted(listed.keys() - present):
            raise ArtifactError(f"{relative} is missing", where=str(folder), hint=AGAIN)
        for relative in sorted(present - listed.keys()):
            raise ArtifactError(
                f"{relative} is not part of the artifact", where=str(folder), hint="move it out of the folder"
            )
        for relative, expected in listed.items():
            if sha256_of(folder / relative) != expected:
                raise ArtifactError(
                    f"{relative} was changed after the artifact was written", where=str(folder), hint=AGAIN
                )
        opened = Opened(folder, manifest)
        _ = opened.input_types, opened.output_types
        return opened

    @cached_property
    def report(self) -> Mapping[str, Any]:
        try:
            report = json.loads((self.folder / REPORT).read_bytes())
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{REPORT} is not JSON: {error}", where=str(self.folder)) from error
        if not isinstance(report, dict):
            raise ArtifactError(f"{REPORT} is not an object", where=str(self.folder))
        return report

    @cached_property
    def passes(self) -> Mapping[str, str]:
        prefix = f"{PASSES}/"
        names = sorted(f.removeprefix(prefix) for f in self.manifest["files"] if f.startswith(prefix))
        return {name: (self.folder / PASSES / name).read_text(encoding="utf-8") for name in names}

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return read_weights(self.folder / WEIGHTS)

    @cached_property
    def graph(self) -> Graph:
        text = (self.folder / GRAPH).read_text(encoding="utf-8")
        try:
            return read_graph(text, self.tensors)
        except GraphError as error:
            raise ArtifactError(f"{GRAPH} cannot be read: {error.message}", where=error.where) from error

    @cached_property
    def weights(self) -> Mapping[str, torch.Tensor]:
        try:
            return {name: self.tensors[digest] for name, digest in self.manifest["weights"].items()}
        except KeyError as error:
            raise ArtifactError(f"{WEIGHTS} lacks the tensor {error}", where=str(self.folder)) from error

    @cached_property
    def input_types(self) -> dict[str, TensorType]:
        return read_interface(self.manifest, "inputs")

    @cached_property
    def output_types(self) -> dict[str, TensorType]:
        return read_interface(self.manifest, "outputs")

    @property
    def target_folder(self) -> Path:
        return self.folder / TARGET

    def write(self, new: NewFolder, manifest: Mapping[str, Any]) -> None:
        """Write a copy; the manifest goes with its bytes, so the copy is the same artifact."""
        for relative in (*self.manifest["files"], MANIFEST):
            new.copy(relative, self.folder / relative)
        changed = [f for f, expected in self.manifest["files"].items() if new.hashes[f] != expected]
        if changed:
            raise ArtifactError(
                f"{changed[0]} was changed since the artifact was opened", where=str(self.folder)
            )
