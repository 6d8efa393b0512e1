"""Timing that holds on shared, noisy machines: contenders in turn, compared by medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds a call: median, best, and the 90th percentile, over `runs` calls."""

    median: float
    best: float
    p90: float
    runs: int


def time_in_turn(
    contenders: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 3.0,
    least: int = 5,
    most: int = 1000,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Call the contenders A B C A B C ..., after one warm-up each, for about `seconds` in all.

    Each is called at least `least` and at most `most` times, so that a disturbance of the machine
    falls on all of them alike. `clock` measures a call: `time.thread_time` leaves out what other
    programs take from a call of one thread.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    deadline = time.perf_counter() + seconds
    while True:
        for name, call in contenders.items():
            started = clock()
            call()
            samples[name].append(clock() - started)
        rounds = len(next(iter(samples.values())))
        if rounds >= most or (rounds >= least and time.perf_counter() > deadline):
            return {name: _summarize(values) for name, values in samples.items()}


def _summarize(values: list[float]) -> Timing:
    ordered = sorted(values)
    return Timing(
        statistics.median(ordered),
        ordered[0],
        ordered[min(len(ordered) - 1, len(ordered) * 9 // 10)],
        len(ordered),
    )
