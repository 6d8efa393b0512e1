"""The interface of a target: what it is, what it takes, how it lowers, how it runs.

A target is found through the entry-point group `hardy.targets`, whose entries name subclasses of
`Target`. The name before the first colon picks the entry; what follows is handed to `create`, so
`cpu:avx2` is `CpuTarget.create("avx2")`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch

from hardy.compiler.artifact.coding import Segment
from hardy.compiler.errors import Refusal, TargetError, UnsupportedError, UsageError
from hardy.compiler.ir import Graph, Node
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType

ENTRY_POINTS = "hardy.targets"


@dataclass(frozen=True)
class Memory:
    """One level of memory: capacity in bytes, bandwidth in bytes a second."""

    name: str
    capacity: int
    bandwidth: float


@dataclass(frozen=True)
class QuantizationScheme:
    """How a device wants integers: types, and whether scales and zero points are restricted."""

    activations: DType
    weights: DType
    symmetric_activations: bool
    per_channel: bool
    power_of_two_scales: bool = False

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Device:
    """A description of hardware: what passes and placement need to know. `peak` is in operations a
    second (a multiply-add counts as two) by element type. `sparsity` lists the structures of zeros
    that it runs faster, best first, as the pass `prune` names them ("channels", "2:4", "1x4");
    channels in multiples of `channel_multiple` fill its vectors."""

    name: str
    kind: str
    features: tuple[str, ...] = ()
    memories: tuple[Memory, ...] = ()
    peak: Mapping[DType, float] = field(default_factory=dict)
    quantization: QuantizationScheme | None = None
    sparsity: tuple[str, ...] = ()
    channel_multiple: int = 1


@dataclass(frozen=True)
class Support:
    """Whether a target lowers a node, and if not, why."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


YES = Support()


def no(reason: str) -> Support:
    """A refusal with its reason."""
    return Support(reason)


@dataclass(frozen=True)
class Package:
    """What lowering gives: the target's own files by relative path, the tensors that the running
    program needs (stored once in the artifact's weights file), and a JSON section of the manifest.

    `segments` say of a tensor of bytes, by its name in `weights`, which arrays it is made of: what lets
    it be stored in coded form, each array by its own values.
    """

    files: Mapping[str, bytes]
    weights: Mapping[str, torch.Tensor]
    manifest: Mapping[str, Any]
    segments: Mapping[str, Sequence[Segment]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One step of lowering: `run` maps the result of the stage before (the graph, for the first) to
    its own; `dump` shows a result as files by relative path. The last stage gives a `Package`."""

    name: str
    run: Callable[[Any], Any]
    dump: Callable[[Any], Mapping[str, str | bytes]]


class Loaded(Protocol):
    """What a target gets back of its `Package`, after hashes were checked, and the final graph.

    `folder` holds the package's files by their relative paths; `manifest` is the package's section.
    Constants of `graph` have data only where the target sets `keeps_graph_weights`.
    """

    @property
    def folder(self) -> Path: ...
    @property
    def graph(self) -> Graph: ...
    @property
    def manifest(self) -> Mapping[str, Any]: ...
    @property
    def weights(self) -> Mapping[str, torch.Tensor]: ...


class Runner(Protocol):
    """A program loaded on a device. `run` takes the inputs in the graph's order, already checked
    against its types, and gives new output tensors in order."""

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]: ...


@runtime_checkable
class Profiler(Protocol):
    """A runner that can also time the steps of its program."""

    def profile(self, inputs: Sequence[torch.Tensor], repeats: int = 10) -> list[tuple[str, float]]:
        """Each step in order: its name, and the median of its times in seconds."""
        ...


class Target(ABC):
    """A device that graphs can be compiled for."""

    # The name of the entry point, and one line for `hardy targets`.
    kind: ClassVar[str]
    summary: ClassVar[str]
    # Whether the artifact must hold the data of the graph's constants besides the package's weights.
    keeps_graph_weights: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def create(cls, argument: str) -> Target:
        """The target for what follows the colon ("" without one); TargetError lists what exists."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The full name that creates this very target again, such as `cpu:avx2`."""

    @abstractmethod
    def describe(self) -> Device:
        """The hardware."""

    @abstractmethod
    def supports(self, node: Node) -> Support:
        """Whether this node can be lowered as it is: the answer of the table that lowers."""

    @abstractmethod
    def passes(self) -> tuple[Pass, ...]:
        """The pipeline that brings any graph into the form that `stages` takes."""

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """The steps of lowering, in order."""

    @abstractmethod
    def load(self, artifact: Loaded) -> Runner:
        """Make a compiled program ready to run; ArtifactError where this machine lacks what it needs."""

    def check(self) -> list[str]:
        """What is missing on this machine to compile and run, in words; empty when all is there."""
        return []

    def draw_timeline(self, artifact: Loaded, path: Path) -> list[Path]:
        """Draw what a compiled program does over time; the files written, `path` or others beside it.

        UsageError for a target without a model of that.
        """
        raise UsageError(f"{self.name} has no timeline of a program")

    def remark(self) -> str:
        """One line for people who run a program here, such as that a simulator runs it; else empty."""
        return ""

    def cost(self, node: Node) -> float | None:
        """Estimated seconds of one node, None where the target has no model of it."""
        return None


def installed_targets() -> dict[str, EntryPoint]:
    """The declared targets by kind, not loaded yet; TargetError where two packages declare one."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise TargetError(
                f"two packages declare a target {entry.name!r}", where=f"{other.value} and {entry.value}"
            )
    return dict(sorted(found.items()))


def load_target(entry: EntryPoint) -> type[Target]:
    """The class that an entry names; TargetError where it cannot be imported or is no target."""
    try:
        loaded = entry.load()
    except (ImportError, AttributeError) as error:
        raise TargetError(
            f"the target {entry.name!r} cannot be loaded: {error}",
            where=entry.value,
            hint="install what it needs, or uninstall the package that declares it",
        ) from error
    return require_target(loaded, f"the target {entry.name!r}", entry.value)


def require_target(loaded: object, what: str, where: str) -> type[Target]:
    """`loaded` as a target's class; TargetError where it is no subclass of Target, or not a whole one."""
    if not (isinstance(loaded, type) and issubclass(loaded, Target)):
        raise TargetError(f"{what} is not a subclass of hardy.Target", where=where)
    lacking = [n for n in ("kind", "summary") if not hasattr(loaded, n)] + sorted(loaded.__abstractmethods__)
    if lacking:
        raise TargetError(f"{what} does not define {', '.join(lacking)}", where=where)
    return loaded


def find_target(name: str) -> Target:
    """The target of this name; TargetError lists those installed. No other target is loaded."""
    kind, _, argument = name.partition(":")
    entries = installed_targets()
    if kind not in entries:
        raise TargetError(
            f"there is no target {kind!r}", hint=f"installed are {', '.join(entries) or 'none'}"
        )
    return load_target(entries[kind]).create(argument)


def refuse_unsupported(target: Target, graph: Graph) -> None:
    """Raise for every node that the target does not take, with op, source and reason."""
    refused = []
    for node in graph.nodes:
        support = target.supports(node)
        if not support:
            refused.append(Refusal(node.op.name, node.source, support.reason))
    if refused:
        raise UnsupportedError(f"{target.name} does not take every node", refusals=refused)
