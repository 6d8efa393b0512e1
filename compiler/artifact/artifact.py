"""A compiled model: what `hardy.compile` gives and `hardy.load` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from hardy.compiler.artifact.arrays import Array, as_tensor
from hardy.compiler.artifact.built import Built
from hardy.compiler.artifact.folder import new_folder
from hardy.compiler.artifact.manifest import is_artifact
from hardy.compiler.artifact.opened import Opened
from hardy.compiler.errors import InputError, TargetError, UsageError
from hardy.compiler.interpret import check_inputs
from hardy.compiler.ir import Graph
from hardy.compiler.types import TensorType

if TYPE_CHECKING:
    from hardy.targets.target import Runner, Target


@dataclass(frozen=True)
class _Loaded:
    """What the target sees: see `hardy.targets.target.Loaded`."""

    parts: Built | Opened
    manifest: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return self.parts.target_folder

    @property
    def graph(self) -> Graph:
        return self.parts.graph

    @property
    def weights(self) -> Mapping[str, torch.Tensor]:
        return self.parts.weights


class Artifact:
    """A model compiled for a target, in memory or in a folder.

    `manifest` says what it is (an artifact that was never saved has no hashes in it); `report` says
    what the passes did and what was checked; `passes` holds the graph's text before the first and
    after each pass, by file name, as far as the texts were kept.
    """

    def __init__(
        self, parts: Built | Opened, manifest: Mapping[str, Any], target: Target | None = None
    ) -> None:
        self._parts = parts
        self._target = target
        self._runner: Runner | None = None
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path, target: Target | None = None) -> Self:
        """Read and check the artifact in a folder without needing its target; ArtifactError if it is damaged.

        `target` serves an artifact of a target that no installed package declares.
        """
        parts = Opened.check(Path(path))
        return cls(parts, parts.manifest, target)

    @property
    def target_name(self) -> str:
        name: str = self.manifest["target"]["name"]
        return name

    @property
    def graph(self) -> Graph:
        """The final graph; the data of its constants may be absent (`manifest["graph_weights"]`)."""
        return self._parts.graph

    @property
    def report(self) -> Mapping[str, Any]:
        return self._parts.report

    @property
    def passes(self) -> Mapping[str, str]:
        return self._parts.passes

    @property
    def inputs(self) -> dict[str, TensorType]:
        """Types of the inputs by name, in order."""
        return self._parts.input_types

    @property
    def outputs(self) -> dict[str, TensorType]:
        """Types of the outputs by name, in order."""
        return self._parts.output_types

    @property
    def folder(self) -> Path | None:
        """Where the artifact lies on disk, None in memory."""
        return self._parts.folder if isinstance(self._parts, Opened) else None

    @property
    def target(self) -> Target:
        """The target it was compiled for; TargetError where it is not installed."""
        if self._target is None:
            from hardy.targets.target import find_target

            try:
                self._target = find_target(self.target_name)
            except TargetError as error:
                error.where = error.where or str(self.folder or "")
                raise
        if self._target.name != self.target_name:
            raise TargetError(f"the artifact is for {self.target_name}, not for {self._target.name}")
        return self._target

    def prepare(self) -> Runner:
        """Load the program on its device, once; ArtifactError where this machine cannot run it."""
        if self._runner is None:
            self._runner = self.target.load(self._loaded())
        return self._runner

    def draw_timeline(self, path: str | Path) -> list[Path]:
        """Draw what the program does over time, where its target has a model of that; the files written."""
        return self.target.draw_timeline(self._loaded(), Path(path))

    def _loaded(self) -> _Loaded:
        return _Loaded(self._parts, self.manifest["target"]["package"])

    def run(self, inputs: Mapping[str, Array] | None = None, /, **named: Array) -> dict[str, torch.Tensor]:
        """Compute the outputs for inputs given by name, as tensors or NumPy arrays.

        InputError for a wrong name, shape or type: nothing is cast or broadcast.
        """
        given = dict(inputs or {})
        for name, array in named.items():
            if name in given:
                raise InputError(f"input {name!r} is given twice")
            given[name] = array
        tensors = check_inputs(
            self.inputs, {n: as_tensor(n, a, self.inputs.get(n)) for n, a in given.items()}
        )
        with torch.no_grad():
            results = self.prepare().run(tensors)
        return dict(zip(self.outputs, results, strict=True))

    def save(self, path: str | Path) -> None:
        """Write the artifact to a folder, whole or not at all.

        An artifact there is replaced in one step; anything else there is a UsageError.
        """
        place = Path(path)
        if self.folder is not None and place.exists() and place.samefile(self.folder):
            raise UsageError(f"the artifact is already at {place}")
        with new_folder(place, is_artifact) as new:
            self._parts.write(new, self.manifest)

    def __repr__(self) -> str:
        def show(types: Mapping[str, TensorType]) -> str:
            return ", ".join(f"{n}: {t}" for n, t in types.items())

        return f"Artifact({self.target_name}, ({show(self.inputs)}) -> ({show(self.outputs)}))"


def load(path: str | Path, target: Target | None = None) -> Artifact:
    """The artifact in a folder, ready to run.

    ArtifactError where it is damaged or this machine cannot run it, TargetError where its target is
    not installed (`target` gives one that no installed package declares).
    """
    artifact = Artifact.open(path, target)
    artifact.prepare()
    return artifact
