"""Removes the channels, hidden neurons and attention heads that matter least: the graph gets smaller."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from hardy.compiler.cost import node_macs
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph, Node, Op
from hardy.compiler.notes import note
from hardy.compiler.pipeline import Pass
from hardy.passes.channel_atoms import place_of
from hardy.passes.channel_groups import ChannelGroup, Channels, Mask, channel_groups, choose
from hardy.passes.channel_scores import Scores, unit_scores
from hardy.passes.expected import as_target, note_expected
from hardy.passes.scores import data_for, require_score
from hardy.passes.shrink import macs_without, shrink

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove the channels, hidden neurons and heads that matter least, wherever they occur.

    macs: the share of the graph's MACs to keep. Units go in the order of their score over the MACs that
        they cost, until no more than this is left.
    ratio: instead of `macs`, the share of the units of every group to remove.
    score: "magnitude", "wanda" or "first_order"; see `hardy.passes.channel_scores`.
    multiple: what the channels left in a layer are a multiple of, wherever any are removed; by default
        what fills the target's vectors, 1 without a target.
    least: the share of each group's units that always stays; one unit always does.
    through_norms: also remove channels that a layer normalization takes its statistics over, which
        changes what all others become.
    only, skip: shell patterns of layers; a group goes by the layers that compute it.
    label: the name of the classes in the data, for first-order scores.
    calibration, samples: the data for scores, as `open_samples` takes it, and how many of its feeds to use.
    """

    exact: ClassVar[bool] = False

    macs: float | None = None
    ratio: float | None = None
    score: str = "magnitude"
    multiple: int | None = None
    least: float = 0.1
    through_norms: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    label: str = "label"
    calibration: object = None
    samples: int | None = None
    target: object = None

    def __post_init__(self) -> None:
        if self.macs is not None and self.ratio is not None:
            raise UsageError("prune_channels takes either macs or ratio")
        for name, value in (("macs", self.macs), ("ratio", self.ratio), ("least", self.least)):
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} must lie in 0..1, got {value}")
        if self.multiple is not None and self.multiple < 1:
            raise UsageError(f"multiple must be at least 1, got {self.multiple}")

    def run(self, graph: Graph) -> Graph:
        if self.macs is None and self.ratio is None:
            raise UsageError("prune_channels needs macs or ratio", hint="macs=0.6 keeps 60 % of the MACs")
        require_score(self.score, self.calibration)
        target = as_target(self.target)
        multiple = self.multiple or (target.describe().channel_multiple if target is not None else 1)
        channels = channel_groups(graph, self.through_norms)
        _note_refused(channels)
        chosen = choose(channels, self.only, self.skip)
        data = data_for(graph, self.calibration, self.samples)
        scores = unit_scores(channels, chosen, self.score, data, self.label)
        queues = [Queue(g, s, _allowed(g, multiple, self.least)) for g, s in zip(chosen, scores, strict=True)]
        if self.ratio is not None:
            for queue in queues:
                queue.remove_share(self.ratio)
            removed = _removed(channels, queues)
        else:
            assert self.macs is not None
            removed = _within(channels, queues, self.macs)
        after = shrink(channels, removed)
        rows = [
            {"group": q.group.name, "layers": len(q.group.producers), "units": len(q.order), "kept": q.kept}
            for q in queues
        ]
        if rows:
            note("groups", rows)
        note_expected(graph, after, target)
        return after


def _note_refused(channels: Channels) -> None:
    reasons = Counter(channels.refused.values())
    if reasons:
        note("refused", [{"layers": count, "reason": reason} for reason, count in reasons.items()])


def _allowed(group: ChannelGroup, multiple: int, least: float) -> list[int]:
    """The numbers of units that may stay, falling, from all of them."""
    total = len(group.units)
    step = multiple // math.gcd(multiple, group.width)
    fewest = max(1, math.ceil(least * total))
    return [total, *[n for n in range(total - 1, fewest - 1, -1) if n % step == 0]]


