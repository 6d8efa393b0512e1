"""An artifact that was just compiled and lives in memory."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hardy.compiler.artifact.folder import NewFolder, check_relative
from hardy.compiler.artifact.manifest import MANIFEST, seal, to_json
from hardy.compiler.artifact.weights import write_weights
from hardy.compiler.ir import Graph
from hardy.compiler.literal import Literal
from hardy.compiler.text import INLINE, print_graph
from hardy.compiler.types import TensorType

if TYPE_CHECKING:
    from hardy.targets.target import Package

GRAPH = "graph.ir"
WEIGHTS = "weights.safetensors"
REPORT = "report.json"
PASSES = "passes"
TARGET = "target"

_LARGE = re.compile(r": [a-z0-9]+\[[0-9,]*\] = constant\(#([0-9a-f]{32})\)")


@dataclass
class Built:
    """The parts of an artifact in memory; `passes` holds the graph's text after each pass by file name.

    `code_weights` writes weights in coded form where that is smaller.
    """

    graph: Graph
    package: Package
    report: Mapping[str, Any]
    passes: Mapping[str, str]
    keep_graph_weights: bool
    code_weights: bool = False
    _temporary: list[tempfile.TemporaryDirectory[str]] = field(default_factory=list)

    @cached_property
    def weights(self) -> Mapping[str, torch.Tensor]:
        return self.package.weights

    @cached_property
    def digests(self) -> dict[str, str]:
        """The target's names of weights to the digests they are stored under."""
        return {name: Literal(tensor).digest for name, tensor in self.package.weights.items()}

    @property
    def input_types(self) -> dict[str, TensorType]:
        return self.graph.input_types()

    @property
    def output_types(self) -> dict[str, TensorType]:
        return self.graph.output_types()

    @cached_property
    def target_folder(self) -> Path:
        """A temporary folder with the target's files, for targets that must open them by path."""
        temporary = tempfile.TemporaryDirectory(prefix="hardy-")
        self._temporary.append(temporary)
        for relative, data in self.package.files.items():
            path = Path(temporary.name, check_relative(relative))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return Path(temporary.name)

    def write(self, new: NewFolder, manifest: Mapping[str, Any]) -> None:
        """Write every file; the manifest last."""
        text = print_graph(self.graph)
        new.write(GRAPH, text.encode())
        for name, dump in self.passes.items():
            new.write(f"{PASSES}/{name}", dump.encode())
        for relative, data in self.package.files.items():
            new.write(f"{TARGET}/{check_relative(relative)}", data)
        literals = self._literals(text)
        segments = {self.digests[name]: parts for name, parts in self.package.segments.items()}
        new.write(WEIGHTS, lambda sink: write_weights(literals, sink, self.code_weights, segments))
        new.write(REPORT, to_json(self.report))
        new.write(MANIFEST, to_json(seal(manifest, new.hashes)))

    def _literals(self, text: str) -> dict[str, Literal]:
        """What the weights file holds: the target's weights, and the constants that `text` refers to."""
        literals = {self.digests[name]: Literal(t) for name, t in self.package.weights.items()}
        named = set(_LARGE.findall(text))
        for literal in self.graph.constants() if named else ():
            # A small constant is named by digest only where its decimal text would not keep its bits.
            if (self.keep_graph_weights or literal.type.size <= INLINE) and literal.digest in named:
                literals[literal.digest] = literal
        return literals
