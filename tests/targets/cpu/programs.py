"""Compiles graphs with the CPU target's stages, without passes or artifact."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hardy.compiler.interpret import evaluate
from hardy.compiler.ir import Graph
from hardy.compiler.tolerance import require_close
from hardy.targets.cpu import isa as isas
from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.runner import CONSTANTS, LIBRARY, LibraryRunner
from hardy.targets.cpu.stages import Code, stages
from hardy.targets.target import Package


@dataclass(frozen=True)
class Compiled:
    """What the stages gave, and the program loaded."""

    code: Code
    package: Package
    runner: LibraryRunner

    @property
    def steps(self) -> list[str]:
        steps: list[str] = self.package.manifest["steps"]
        return steps


def compile_graph(graph: Graph, isa: Isa | None = None) -> Compiled:
    """Lower, link and load a graph that the target takes as it is."""
    result: object = graph
    code = None
    for stage in stages(isa or isas.host()):
        result = stage.run(result)
        if stage.name == "tir":
            code = result
    assert isinstance(code, Code)
    assert isinstance(result, Package)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, LIBRARY)
        library.write_bytes(result.files[LIBRARY])
        runner = LibraryRunner(
            library,
            [v.type for v in graph.inputs],
            [v.type for v in graph.outputs],
            result.weights[CONSTANTS],
            int(result.manifest["arena_bytes"]),
            [str(s) for s in result.manifest["steps"]],
        )
    return Compiled(code, result, runner)


def require_reference(graph: Graph, inputs: Sequence[torch.Tensor], isa: Isa | None = None) -> Compiled:
    """Compile, run and compare with the reference."""
    compiled = compile_graph(graph, isa)
    expected, actual = evaluate(graph, inputs), compiled.runner.run(inputs)
    for name, e, a in zip(graph.output_names, expected, actual, strict=True):
        require_close(name, e, a, scaled=True)
    return compiled
