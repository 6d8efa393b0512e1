"""Which part of the input, the accumulators and the output a tile of a layer covers.

Padding is never loaded nor multiplied: a filter tap (one position of the kernel) runs over the outputs alone
for which it reads a real input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hardy.targets.fpga.lower.layer import Layer

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Span:
    """Rows or columns [start, stop)."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Axis:
    """Rows, or columns, of a layer: sizes of input, convolution and result, and the windows between them."""

    size: int
    conv: int
    out: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    pool_kernel: int
    pool_stride: int
    pool_padding: int

    def conv_span(self, out: Span) -> Span:
        """The convolution's results that a span of the layer's results needs."""
        start = out.start * self.pool_stride - self.pool_padding
        stop = (out.stop - 1) * self.pool_stride - self.pool_padding + self.pool_kernel
        return Span(max(start, 0), min(stop, self.conv))

    def tap_span(self, tap: int, conv: Span) -> Span:
        """The convolution's results within `conv` for which a tap reads a real input; it may be empty."""
        first = self.padding - tap * self.dilation
        start = max(-(-first // self.stride), conv.start)
        stop = min((self.size - 1 + first) // self.stride + 1, conv.stop)
        return Span(start, max(stop, start))

    @property
    def carries(self) -> bool:
        """Whether windows of the pool overlap, and only where their results do not replace anything.

        Then the rows that two tiles share can be left in the accumulators by the first for the second.
        """
        return self.pool_padding < self.pool_stride < self.pool_kernel <= self.pool_stride + self.pool_padding

    @property
    def step(self) -> int:
        """Distance of the inputs that are read: a 1-wide kernel reads every stride-th one."""
        return self.stride if self.kernel == 1 else 1

    def input_at(self, conv: int, tap: int) -> int:
        return conv * self.stride - self.padding + tap * self.dilation

    def input_span(self, conv: Span) -> Span:
        """The inputs that a span of the convolution reads, `step` apart; empty where it is all padding."""
        taps = [(tap, self.tap_span(tap, conv)) for tap in range(self.kernel)]
        read = [(tap, span) for tap, span in taps if span.size > 0]
        if not read:
            return Span(0, 0)
        start = min(self.input_at(span.start, tap) for tap, span in read)
        stop = max(self.input_at(span.stop - 1, tap) for tap, span in read) + 1
        return Span(start, stop)


def axes(layer: Layer) -> tuple[Axis, Axis]:
    """The rows and the columns of a layer."""
    pool = layer.pool
    rows, columns = (
        Axis(
            layer.shape[2 + a],
            layer.conv_shape[2 + a],
            layer.out_shape[2 + a],
            layer.kernel[a],
            layer.stride[a],
            layer.padding[a][0],
            layer.dilation[a],
            pool.kernel[a] if pool else 1,
            pool.stride[a] if pool else 1,
            pool.padding[a][0] if pool else 0,
        )
        for a in (0, 1)
    )
    return rows, columns


@dataclass(frozen=True)
class Window:
    """The spatial part of a tile: spans of the result, of the convolution and of the input."""

    image: int
    out_rows: Span
    out_columns: Span
    rows: Span
    columns: Span
    in_rows: Span
    in_columns: Span
    in_height: int
    """Input rows that are loaded: every `step`-th of `in_rows`."""
    carried: bool = False
    """Whether the rows before `rows` that the results need are left by the window above."""

    @property
    def positions(self) -> int:
        """Accumulators of one output block."""
        return self.rows.size * self.columns.size

    @property
    def outputs(self) -> int:
        """Results of one output block."""
        return self.out_rows.size * self.out_columns.size

    @property
    def plane(self) -> int:
        """Input elements of one input block."""
        return self.in_height * self.in_columns.size


def window(
    image: int, out_rows: Span, out_columns: Span, rows: Axis, columns: Axis, above: Window | None = None
) -> Window:
    """The window of a span of results. Rows that the window `above` has computed are not computed again."""
    conv_rows, conv_columns = rows.conv_span(out_rows), columns.conv_span(out_columns)
    if above is not None:
        conv_rows = Span(max(conv_rows.start, above.rows.stop), conv_rows.stop)
    in_rows, in_columns = rows.input_span(conv_rows), columns.input_span(conv_columns)
    height = -(-in_rows.size // rows.step)
    carried = above is not None
    return Window(image, out_rows, out_columns, conv_rows, conv_columns, in_rows, in_columns, height, carried)


def places(w: Window, rows: Axis, columns: Axis) -> Array:
    """Where each position of the convolution lies among a tile's accumulators: int[rows, columns].

    Without a pool, row by row. With one, positions are sorted by their phase (the remainder by the pool's
    stride), so that the windows' results, which replace a position of phase 0 each, lie next to one another.
    """
    y = np.arange(w.rows.start, w.rows.stop)
    x = np.arange(w.columns.start, w.columns.stop)
    row_order = np.empty(len(y), np.int64)
    row_order[np.lexsort((y, y % rows.pool_stride))] = np.arange(len(y))
    phase = x % columns.pool_stride
    result = np.empty((len(y), len(x)), np.int64)
    base = 0
    for p in range(columns.pool_stride):
        (chosen,) = np.nonzero(phase == p)
        result[:, chosen] = base + row_order[:, None] * len(chosen) + np.arange(len(chosen))
        base += len(y) * len(chosen)
    return result
