"""Chooses how symbols are coded: which symbols before tell most about the next, and how many lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardy.compiler.artifact.coding.rans import PRECISION, Ints, Model, contexts, frequencies_of, steps_of

MAX_LAGS = 3
# Lags are chosen on this many symbols at most, and looked for up to this distance.
SAMPLE = 1 << 17
FURTHEST = 2048
# What a lag must save, since each costs time.
LEAST_GAIN = 0.005
# Below this many symbols no lag earns its table.
FEW = 256
# A lane costs four bytes for its state; this many bytes of payload keep that below a hundredth.
LANE_BYTES = 400
MAX_LANES = 1 << 16


@dataclass(frozen=True)
class Plan:
    """What a model looks back at (see `rans.Model`), and the number of lanes."""

    lags: tuple[int, ...]
    centre: int
    lanes: int


def plan(symbols: NDArray[Any], count: int, rows: Sequence[int]) -> Plan:
    """How to code symbols 0...count - 1; `rows` are distances at which neighbours may be found, such as
    the length of a matrix's row."""
    centre = int(np.bincount(symbols, minlength=count).argmax())
    lags = choose_lags(symbols, count, centre, rows)
    part = symbols[:SAMPLE]
    payload = coded_bytes(count_symbols(part, count, centre, lags)) * len(symbols) / len(part)
    return Plan(lags, centre, choose_lanes(len(symbols), int(payload)))


def tabulate(arranged: NDArray[Any], count: int, plan: Plan) -> Model:
    """The model of symbols [steps, lanes]."""
    counts = count_symbols(arranged, count, plan.centre, plan.lags)
    return Model(plan.lags, plan.centre, frequencies_of(counts))


def arrange(symbols: NDArray[Any], lanes: int, filling: int) -> NDArray[Any]:
    """[steps, lanes] of consecutive parts, the end filled up."""
    steps = steps_of(len(symbols), lanes)
    full = np.full(steps * lanes, filling, symbols.dtype)
    full[: len(symbols)] = symbols
    return np.ascontiguousarray(full.reshape(lanes, steps).T)


def choose_lanes(count: int, payload: int) -> int:
    """As many lanes as their states are cheap, and enough that decoding takes few steps."""
    lanes = max(1, payload // LANE_BYTES)
    while steps_of(count, lanes) > most_steps(payload + 4 * lanes):
        lanes += max(1, lanes // 4)
    return min(lanes, MAX_LANES, count)


def most_steps(nbytes: int) -> int:
    """How many steps symbols coded in so many bytes may take: what bounds the time that a stream takes."""
    return 64 + 2 * nbytes


def choose_lags(symbols: NDArray[Any], count: int, centre: int, rows: Sequence[int]) -> tuple[int, ...]:
    """The distances that save most bytes, tables included, found one after the other."""
    part = symbols[:SAMPLE]
    if len(part) < FEW or count < 2:
        return ()

    def cost(lags: tuple[int, ...]) -> int:
        table = count_symbols(part, count, centre, lags)
        return int(coded_bytes(table)) + _table_bytes(table)

    best: tuple[int, ...] = ()
    least = cost(best)
    left = candidates(part, centre, rows)
    while left and len(best) < MAX_LAGS:
        costs = {lag: cost((*best, lag)) for lag in left}
        lag = min(costs, key=lambda n: (costs[n], n))
        if costs[lag] >= least * (1 - LEAST_GAIN):
            break
        best, least = (*best, lag), costs[lag]
        left.remove(lag)
    return best


def candidates(symbols: NDArray[Any], centre: int, rows: Sequence[int]) -> list[int]:
    """Distances to try: the neighbour, those given, and those at which the sequence resembles itself most."""
    near = [1, 2, *rows]
    classes = np.sign(symbols.astype(np.float32) - centre)
    for seen in (classes, np.abs(classes)):
        seen = seen - seen.mean()
        spectrum = np.fft.rfft(seen, 2 * len(seen))
        likeness = np.abs(np.fft.irfft(np.abs(spectrum) ** 2)[1 : min(FURTHEST, len(seen))])
        near += (np.argsort(-likeness, kind="stable")[:4] + 1).tolist()
    return sorted({n for n in near if 0 < n < len(symbols) // 2})


def count_symbols(symbols: NDArray[Any], count: int, centre: int, lags: tuple[int, ...]) -> Ints:
    """How often each symbol follows each context: [3 ** len(lags), count]."""
    arranged = symbols if symbols.ndim == 2 else symbols[:, None]
    at = contexts(arranged, lags, centre) * count + arranged
    return np.bincount(at.reshape(-1), minlength=3 ** len(lags) * count).reshape(-1, count)


def coded_bytes(table: Ints) -> float:
    """Bytes of the symbols at the frequencies that the tables will have."""
    used = table > 0
    return float((table[used] * (PRECISION - np.log2(frequencies_of(table)[used]))).sum()) / 8


def _table_bytes(table: Ints) -> int:
    """Bytes of the frequencies as variable-length integers."""
    frequencies = frequencies_of(table)[:, :-1]
    return int((1 + (frequencies >= 1 << 7) + (frequencies >= 1 << 14)).sum())
