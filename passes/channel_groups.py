"""Channels that can be removed from a graph: which go together, what they are called, what stays and why.

The analysis follows every axis through the graph (`hardy.passes.channel_rules`). A unit is the least
that can go: one channel, one hidden neuron, or one head with its rows in all projections. Units that
occur in the same axes form a group, such as the channels of a residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Constant, Graph, Input
from hardy.passes.channel_atoms import Axes, Ids, Place, place_of
from hardy.passes.channel_rules import Rules
from hardy.passes.layers import Layer, layers, select

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Occurrence:
    """Where a group's units lie in a constant that one layer multiplies by: `indices[u]` are those of
    unit u along `axis`. Output channels lie along the layer's `out_axis`."""

    layer: Layer
    axis: int
    indices: tuple[Ids, ...]

    @property
    def is_output(self) -> bool:
        return self.axis == self.layer.out_axis


@dataclass(frozen=True)
class ChannelGroup:
    """Units that are alike. `name` is the first layer's that computes them; `units` are their atoms."""

    name: str
    units: tuple[int, ...]
    occurrences: tuple[Occurrence, ...]

    @property
    def width(self) -> int:
        """Output channels of the first layer in one unit: 1, or the size of a head."""
        return next(len(o.indices[0]) for o in self.occurrences if o.is_output)

    @property
    def producers(self) -> tuple[str, ...]:
        """The layers that compute the channels."""
        return tuple(dict.fromkeys(o.layer.name for o in self.occurrences if o.is_output))


@dataclass(frozen=True)
class Channels:
    """What the analysis found.

    `axes` holds the atom of every index of every axis, for results and for each use of a constant;
    `refused` says for each layer without a removable channel why.
    """

    graph: Graph
    axes: Mapping[Place, Axes]
    groups: tuple[ChannelGroup, ...]
    refused: Mapping[str, str]
    count: int

    def nothing(self) -> Mask:
        """The removal of no atom."""
        return np.zeros(self.count, dtype=np.bool_)

    def kept(self, place: Place, removed: Mask) -> tuple[Mask, ...]:
        """Which indices of each axis stay."""
        return tuple(~removed[ids] for ids in self.axes[place])

    def shape(self, place: Place, removed: Mask) -> tuple[int, ...]:
        """What is left of a shape."""
        return tuple(int(np.count_nonzero(keep)) for keep in self.kept(place, removed))


def channel_groups(graph: Graph, through_norms: bool = False) -> Channels:
    """Find what can be removed, in time almost linear in the nodes and their sizes.

    Channels that a layer or RMS normalization takes its statistics over stay, unless `through_norms`:
    removing some changes the statistics of all others.
    """
    rules = Rules(through_norms)
    found = _follow(graph, rules)
    rules.decide()
    roots = rules.atoms.roots()
    axes = {place: tuple(roots[ids] for ids in each) for place, each in found.items()}
    fixed = rules.atoms.fixed()
    named = list(layers(graph))
    groups = tuple(_groups(axes, fixed, named))
    free = {name for g in groups for name in g.producers}
    refused = {
        layer.name: _reason(rules, axes[place_of(layer.node, layer.place)][layer.out_axis])
        for layer in named
        if layer.name not in free
    }
    return Channels(graph, axes, groups, refused, len(roots))


def _follow(graph: Graph, rules: Rules) -> dict[Place, Axes]:
    found: dict[Place, Axes] = {}
    for node in graph.nodes:
        if isinstance(node.op, Constant):
            rules.constant.add(node.values[0])
            continue
        if isinstance(node.op, Input):
            axes = found[node.values[0]] = rules.fresh(node.type)
            rules.atoms.fix_all(axes, "an input of the graph has it")
            continue
        operands = []
        for position, value in enumerate(node.operands):
            place = place_of(node, position)
            if place not in found:
                found[place] = rules.fresh(value.type)
            operands.append(found[place])
        if all(v in rules.constant for v in node.operands):
            rules.constant.update(node.values)
        for value, axes in zip(node.values, rules.apply(node, operands), strict=True):
            found[value] = axes
    for value in graph.outputs:
        rules.atoms.fix_all(found.get(value, ()), "an output of the graph has it")
    return found


@dataclass
class _Members:
    """Units with the same signature, and the first place that shows them."""

    units: list[int] = field(default_factory=list)


def _groups(axes: Mapping[Place, Axes], fixed: Mask, named: Sequence[Layer]) -> Iterator[ChannelGroup]:
    """Free atoms by the axes that they occur in; groups of one unit, or that no layer computes, are none."""
    signature: dict[int, list[int]] = {}
    number = 0
    for each in axes.values():
        for ids in each:
            for atom in np.unique(ids[~fixed[ids]]).tolist():
                signature.setdefault(atom, []).append(number)
            number += 1
    members: dict[tuple[int, ...], _Members] = {}
    for atom in sorted(signature):
        members.setdefault(tuple(signature[atom]), _Members()).units.append(atom)
    home = {atom: key for key, m in members.items() for atom in m.units}
    occurrences: dict[tuple[int, ...], list[Occurrence]] = {}
    for layer in named:
        for axis, ids in enumerate(axes[place_of(layer.node, layer.place)]):
            where: dict[int, list[int]] = {}
            for index, atom in enumerate(ids.tolist()):
                if not fixed[atom]:
                    where.setdefault(atom, []).append(index)
            for key in dict.fromkeys(home[atom] for atom in where):
                indices = tuple(np.array(where[atom]) for atom in members[key].units)
                occurrences.setdefault(key, []).append(Occurrence(layer, axis, indices))
    for key, places in occurrences.items():
        producer = next((o.layer.name for o in places if o.is_output), None)
        if producer is not None and len(members[key].units) > 1:
            yield ChannelGroup(producer, tuple(members[key].units), tuple(places))


def _reason(rules: Rules, ids: Ids) -> str:
    reasons = [rules.atoms.reason(i) for i in ids.tolist()]
    return next(filter(None, reasons), "there is only one to remove")


def choose(
    channels: Channels, only: Sequence[str] = (), skip: Sequence[str] = ()
) -> tuple[ChannelGroup, ...]:
    """The groups that a layer matching `only` computes (all, if empty), and none matching `skip`."""
    named = list(layers(channels.graph))
    wanted = {layer.name for layer in select(named, only)}
    unwanted = {layer.name for layer in select(named, skip)} if skip else set()
    chosen = tuple(g for g in channels.groups if wanted & {*g.producers} and not unwanted & {*g.producers})
    if not chosen and only:
        reasons = "; ".join(f"{n}: {r}" for n, r in channels.refused.items() if n in wanted)
        raise UsageError("none of these layers has channels that can be removed", hint=reasons)
    return chosen
