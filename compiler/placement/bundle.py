"""The packages of a plan's stages as one package, and a runner that runs them in order.

In the package each stage has its files under `stages/NUMBER-KIND/`, its final graph as text among them, and
its weights under `NUMBER/`. The manifest's section lists the stages: device, the numbers of the values it
takes and gives, and the device's own section. The graph's inputs are the first values, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hardy.compiler.artifact.opened import read_graph
from hardy.compiler.errors import ArtifactError, GraphError
from hardy.compiler.ir import Constant, Graph, Value
from hardy.compiler.placement.plan import Plan
from hardy.compiler.text import print_graph
from hardy.targets.target import Loaded, Package, Runner

GRAPH = "graph.ir"


@dataclass(frozen=True)
class LoweredStage:
    """What lowering made of a planned stage: the device's name, its final graph and its package."""

    device: str
    graph: Graph
    package: Package


@dataclass(frozen=True)
class StagePackage:
    """One stage of a bundle, as its device loads it (see `hardy.targets.target.Loaded`)."""

    folder: Path
    graph: Graph
    manifest: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]


def bundle(plan: Plan, lowered: Sequence[LoweredStage]) -> Package:
    """One package of the lowered stages of a plan, given in its order."""
    numbers: dict[Value, int] = {v: i for i, v in enumerate(plan.graph.inputs)}
    files: dict[str, bytes] = {}
    weights: dict[str, torch.Tensor] = {}
    segments: dict[str, Any] = {}
    rows = []
    for i, (stage, made) in enumerate(zip(plan.stages, lowered, strict=True)):
        folder = _folder(i, made.device)
        files[f"{folder}/{GRAPH}"] = print_graph(made.graph).encode()
        files |= {f"{folder}/{name}": data for name, data in made.package.files.items()}
        weights |= {f"{i}/{name}": tensor for name, tensor in made.package.weights.items()}
        segments |= {f"{i}/{name}": parts for name, parts in made.package.segments.items()}
        for value in stage.part.gives:
            numbers.setdefault(value, len(numbers))
        rows.append(
            {
                "device": made.device,
                "takes": [numbers[v] for v in stage.part.takes],
                "gives": [numbers[v] for v in stage.part.gives],
                "macs": stage.macs,
                "package": made.package.manifest,
            }
        )
    constants = {}
    for value in plan.graph.outputs:
        # A constant that is an output belongs to no stage.
        if isinstance(value.op, Constant) and value not in numbers:
            numbers[value] = len(numbers)
            constants[str(numbers[value])] = f"constant/{numbers[value]}"
            weights[f"constant/{numbers[value]}"] = value.op.literal.tensor
    manifest = {
        "stages": rows,
        "constants": constants,
        "outputs": [numbers[v] for v in plan.graph.outputs],
    }
    return Package(files, weights, manifest, segments)


def _folder(number: int, device: str) -> str:
    return f"stages/{number}-{device.partition(':')[0]}"


@dataclass(frozen=True)
class StagedRunner:
    """Runs the stages of a plan in order; values between them are tensors in host memory."""

    stages: Sequence[tuple[Runner, Sequence[int], Sequence[int]]]
    constants: Mapping[int, torch.Tensor]
    outputs: Sequence[int]

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        values = {**self.constants, **dict(enumerate(inputs))}
        for runner, takes, gives in self.stages:
            values |= zip(gives, runner.run([values[i] for i in takes]), strict=True)
        # An output may be an input, or given twice: callers get tensors of their own.
        return tuple(values[i].clone(memory_format=torch.contiguous_format) for i in self.outputs)


def open_stages(artifact: Loaded) -> list[tuple[str, StagePackage]]:
    """The stages of a bundle with their devices; ArtifactError where a stage's graph cannot be read."""
    stages = []
    for i, row in enumerate(artifact.manifest["stages"]):
        folder = artifact.folder / _folder(i, row["device"])
        text = (folder / GRAPH).read_text(encoding="utf-8")
        try:
            graph = read_graph(text, {})
        except GraphError as error:
            raise ArtifactError(f"{GRAPH} cannot be read: {error.message}", where=str(folder)) from error
        prefix = f"{i}/"
        own = {n.removeprefix(prefix): t for n, t in artifact.weights.items() if n.startswith(prefix)}
        stages.append((row["device"], StagePackage(folder, graph, row["package"], own)))
    return stages


def open_bundle(artifact: Loaded, load: Callable[[str, Loaded], Runner]) -> StagedRunner:
    """The runner of a bundle; `load(device, stage)` makes a stage ready on its device."""
    rows = artifact.manifest["stages"]
    stages = [
        (load(device, stage), row["takes"], row["gives"])
        for row, (device, stage) in zip(rows, open_stages(artifact), strict=True)
    ]
    constants = {int(n): artifact.weights[name] for n, name in artifact.manifest["constants"].items()}
    return StagedRunner(stages, constants, artifact.manifest["outputs"])
