"""Targets whose device takes a part of a graph and leaves the rest to a host."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hardy.compiler.cost import node_macs
from hardy.compiler.errors import Refusal, UnsupportedError, UsageError
from hardy.compiler.ir import Builder, Constant, Graph, Input, Node
from hardy.compiler.pipeline import Pipeline
from hardy.compiler.placement.bundle import LoweredStage, bundle, open_bundle, open_stages
from hardy.compiler.placement.plan import Plan, plan_stages
from hardy.targets.target import YES, Loaded, Package, Runner, Stage, Support, Target, find_target, no


@dataclass(frozen=True)
class LoweredPlan:
    """A plan and what lowering made of each of its stages."""

    plan: Plan
    stages: tuple[LoweredStage, ...]


class HostedTarget(Target):
    """A target that cuts a graph into stages for its own device and for a named host.

    The device takes the nodes that `takes` says; every other node runs on `host`, a target of its own.
    The plan is part of the artifact, with each device's share of the multiply-accumulates.
    """

    host: Target

    @property
    @abstractmethod
    def device_name(self) -> str:
        """What the plan calls the device."""

    @abstractmethod
    def takes(self, node: Node) -> Support:
        """Whether the device itself computes a node."""

    def choose(self, graph: Graph) -> Set[Node]:
        """The nodes of a graph that the device computes: by default those that it takes."""
        return {n for n in graph.nodes if not isinstance(n.op, Input | Constant) and self.takes(n)}

    def check_plan(self, plan: Plan) -> None:
        """Raise UnsupportedError for a plan that the device cannot carry out; by default it takes all."""

    @abstractmethod
    def lower_part(self, graph: Graph) -> Package:
        """Lower a stage whose nodes the device takes."""

    @abstractmethod
    def load_part(self, part: Loaded) -> Runner:
        """Make a lowered stage ready to run."""

    @abstractmethod
    def advice(self, graph: Graph) -> str:
        """What to do about a graph of which the device takes nothing."""

    def supports(self, node: Node) -> Support:
        if isinstance(node.op, Input | Constant) or self.takes(node):
            return YES
        return _host_supports(self.host, node)

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("plan", self._plan, lambda p: {"plan.txt": show_plan(p)}),
            Stage("parts", self._lower, _dump_parts),
            Stage("bundle", self._bundle, lambda p: dict(p.files)),
        )

    def load(self, artifact: Loaded) -> Runner:
        def load(device: str, part: Loaded) -> Runner:
            return self.load_part(part) if device == self.device_name else find_target(device).load(part)

        return open_bundle(artifact, load)

    def device_files(self) -> Mapping[str, bytes]:
        """Files that make the device what it is, for the artifact's folder `device/`; by default none."""
        return {}

    def draw_part(self, part: Loaded, path: Path) -> None:
        """Draw the timeline of one lowered stage."""
        raise UsageError(f"{self.name} has no timeline of a program")

    def draw_timeline(self, artifact: Loaded, path: Path) -> list[Path]:
        parts = [part for device, part in open_stages(artifact) if device == self.device_name]
        paths = [path]
        if len(parts) > 1:
            paths = [path.with_stem(f"{path.stem}-{number}") for number in range(len(parts))]
        for part, file in zip(parts, paths, strict=True):
            self.draw_part(part, file)
        return paths

    def check(self) -> list[str]:
        return self.host.check()

    def _plan(self, graph: Graph) -> Plan:
        chosen = self.choose(graph)
        plan = plan_stages(graph, lambda node: self.device_name if node in chosen else self.host.name)
        self.check_plan(plan)
        if not any(stage.device == self.device_name for stage in plan.stages):
            refusals = [
                Refusal(n.op.name, n.source, self.takes(n).reason)
                for n in graph.nodes
                if not isinstance(n.op, Input | Constant) and node_macs(n)
            ]
            raise UnsupportedError(
                f"nothing in the graph can run on {self.device_name}",
                refusals=refusals,
                hint=self.advice(graph),
            )
        return plan

    def _lower(self, plan: Plan) -> LoweredPlan:
        from hardy.compiler.placement.lowering import lower_stage

        lowered = []
        for stage in plan.stages:
            if stage.device == self.device_name:
                package = self.lower_part(stage.part.graph)
                lowered.append(LoweredStage(self.device_name, stage.part.graph, package))
            else:
                lowered.append(lower_stage(self.host, stage.part.graph))
        return LoweredPlan(plan, tuple(lowered))

    def _bundle(self, lowered: LoweredPlan) -> Package:
        package = bundle(lowered.plan, lowered.stages)
        shares = {d: lowered.plan.share(d) for d in dict.fromkeys(s.device for s in lowered.plan.stages)}
        files = {**package.files, "plan.txt": show_plan(lowered.plan).encode()}
        files |= {f"device/{path}": data for path, data in self.device_files().items()}
        return Package(files, package.weights, {**package.manifest, "macs_share": shares}, package.segments)


def show_plan(plan: Plan) -> str:
    """A plan as text: one stage a line, then what the stages on a host are made of."""
    lines = []
    devices = dict.fromkeys(stage.device for stage in plan.stages)
    for device in devices:
        lines.append(f"{device}: {plan.share(device):.2%} of the multiply-accumulates")
    for number, stage in enumerate(plan.stages):
        nodes = [n for n in stage.part.graph.nodes if not isinstance(n.op, Input | Constant)]
        lines.append(f"stage {number} on {stage.device}: {len(nodes)} nodes, {stage.macs} MACs")
        lines.append(f"  takes {_types(stage.part.graph.input_types())}")
        lines.append(f"  gives {_types(stage.part.graph.output_types())}")
        lines.extend(f"    {n.op.name} {n.type}" + (f"  # {n.source}" if n.source else "") for n in nodes)
    return "\n".join(lines) + "\n"


def _types(types: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {t}" for name, t in types.items()) or "nothing"


def _dump_parts(lowered: LoweredPlan) -> Mapping[str, str | bytes]:
    return {
        f"{i}-{stage.device.partition(':')[0]}/{name}": data
        for i, stage in enumerate(lowered.stages)
        for name, data in stage.package.files.items()
    }


@lru_cache(maxsize=1024)
def _host_supports(host: Target, node: Node) -> Support:
    """Whether a host takes a node once its own passes have run on it."""
    from hardy.compiler.driver import plan_passes

    b = Builder("node")
    seen: dict[Any, Any] = {}
    operands = []
    for value in node.operands:
        if value not in seen:
            literal = value.literal
            seen[value] = b.input(f"x{len(seen)}", value.type) if literal is None else b.constant(literal)
        operands.append(seen[value])
    results = b.append(Node(node.op, tuple(operands), node.types, node.name, node.source))
    graph = b.finish({f"y{i}": v for i, v in enumerate(results)})
    final = Pipeline(plan_passes(host, None)).run(graph).graph
    for made in final.nodes:
        support = host.supports(made)
        if not support:
            return no(f"{host.name} does not take it: {made.op.name}: {support.reason}")
    return YES


def parse_host(argument: str) -> tuple[str, Target]:
    """`DEVICE` or `DEVICE+HOST` as the device's name and the host, by default `cpu`."""
    device, _, host = argument.partition("+")
    return device, find_target(host or "cpu")
