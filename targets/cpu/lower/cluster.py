"""What one kernel computes: a node or a group as nodes over values that lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hardy.compiler.ir import Builder, Constant, Input, Node, Value, decompose, remap
from hardy.compiler.ops.group import Group


@dataclass(frozen=True)
class Cluster:
    """Nodes in order, the values they read from memory, and the values they give.

    One-element constants are not among `inputs`: they become immediates. `actual` maps inputs to the
    values of the program that they stand for (themselves where missing), `results` are those of the
    outputs.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    results: tuple[Value, ...]
    actual: Mapping[Value, Value]
    title: str = ""

    @property
    def key(self) -> Hashable:
        """Equal for clusters that one kernel can serve: structure, types and immediates."""
        numbers: dict[Value, int] = {v: i for i, v in enumerate(self.inputs)}
        rows: list[Hashable] = [tuple(v.type for v in self.inputs)]
        for node in self.nodes:
            rows.append((node.op, tuple([numbers.get(v, v.literal) for v in node.operands])))
            for value in node.values:
                numbers[value] = len(numbers)
        rows.append(tuple(numbers[v] for v in self.outputs))
        return tuple(rows)

    @property
    def label(self) -> str:
        """A readable name for the kernel: what it computes and the shape of its first result."""
        shape = "x".join(map(str, self.outputs[0].type.shape)) or "scalar"
        return f"{self.title or _title(self.nodes)}_{shape}"

    def giving(self, results: Mapping[Value, Value]) -> Cluster:
        """The part of the cluster that computes these outputs: inner value to the program's value."""
        nodes = live(self.nodes, results)
        outputs = tuple(results)
        final = tuple(results.values())
        return Cluster(nodes, leaves(nodes, outputs), outputs, final, self.actual, self.title)

    def runs(self, is_injective: Callable[[Node], bool]) -> list[Cluster]:
        """The cluster as several: neighbouring injective nodes together, every other node alone."""
        runs: list[list[Node]] = []
        for node in self.nodes:
            if runs and is_injective(node) and is_injective(runs[-1][0]):
                runs[-1].append(node)
            else:
                runs.append([node])
        final = dict(zip(self.outputs, self.results, strict=True))
        where = {node: i for i, run in enumerate(runs) for node in run}
        crossing = dict.fromkeys(
            v for n in self.nodes for v in n.operands if v.node in where and where[v.node] != where[n]
        )
        clusters = []
        for i, run in enumerate(runs):
            outputs = [v for n in run for v in n.values if v in final or v in crossing]
            results = tuple(final.get(v, v) for v in outputs)
            actual = {**self.actual, **{v: final.get(v, v) for v in crossing if where[v.node] < i}}
            clusters.append(Cluster(tuple(run), leaves(run, ()), tuple(outputs), results, actual))
        return clusters


def _title(nodes: Iterable[Node]) -> str:
    """The first few ops."""
    names = list(dict.fromkeys(n.op.name for n in nodes if not isinstance(n.op, Input | Constant)))
    return "_".join([*names[:4], *(["etc"] if len(names) > 4 else [])])


def is_immediate(value: Value) -> bool:
    return value.literal is not None and value.literal.type.size == 1


def cluster_of(node: Node, keep: Callable[[Node], bool]) -> Cluster:
    """The cluster of a node or group; composites that `keep` does not want are expanded."""
    b = Builder()
    inner: dict[Value, Value] = {}
    actual: dict[Value, Value] = {}
    members, outputs = [node], node.values
    if isinstance(node.op, Group):
        body = node.op.body
        members = [n for n in body.nodes if not isinstance(n.op, Input)]
        actual = dict(zip(body.inputs, node.operands, strict=True))
        outputs = body.outputs
    for member in members:
        _append(b, member, inner, keep)
    final = tuple(inner.get(v, v) for v in outputs)
    nodes = live([n for n in b._nodes if not isinstance(n.op, Constant)], final)
    return Cluster(nodes, leaves(nodes, final), final, node.values, actual, _title(members))


def leaves(nodes: Sequence[Node], outputs: Sequence[Value]) -> tuple[Value, ...]:
    """The values that nodes read and do not compute, immediates left out, in order of first use."""
    inside = set(nodes)
    read = [v for node in nodes for v in node.operands] + list(outputs)
    return tuple(v for v in dict.fromkeys(read) if v.node not in inside and not is_immediate(v))


def live(nodes: Sequence[Node], outputs: Iterable[Value]) -> tuple[Node, ...]:
    """The nodes that the outputs depend on, in order."""
    needed = {v.node for v in outputs}
    kept = []
    for node in reversed(nodes):
        if node in needed:
            kept.append(node)
            needed.update(v.node for v in node.operands)
    return tuple(reversed(kept))


def _append(b: Builder, node: Node, mapping: dict[Value, Value], keep: Callable[[Node], bool]) -> None:
    """Append a node over mapped operands, or its decomposition where `keep` does not want it."""
    here = remap(node, mapping)
    if isinstance(here.op, Constant) or keep(here) or here.op.is_core():
        b.append(here)
        new: Sequence[Value] = here.values
    else:
        scratch = Builder()
        with scratch.at(node.source):
            values = decompose(scratch, here, here.operands)
        parts: dict[Value, Value] = {}
        for part in scratch._nodes:
            _append(b, part, parts, keep)
        new = [parts.get(v, v) for v in values]
    for old, value in zip(node.values, new, strict=True):
        if old != value:
            mapping[old] = value
