"""A plan: a graph as stages that run one after another, each on one device."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hardy.compiler.cost import node_macs
from hardy.compiler.cut import Part, split
from hardy.compiler.ir import Constant, Graph, Input, Node


@dataclass(frozen=True)
class PlannedStage:
    """A convex part of the graph on one device: everything it needs is computed before it starts."""

    device: str
    part: Part

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(node_macs(node) for node in self.part.graph.nodes)


@dataclass(frozen=True)
class Plan:
    """Stages in the order they run. Values that cross stages have one name in all of them."""

    graph: Graph
    stages: tuple[PlannedStage, ...]

    def share(self, device: str) -> float:
        """Of all multiply-accumulates, the share that a device computes; 1 where there are none."""
        total = sum(stage.macs for stage in self.stages)
        return sum(s.macs for s in self.stages if s.device == device) / total if total else 1.0


def plan_stages(graph: Graph, device_of: Callable[[Node], str]) -> Plan:
    """The graph in as few stages as its devices allow.

    `device_of` is asked once for each node but inputs and constants. A stage takes every node of its
    device whose operands are there, and so is convex; with two devices no plan that starts on the same
    device has fewer stages, and every device is tried as the first.
    """
    devices = {n: device_of(n) for n in graph.nodes if not isinstance(n.op, Input | Constant)}
    kinds = list(dict.fromkeys(devices.values()))
    schedules = [_schedule(graph, devices, first) for first in kinds]
    best: Sequence[tuple[str, list[Node]]] = min(schedules, key=len, default=())
    parts = split(graph, [nodes for _, nodes in best])
    return Plan(
        graph, tuple(PlannedStage(device, part) for (device, _), part in zip(best, parts, strict=True))
    )


def _schedule(graph: Graph, devices: Mapping[Node, str], first: str) -> list[tuple[str, list[Node]]]:
    """Stages that start on `first`: each runs until none of its device's nodes is ready."""
    waiting: dict[Node, int] = {}
    users: dict[Node, list[Node]] = {}
    for node in devices:
        needs = {v.node for v in node.operands if v.node in devices}
        waiting[node] = len(needs)
        for need in needs:
            users.setdefault(need, []).append(node)
    position = {node: i for i, node in enumerate(graph.nodes)}
    ready: dict[str, list[tuple[int, Node]]] = {device: [] for device in devices.values()}
    for node, count in waiting.items():
        if not count:
            ready[devices[node]].append((position[node], node))
    stages: list[tuple[str, list[Node]]] = []
    device = first
    while any(ready.values()):
        if not ready[device]:
            # With more than two devices, the one that can take most next.
            device = max(ready, key=lambda d: len(ready[d]))
        queue = ready[device]
        heapq.heapify(queue)
        members: list[Node] = []
        while queue:
            node = heapq.heappop(queue)[1]
            members.append(node)
            for user in users.get(node, ()):
                waiting[user] -= 1
                if not waiting[user]:
                    heapq.heappush(ready[devices[user]], (position[user], user))
        stages.append((device, members))
    return stages
