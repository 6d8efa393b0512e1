"""Sliding windows over one channel each: what depthwise convolution and pooling share.

A tile is a few neighbouring output pixels of a line by a few vectors of channels. Taps outside the image are
left out: across a line they are known when the code is written, so border tiles are written apart and the
tiles between them are one loop; down the image the loop over the window's lines gets its bounds at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Code, Expr, Register


@dataclass(frozen=True, slots=True)
class Window:
    """x[batch, height, width, channels] seen through windows; `pads` are top, left, bottom, right.

    `ceil` rounds the output size up instead of down; a window then still begins inside the image or its
    left and top padding.
    """

    batch: int
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False

    def __post_init__(self) -> None:
        if min(self.out_h, self.out_w) < 1:
            raise ValueError(f"{self} has no output")

    @property
    def out_h(self) -> int:
        return self._out(0, self.height, self.pads[0], self.pads[2])

    @property
    def out_w(self) -> int:
        return self._out(1, self.width, self.pads[1], self.pads[3])

    def _out(self, axis: int, size: int, before: int, after: int) -> int:
        free = size + before + after - self.dilation[axis] * (self.kernel[axis] - 1) - 1
        stride = self.stride[axis]
        if not self.ceil:
            return free // stride + 1
        count = -(-free // stride) + 1
        return count - 1 if (count - 1) * stride >= size + before else count

    def columns(self, pixel: int) -> list[int]:
        """The taps of a line that output pixel `pixel` of that line finds inside the image."""
        first = pixel * self.stride[1] - self.pads[1]
        return [j for j in range(self.kernel[1]) if 0 <= first + j * self.dilation[1] < self.width]

    def lines(self, line: Expr) -> tuple[Expr, Expr]:
        """(first, count) of the window's lines that output line `line` finds inside the image."""
        top, step, size = self.pads[0], self.dilation[0], self.kernel[0]
        first = line * self.stride[0] - top
        inside = top == 0 and (self.out_h - 1) * self.stride[0] + (size - 1) * step < self.height
        if inside:
            return 0, size
        low = 0 if top == 0 else emit.maximum(0, emit.floordiv(step - 1 - first, step))
        high = emit.minimum(size, emit.floordiv(self.height - first + step - 1, step))
        return low, high - low


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tile is: image, output line, first output pixel (an expression in a loop) and its width.

    `columns` lists for every pixel of the tile the taps of a window line that are inside the image.
    """

    image: Expr
    line: Expr
    pixel: Expr
    columns: tuple[tuple[int, ...], ...]

    @property
    def wide(self) -> int:
        return len(self.columns)


def tiles_of_line(code: Code, w: Window, wide: int, image: Expr, line: Expr) -> Iterator[Place]:
    """The tiles of one output line: border tiles one by one, equal tiles between them once, in a loop.

    What the caller writes for a tile is written before the next one is asked for.
    """
    every = tuple(range(w.kernel[1]))
    starts = list(range(0, w.out_w, wide))
    tiles = [tuple(tuple(w.columns(q)) for q in range(p, min(p + wide, w.out_w))) for p in starts]
    i = 0
    while i < len(tiles):
        run = 1
        if tiles[i] == (every,) * wide:
            while i + run < len(tiles) and tiles[i + run] == tiles[i]:
                run += 1
        with code.loop(run, "tile") as t:
            yield Place(image, line, (t + i) * wide, tiles[i])
        i += run


def choose_width(isa: Isa, out_w: int, taps: int, vectors: int) -> int:
    """Output pixels of a tile: as many as leave registers for the taps, and divide the line if they can."""
    most = max(1, min(out_w, (isa.registers - 2 - min(taps, 3) * vectors) // vectors, 8))
    divisors = [n for n in range(most, most // 2, -1) if out_w % n == 0]
    return divisors[0] if divisors else most


def fold_line(
    w: Window,
    place: Place,
    row_at: Expr,
    load: Callable[[Expr, int], Expr],
    lanes: Sequence[int],
    registers: list[list[Register]],
    combine: Callable[[Expr, Expr, int, int], Expr],
) -> None:
    """Folds one line of every window of the tile into its registers.

    `row_at` is the element of the image's line at its first pixel and the tile's first channel. Every pixel
    of the line is loaded once, then entered in all windows that see it; `combine(acc, x, tap, vector)`.
    """
    users: dict[int, list[tuple[int, int]]] = {}
    for q, taps in enumerate(place.columns):
        for tap in taps:
            users.setdefault(q * w.stride[1] + tap * w.dilation[1], []).append((q, tap))
    base = place.pixel * w.stride[1] - w.pads[1]
    for offset, entries in sorted(users.items()):
        channel = 0
        for vector, n in enumerate(lanes):
            value = load(row_at + (base + offset) * w.channels + channel, n)
            for q, tap in entries:
                register = registers[q][vector]
                register.set(combine(register.get(), value, tap, vector))
            channel += n
