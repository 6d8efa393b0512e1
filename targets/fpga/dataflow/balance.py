"""Chooses the folding of every layer: the least initiation interval that fits the chip, and no more than it
needs.

The slowest stage sets the pace, so the pace is searched for: for each candidate, the cheapest foldings at
least as fast are combined, and the least interval whose combination fits is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardy.targets.fpga.dataflow.folding import Option
from hardy.targets.fpga.dataflow.resources import Resources

Amounts = NDArray[np.int64]

# Combinations that take the same part of DSP slices and block RAMs, in so many steps, compete by LUTs.
GRID = 64
NEARLY = 1.05


def balance(
    layers: Sequence[Sequence[Option]], budget: Resources, interval: int | None = None
) -> tuple[Option, ...] | None:
    """An option of each layer, for the least interval that fits; with `interval`, the cheapest that keep it.

    None where nothing fits.
    """
    if interval is not None:
        return combine(layers, budget, interval)
    least = max(min(o.cycles for o in options) for options in layers)
    candidates = sorted({o.cycles for options in layers for o in options if o.cycles >= least})
    best = combine(layers, budget, candidates[-1])
    if best is None:
        return None
    low, high = 0, len(candidates) - 1  # the answer lies in low..high
    while low < high:
        middle = (low + high) // 2
        found = combine(layers, budget, candidates[middle])
        if found is None:
            low = middle + 1
        else:
            best, high = found, middle
    return best


@dataclass(frozen=True, eq=False)
class _Frontier:
    """Combinations so far: what they take, which one each grew from, and by which option."""

    amounts: Amounts
    parents: Amounts
    choices: Amounts


def combine(
    layers: Sequence[Sequence[Option]], budget: Resources, interval: int
) -> tuple[Option, ...] | None:
    """An option of each layer within an interval, together the smallest part of a budget; None where none
    fits."""
    limits = np.array(budget.amounts)
    zero = np.zeros((1, len(limits)), np.int64)
    frontier = _Frontier(zero, np.zeros(1, np.int64), np.zeros(1, np.int64))
    history: list[_Frontier] = []
    allowed = [_smallest([o for o in options if o.cycles <= interval]) for options in layers]
    for options in allowed:
        if not options:
            return None
        frontier = _extend(frontier, np.array([o.resources.amounts for o in options]), limits)
        if not len(frontier.amounts):
            return None
        history.append(frontier)
    shares = frontier.amounts / np.maximum(limits, 1)
    largest = shares.max(1)
    # Of those that are about as good in what is scarcest, the one that takes least altogether.
    place = int(np.where(largest <= NEARLY * largest.min(), shares.sum(1), np.inf).argmin())
    chosen: list[Option] = []
    for options, step in zip(reversed(allowed), reversed(history), strict=True):
        chosen.append(options[int(step.choices[place])])
        place = int(step.parents[place])
    return tuple(reversed(chosen))


def _smallest(options: list[Option]) -> list[Option]:
    """The options that no other beats in every resource."""
    if not options:
        return []
    amounts = np.array([o.resources.amounts for o in options])
    order = np.lexsort(amounts.T[::-1])
    kept: list[int] = []
    for i in order:
        if not (amounts[kept] <= amounts[i]).all(1).any():
            kept.append(i)
    return [options[i] for i in kept]


def _extend(frontier: _Frontier, options: Amounts, limits: Amounts) -> _Frontier:
    """Every combination with every option, without those that are too large or no better than others."""
    amounts = frontier.amounts[:, None] + options[None]
    parents, choices = np.indices(amounts.shape[:2]).reshape(2, -1)
    amounts = amounts.reshape(-1, len(limits))
    fits = (amounts <= limits).all(1)
    amounts, parents, choices = amounts[fits], parents[fits], choices[fits]
    cells = amounts[:, 2:] * GRID // np.maximum(limits[2:], 1)
    order = np.lexsort((amounts[:, 1], amounts[:, 0], cells[:, 1], cells[:, 0]))
    cells = cells[order]
    first = np.ones(len(order), bool)
    first[1:] = (cells[1:] != cells[:-1]).any(1)
    kept = order[first]
    return _Frontier(amounts[kept], parents[kept], choices[kept])
