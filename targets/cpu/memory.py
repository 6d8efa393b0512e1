"""Plans one static arena: every buffer's offset, from the calls during which it is alive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hardy.targets.cpu.program import Call, Program
from hardy.targets.cpu.runner import ALIGNMENT

# Buffers alive for more calls than this are compared with all others.
LONG = 1024


@dataclass(frozen=True)
class Interval:
    """A buffer's size, and the first and last call that use it."""

    size: int
    first: int
    last: int

    def overlaps(self, other: Interval) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """Where each arena buffer lies; buffers that share memory by design have the same `group`."""

    offsets: tuple[int, ...]
    intervals: tuple[Interval, ...]
    groups: tuple[int, ...]
    total: int

    def table(self) -> str:
        """One buffer a line."""
        lines = [f"arena {self.total} bytes, {len(self.offsets)} buffers, lower bound {self.lower_bound()}"]
        lines.append("buffer   offset       size  first   last  shares")
        for i, (offset, v) in enumerate(zip(self.offsets, self.intervals, strict=True)):
            shared = "" if self.groups[i] == i else str(self.groups[i])
            lines.append(f"{i:6d} {offset:8d} {v.size:10d} {v.first:6d} {v.last:6d}  {shared}".rstrip())
        return "\n".join(lines) + "\n"

    def lower_bound(self) -> int:
        """The most bytes that are alive in one call: no plan can take less."""
        merged = group_intervals(self.intervals, self.groups)
        events: dict[int, int] = {}
        for v in merged.values():
            events[v.first] = events.get(v.first, 0) + _aligned(v.size)
            events[v.last + 1] = events.get(v.last + 1, 0) - _aligned(v.size)
        most = alive = 0
        for at in sorted(events):
            alive += events[at]
            most = max(most, alive)
        return most


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan(program: Program) -> Plan:
    """Offsets for all arena buffers of the program."""
    intervals = lifetimes(program.buffers, program.calls)
    groups = share_in_place(intervals, program.calls)
    merged = group_intervals(intervals, groups)
    placed = place(list(merged.values()))
    offset_of = dict(zip(merged, placed, strict=True))
    offsets = tuple(offset_of[g] for g in groups)
    total = max((o + _aligned(v.size) for o, v in zip(offsets, intervals, strict=True)), default=0)
    return Plan(offsets, tuple(intervals), tuple(groups), total)


def lifetimes(sizes: Sequence[int], calls: Sequence[Call]) -> list[Interval]:
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for position, call in enumerate(calls):
        for ref in call.args:
            if ref.space == "arena":
                first.setdefault(ref.index, position)
                last[ref.index] = position
    return [Interval(size, first.get(i, 0), last.get(i, 0)) for i, size in enumerate(sizes)]


def share_in_place(intervals: Sequence[Interval], calls: Sequence[Call]) -> list[int]:
    """For each buffer the one whose memory it takes over: a dying input of the call that first writes it."""
    groups = list(range(len(intervals)))
    for position, call in enumerate(calls):
        taken: set[int] = set()
        for read, written in call.kernel.in_place:
            a, b = call.args[read], call.args[written]
            if a.space != "arena" or b.space != "arena" or a.offset or b.offset or a.index == b.index:
                continue
            root = groups[a.index]
            used_once = sum(r.space == "arena" and r.index == a.index for r in call.args) == 1
            dies, born = intervals[a.index].last == position, intervals[b.index].first == position
            fits = (
                intervals[b.index].size <= intervals[root].size
                and intervals[a.index].size == intervals[b.index].size
            )
            if used_once and dies and born and fits and groups[b.index] == b.index and root not in taken:
                groups[b.index] = root
                taken.add(root)
    return groups


def group_intervals(intervals: Sequence[Interval], groups: Sequence[int]) -> dict[int, Interval]:
    merged: dict[int, Interval] = {}
    for v, g in zip(intervals, groups, strict=True):
        if g in merged:
            m = merged[g]
            v = Interval(max(m.size, v.size), min(m.first, v.first), max(m.last, v.last))
        merged[g] = v
    return merged


def place(intervals: Sequence[Interval]) -> list[int]:
    """Offsets by greedy best fit, largest first: each takes the tightest gap among those alive with it.

    Only neighbours in time are compared, found through an index of calls, so long programs stay cheap.
    """
    order = sorted(range(len(intervals)), key=lambda i: (-intervals[i].size, intervals[i].first, i))
    offsets = [0] * len(intervals)
    placed: list[int] = []
    alive: dict[int, list[int]] = {}
    long_lived: list[int] = []
    for i in order:
        v = intervals[i]
        short = v.last - v.first < LONG
        span = range(v.first, v.last + 1)
        others = {j for t in span for j in alive.get(t, ())}.union(long_lived) if short else placed
        rivals = sorted(
            (offsets[j], offsets[j] + _aligned(intervals[j].size)) for j in others if intervals[j].overlaps(v)
        )
        offsets[i] = _tightest(rivals, _aligned(v.size))
        placed.append(i)
        if short:
            for t in span:
                alive.setdefault(t, []).append(i)
        else:
            long_lived.append(i)
    return offsets


def _tightest(taken: Sequence[tuple[int, int]], size: int) -> int:
    """The offset of the smallest gap that holds `size`, the end of what is taken where none does."""
    best, best_gap, end = -1, 0, 0
    for low, high in taken:
        gap = low - end
        if gap >= size and (best < 0 or gap < best_gap):
            best, best_gap = end, gap
        end = max(end, high)
    return best if best >= 0 else end
