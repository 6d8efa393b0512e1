"""The reference target: the oracle that others are compared with, and a device that needs no hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from hardy.compiler.errors import TargetError
from hardy.compiler.interpret import evaluate
from hardy.compiler.ir import Graph, Node
from hardy.compiler.pipeline import Pass
from hardy.targets.target import YES, Device, Loaded, Package, Runner, Stage, Support, Target


@dataclass(frozen=True)
class ReferenceRunner:
    """Interprets the graph node by node with torch."""

    graph: Graph

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        # An output may be an input, a constant, or a view of one: callers get tensors of their own.
        return tuple(t.clone(memory_format=torch.contiguous_format) for t in evaluate(self.graph, inputs))


class ReferenceTarget(Target):
    """Runs the artifact's graph as it is, on the CPU, with torch."""

    kind = "reference"
    summary = "interprets the graph with PyTorch: the oracle, for any model on any machine"
    keeps_graph_weights = True

    @classmethod
    def create(cls, argument: str) -> ReferenceTarget:
        if argument:
            raise TargetError(f"the reference target has no variant {argument!r}", hint="use `reference`")
        return cls()

    @property
    def name(self) -> str:
        return "reference"

    def describe(self) -> Device:
        return Device(name="PyTorch on the CPU", kind="cpu")

    def supports(self, node: Node) -> Support:
        return YES

    def passes(self) -> tuple[Pass, ...]:
        return ()

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("graph", _package, _dump),)

    def load(self, artifact: Loaded) -> Runner:
        return ReferenceRunner(artifact.graph)


def _package(graph: Graph) -> Package:
    """Nothing besides what every artifact holds."""
    return Package(files={}, weights={}, manifest={})


def _dump(package: Package) -> Mapping[str, str | bytes]:
    return {}