@dataclass
class Queue:
    """One group on its way: its units from the least score up, and how far they are gone."""

    group: ChannelGroup
    scores: Scores
    allowed: list[int]
    order: Indices = field(init=False)
    at: int = 0

    def __post_init__(self) -> None:
        self.order = np.argsort(self.scores, kind="stable")

    @property
    def kept(self) -> int:
        return self.allowed[self.at]

    def next(self) -> Indices:
        """The units that the next step removes; none where no more may go."""
        after = self.allowed[min(self.at + 1, len(self.allowed) - 1)]
        return self.order[len(self.order) - self.kept : len(self.order) - after]

    def atoms(self, units: Indices) -> list[int]:
        return [self.group.units[u] for u in units.tolist()]

    def remove_share(self, ratio: float) -> None:
        """Go to the allowed number that is nearest to what the ratio leaves, the larger of two."""
        wanted = len(self.order) * (1 - ratio)
        self.at = min(range(len(self.allowed)), key=lambda i: (abs(self.allowed[i] - wanted), i))

    def gone(self) -> list[int]:
        """The atoms that are removed."""
        return self.atoms(self.order[: len(self.order) - self.kept])


def _removed(channels: Channels, queues: Sequence[Queue]) -> Mask:
    removed = channels.nothing()
    for queue in queues:
        removed[queue.gone()] = True
    return removed


def _within(channels: Channels, queues: Sequence[Queue], share: float) -> Mask:
    """Take the step that costs the least score for the MACs it saves, until no more than `share` is left."""
    meter = Meter(channels, {atom for q in queues for atom in q.group.units})
    removed = channels.nothing()
    budget = share * meter.before
    taken: list[int] = []
    heap: list[tuple[float, int]] = []

    def offer(i: int) -> float | None:
        """Put a group's next step among those to choose from, at its present price."""
        step = queues[i].next()
        saved = meter.saving(queues[i].atoms(step), removed)
        if not saved:
            return None
        price = float(queues[i].scores[step].sum()) / saved
        heapq.heappush(heap, (price, i))
        return price

    for i in range(len(queues)):
        offer(i)
    while meter.total > budget:
        if not heap:
            raise UsageError(
                f"no more than {1 - meter.total / meter.before:.1%} of the MACs can be removed, "
                f"{1 - share:.1%} are asked for",
                hint="lower `least` or `multiple`, or allow more layers; some must stay: "
                + "; ".join(dict.fromkeys(channels.refused.values())),
            )
        _, i = heapq.heappop(heap)
        # What went elsewhere since may have made this group's layers smaller, and its step dearer.
        price = offer(i)
        if price is None or heap[0] != (price, i):
            continue
        heapq.heappop(heap)
        meter.change(queues[i].atoms(queues[i].next()), removed, True)
        queues[i].at += 1
        taken.append(i)
        offer(i)
    # The last step may save more than was needed: what went before it and was dear comes back.
    for i in reversed(taken[:-1]):
        queues[i].at -= 1
        atoms = queues[i].atoms(queues[i].next())
        meter.change(atoms, removed, False)
        if meter.total > budget:
            meter.change(atoms, removed, True)
            queues[i].at += 1
    return removed


class Meter:
    """Counts the MACs that are left while units are removed; looks at the nodes that change alone."""

    def __init__(self, channels: Channels, atoms: set[int]) -> None:
        self.channels = channels
        self.macs: dict[Node, int] = {}
        self.users: dict[int, list[Node]] = {}
        for node in channels.graph.nodes:
            if type(node.op).macs is Op.macs:
                continue
            self.macs[node] = node_macs(node)
            places = [place_of(node, position) for position in range(len(node.operands))]
            own = {
                atom for place in places for ids in channels.axes[place] for atom in np.unique(ids).tolist()
            }
            for atom in sorted(own & atoms):
                self.users.setdefault(atom, []).append(node)
        self.before = self.total = sum(self.macs.values())

    def _changed(self, atoms: Sequence[int], removed: Mask, gone: bool) -> Mapping[Node, int]:
        """The MACs of the nodes that have these atoms, when they are gone, or are back."""
        other = removed.copy()
        other[list(atoms)] = gone
        nodes = dict.fromkeys(node for atom in atoms for node in self.users.get(atom, ()))
        return {node: macs_without(self.channels, node, other) for node in nodes}

    def saving(self, atoms: Sequence[int], removed: Mask) -> int:
        return sum(self.macs[node] - macs for node, macs in self._changed(atoms, removed, True).items())

    def change(self, atoms: Sequence[int], removed: Mask, gone: bool) -> None:
        """Remove atoms, or put them back."""
        for node, macs in self._changed(atoms, removed, gone).items():
            self.total += macs - self.macs[node]
            self.macs[node] = macs
        removed[list(atoms)] = gone
