"""Interleaved rANS: an entropy coder whose many lanes NumPy runs side by side.

Range asymmetric numeral systems (Duda, 2013, arXiv:1311.2540) code a symbol of probability f / 2^14 in
log2(2^14 / f) bits, fractions included. The sequence is cut into as many consecutive parts as there are
lanes; each lane has a state of its own, and all draw from one stream of 16-bit words (Giesen, 2014,
arXiv:1402.3392), so that one step decodes a symbol of every lane.

The probabilities depend on the symbols that lie some distances (`lags`) before in the same lane: whether
each was below, at or above the symbol `centre`. In a pruned matrix that is zero, and the neighbours, in
the row or in the image that the row looks at, tell how likely zeros are and which signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardy.compiler.errors import ArtifactError

PRECISION = 14
TOTAL = 1 << PRECISION
# States stay in [2^16, 2^32): one word at most is read or written for each symbol.
WORD = 16
LOW = 1 << WORD

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Model:
    """Probabilities in units of 2^-14: `frequencies` is [3 ** len(lags), symbols], each row sums to 2^14.

    The row of a symbol is the sum of 3^i times the class (0 below, 1 at, 2 above `centre`) of the symbol
    `lags[i]` before it; where the lane begins after that, the class is 1.
    """

    lags: tuple[int, ...]
    centre: int
    frequencies: Ints

    @property
    def symbols(self) -> int:
        return len(self.frequencies[0])


def steps_of(count: int, lanes: int) -> int:
    """How many symbols each lane holds: the last lanes are filled up."""
    return -(-count // lanes)


def contexts(symbols: NDArray[Any], lags: tuple[int, ...], centre: int) -> Ints:
    """The row of the table for each symbol of [steps, lanes]."""
    classes = np.sign(symbols.astype(np.int64) - centre) + 1
    result = np.zeros(symbols.shape, np.int64)
    for i, lag in enumerate(lags):
        result[:lag] += 3**i
        result[lag:] += 3**i * classes[:-lag]
    return result


def frequencies_of(counts: Ints) -> Ints:
    """Rows of counts as frequencies that sum to 2^14, at least one where there is a count."""
    present = counts > 0
    # A row without counts is never read; it still has to sum up.
    safe = np.maximum(counts.sum(1, keepdims=True), 1)
    result = np.where(present, 1 + counts * (TOTAL - present.sum(1, keepdims=True)) // safe, 0)
    rows = np.arange(len(counts))
    rest = TOTAL - result.sum(1)
    result[rows, np.where(present.any(1), result.argmax(1), counts.shape[1] - 1)] += rest
    return result


def encode(symbols: NDArray[Any], model: Model) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """The final states [lanes] and the words for symbols [steps, lanes], each of a frequency above zero."""
    frequencies = model.frequencies
    starts = np.cumsum(frequencies, 1) - frequencies
    at = contexts(symbols, model.lags, model.centre) * model.symbols + symbols
    f, start = frequencies.reshape(-1)[at], starts.reshape(-1)[at]
    x = np.full(symbols.shape[1], LOW, np.int64)
    chunks = []
    for t in range(len(symbols) - 1, -1, -1):
        full = x >= f[t] << (2 * WORD - PRECISION)
        chunks.append(x[full] & (LOW - 1))
        x = np.where(full, x >> WORD, x)
        quotient = x // f[t]
        x = (quotient << PRECISION) + start[t] + (x - quotient * f[t])
    words = np.concatenate(chunks[::-1]) if chunks else np.zeros(0, np.int64)
    return x.astype(np.uint32), words.astype(np.uint16)


def decode(states: NDArray[np.uint32], words: NDArray[np.uint16], model: Model, steps: int) -> Bytes:
    """The symbols [steps, lanes]; ArtifactError where states and words do not end where they must."""
    lanes = len(states)
    symbol_at, step_at = _slots(model)
    result = np.empty((steps, lanes), np.uint8)
    shares = [_shares(model, i) for i in range(len(model.lags))]
    # What the last symbols contribute to later contexts, in units of slots: rings of `lag` steps.
    rings = [np.full((min(lag, steps), lanes), share[model.centre]) for lag, share in shares]
    x, slot, packed = states.astype(np.int64), np.empty(lanes, np.int64), np.empty(lanes, np.int64)
    available, used = words.astype(np.int64), 0
    for t in range(steps):
        np.bitwise_and(x, TOTAL - 1, out=slot)
        for ring in rings:
            slot += ring[t % len(ring)]
        symbol = symbol_at[slot]
        result[t] = symbol
        for ring, (_, share) in zip(rings, shares, strict=True):
            ring[t % len(ring)] = share[symbol]
        np.take(step_at, slot, out=packed, mode="clip")
        x >>= PRECISION
        x *= packed >> WORD
        x += packed & (LOW - 1)
        empty = np.flatnonzero(x < LOW)
        if empty.size:
            if used + empty.size > len(available):
                raise ArtifactError("the coded weights end too early")
            x[empty] = (x[empty] << WORD) | available[used : used + empty.size]
            used += empty.size
    if used != len(available) or bool((x != LOW).any()):
        raise ArtifactError("the coded weights do not end where they should")
    return result


def _slots(model: Model) -> tuple[Bytes, Ints]:
    """For each row and slot: the symbol, and (its frequency << 16) | (slot - the symbol's first slot)."""
    rows = len(model.frequencies)
    numbers = np.tile(np.arange(model.symbols, dtype=np.uint8), rows)
    flat = model.frequencies.reshape(-1)
    symbol = np.repeat(numbers, flat)
    first = (np.cumsum(model.frequencies, 1) - model.frequencies).reshape(-1)
    offset = np.tile(np.arange(TOTAL), rows) - np.repeat(first, flat)
    return symbol, (np.repeat(flat, flat) << WORD) | offset


def _shares(model: Model, place: int) -> tuple[int, Ints]:
    """A lag, and what each symbol that far back adds to the slot: its class, times the row's slots."""
    classes = np.sign(np.arange(model.symbols) - model.centre) + 1
    return model.lags[place], 3**place * TOTAL * classes
