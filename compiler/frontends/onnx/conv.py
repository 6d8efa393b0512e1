"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hardy.compiler.frontends.onnx.context import Context, Importer
from hardy.compiler.frontends.onnx.shape import slice_axes
from hardy.compiler.ir import Value
from hardy.compiler.ops.linear import Conv
from hardy.compiler.ops.shape import Pad, Reverse

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Window:
    """The attributes that every sliding window op of ONNX has, for each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs
    dilations: tuple[int, ...]


def window(ctx: Context, spatial: Sequence[int], kernel: Sequence[int]) -> Window:
    """Reads the attributes and resolves `auto_pad`."""
    rank = len(spatial)
    kernel = tuple(kernel)
    strides = ctx.integers("strides", (1,) * rank)
    dilations = ctx.integers("dilations", (1,) * rank)
    pads = ctx.integers("pads", (0,) * (2 * rank))
    auto = ctx.text("auto_pad", "NOTSET")
    if {len(kernel), len(strides), len(dilations), len(pads) // 2} != {rank} or len(pads) % 2:
        ctx.fail(
            f"kernel {kernel}, strides {strides}, dilations {dilations}, pads {pads} do not fit {rank} axes"
        )
    if min(*strides, *dilations, *kernel) < 1:
        ctx.fail("kernel, strides and dilations must be positive")
    if auto == "NOTSET":
        padding = tuple((pads[i], pads[i + rank]) for i in range(rank))
    elif auto == "VALID":
        padding = ((0, 0),) * rank
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        padding = tuple(
            _halves(max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0), auto == "SAME_UPPER")
            for n, k, s, d in zip(spatial, kernel, strides, dilations, strict=True)
        )
    else:
        ctx.fail(f"unknown auto_pad {auto!r}")
    return Window(kernel, strides, padding, dilations)


def _halves(total: int, more_after: bool) -> tuple[int, int]:
    small, large = total // 2, total - total // 2
    return (small, large) if more_after else (large, small)


def cropped(ctx: Context, x: Value, padding: Pairs) -> tuple[Value, Pairs]:
    """x without what negative padding cuts off, and the padding that is left."""
    if all(min(p) >= 0 for p in padding):
        return x, padding
    parts = {2 + i: (max(-a, 0), x.type.shape[2 + i] - max(-b, 0), 1) for i, (a, b) in enumerate(padding)}
    return slice_axes(ctx, x, parts), tuple((max(a, 0), max(b, 0)) for a, b in padding)


def _conv(ctx: Context) -> Value:
    x, weight = ctx[0], ctx[1]
    if x.type.rank < 3 or weight.type.rank != x.type.rank:
        ctx.fail(f"Conv of {x.type} with {weight.type}")
    w = window(ctx, x.type.shape[2:], weight.type.shape[2:])
    x, padding = cropped(ctx, x, w.padding)
    bias = [ctx[2]] if ctx.has(2) else []
    return ctx(Conv(w.strides, padding, w.dilations, ctx.integer("group", 1)), x, weight, *bias)


def _conv_transpose(ctx: Context) -> Value:
    """A convolution with the kernel turned round, over x with stride - 1 zeros between elements."""
    x, weight, e = ctx[0], ctx[1], ctx.e
    rank = x.type.rank - 2
    groups = ctx.integer("group", 1)
    inputs, outputs, *kernel = weight.type.shape
    if (
        rank < 1
        or weight.type.rank != x.type.rank
        or inputs != x.type.shape[1]
        or groups < 1
        or inputs % groups
    ):
        ctx.fail(f"ConvTranspose of {x.type} with {weight.type} in {groups} groups")
    strides = ctx.integers("strides", (1,) * rank)
    dilations = ctx.integers("dilations", (1,) * rank)
    extra = ctx.integers("output_padding", (0,) * rank)
    padding = _transposed_padding(ctx, x.type.shape[2:], kernel, strides, dilations, extra)
    # [groups * in, out, kernel] -> [groups * out, in, kernel], kernel axes turned round.
    split = e.reshape(weight, (groups, inputs // groups, outputs, *kernel))
    swapped = e.transpose(split, (0, 2, 1, *range(3, 3 + rank)))
    turned = e.reshape(swapped, (groups * outputs, inputs // groups, *kernel))
    if max(kernel) > 1:
        turned = ctx(Reverse(tuple(range(2, 2 + rank))), turned)
    if max(strides) > 1:
        zeros = (0,) * (rank + 2)
        x = ctx(Pad(zeros, zeros, 0.0, (0, 0, *[s - 1 for s in strides])), x)
    full = tuple(
        (d * (k - 1) - low, d * (k - 1) - high + more)
        for k, d, (low, high), more in zip(kernel, dilations, padding, extra, strict=True)
    )
    x, full = cropped(ctx, x, full)
    bias = [ctx[2]] if ctx.has(2) else []
    return ctx(Conv((1,) * rank, full, dilations, groups), x, turned, *bias)


def _transposed_padding(
    ctx: Context,
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    extra: Sequence[int],
) -> Pairs:
    """What the result loses on each side; from `pads`, `auto_pad` or `output_shape`."""
    rank = len(spatial)
    auto = ctx.text("auto_pad", "NOTSET")
    wanted = ctx.integers("output_shape", ())[-rank:]
    if not wanted and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = tuple(n * s for n, s in zip(spatial, strides, strict=True))
    if wanted:
        totals = [
            s * (n - 1) + more + (k - 1) * d + 1 - out
            for n, k, s, d, more, out in zip(spatial, kernel, strides, dilations, extra, wanted, strict=True)
        ]
        return tuple(_halves(total, auto == "SAME_UPPER") for total in totals)
    if auto == "VALID":
        return ((0, 0),) * rank
    pads = ctx.integers("pads", (0,) * (2 * rank))
    if len(pads) != 2 * rank:
        ctx.fail(f"{len(pads)} pads do not fit {rank} spatial axes")
    return tuple((pads[i], pads[i + rank]) for i in range(rank))


def window_count(w: Window, spatial: Sequence[int]) -> tuple[int, ...]:
    """Number of window positions on each axis."""
    return tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(spatial, w.kernel, w.strides, w.padding, w.dilations, strict=True)
    )


IMPORTERS: dict[str, Importer] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
