"""Padding: constant, and by repetition of what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from hardy.compiler.frontends.torch.context import Context, Operand, aten
from hardy.compiler.frontends.torch.shape import gather_axis
from hardy.compiler.ir import Value
from hardy.compiler.ops.shape import Pad


def pad(c: Context, x: Value, pairs: Sequence[tuple[int, int]], value: Operand = 0.0) -> Value:
    """Pads each axis by (low, high); a negative amount crops."""
    for axis, (low, high) in enumerate(pairs):
        if low < 0 or high < 0:
            x = c.e.slice(x, axis, max(-low, 0), x.type.shape[axis] - max(-high, 0))
    lows, highs = (tuple(max(p[i], 0) for p in pairs) for i in (0, 1))
    if not any(lows) and not any(highs):
        return x
    assert not isinstance(value, Value)
    return c(Pad(lows, highs, float(value)), x)


def pad_pairs(pads: Sequence[int], rank: int) -> list[tuple[int, int]]:
    """torch's flat list, which starts with the last axis, as a pair for each axis."""
    pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]
    return [(0, 0)] * (rank - len(pairs)) + pairs[::-1]


@aten("constant_pad_nd")
def _constant_pad(c: Context, x: Value, pads: Sequence[int], value: Operand = 0) -> Value:
    return pad(c, x, pad_pairs(pads, x.type.rank), value)


@aten("pad")
def _pad(
    c: Context, x: Value, pads: Sequence[int], mode: str = "constant", value: float | None = None
) -> Value:
    pairs = pad_pairs(pads, x.type.rank)
    if mode == "constant":
        return pad(c, x, pairs, value or 0.0)
    for axis, (low, high) in enumerate(pairs):
        if mode == "circular" and min(low, high) < 0:
            # Negative padding crops, and what is left wraps round.
            x = c.e.slice(x, axis, max(-low, 0), x.type.shape[axis] - max(-high, 0))
            low, high = max(low, 0), max(high, 0)
        if low or high:
            n = x.type.shape[axis]
            x = gather_axis(c, x, axis, pad_positions(n, low, high, mode))
    return x


def pad_positions(size: int, low: int, high: int, mode: str) -> torch.Tensor:
    """Which element each position of a padded axis repeats."""
    at = torch.arange(-low, size + high)
    if mode == "replicate":
        return at.clamp(0, size - 1)
    if mode == "circular":
        return at % size
    return size - 1 - (size - 1 - at.abs()).abs()  # reflect


def _fixed_padding(mode: str) -> Callable[..., Value]:
    def import_(c: Context, x: Value, pads: Sequence[int]) -> Value:
        return _pad(c, x, pads, mode)

    return import_


aten("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")(_fixed_padding("reflect"))
aten("replication_pad1d", "replication_pad2d", "replication_pad3d")(_fixed_padding("replicate"))
aten("_pad_circular")(_fixed_padding("circular"))
