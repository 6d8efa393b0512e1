"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from hardy.compiler.frontends.torch.context import Context, aten
from hardy.compiler.ir import Value
from hardy.compiler.ops.linear import Conv
from hardy.compiler.ops.shape import Pad, Reverse

Pairs = tuple[tuple[int, int], ...]


def each(values: Sequence[int] | int, rank: int) -> tuple[int, ...]:
    """One entry for each spatial axis; torch lets one stand for all."""
    values = [values] if isinstance(values, int) else list(values)
    return tuple(values * rank if len(values) == 1 else values)


@aten("convolution")
def _convolution(
    c: Context,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    rank = weight.type.rank - 2
    batched = x.type.rank == rank + 2
    if not batched:
        x = c.e.reshape(x, (1, *x.type.shape))
    strides, dilations = each(stride, rank), each(dilation, rank)
    pads = each(padding, rank)
    biases = [] if bias is None else [bias]
    if transposed:
        y = _transposed(c, x, weight, biases, strides, pads, dilations, each(output_padding, rank), groups)
    else:
        y = c(Conv(strides, tuple((p, p) for p in pads), dilations, groups), x, weight, *biases)
    return y if batched else c.e.reshape(y, c.shape)


def _convolution_of(rank: int) -> None:
    @aten(f"conv{rank}d", f"conv{rank}d.padding")
    def import_(
        c: Context,
        x: Value,
        weight: Value,
        bias: Value | None = None,
        stride: Sequence[int] = (1,),
        padding: Sequence[int] | str = (0,),
        dilation: Sequence[int] = (1,),
        groups: int = 1,
    ) -> Value:
        if x.type.rank == rank + 1:
            x = c.e.reshape(x, (1, *x.type.shape))
        strides, dilations = each(stride, rank), each(dilation, rank)
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(dilations, weight.type.shape[2:], strict=True)]
            pairs = tuple((t // 2, t - t // 2) for t in totals)
        else:
            pairs = tuple((p, p) for p in each((0,) if isinstance(padding, str) else padding, rank))
        y = c(Conv(strides, pairs, dilations, groups), x, weight, *([] if bias is None else [bias]))
        return c.e.reshape(y, c.shape)


for _rank in (1, 2, 3):
    _convolution_of(_rank)


def _transposed(
    c: Context,
    x: Value,
    weight: Value,
    bias: list[Value],
    strides: tuple[int, ...],
    padding: tuple[int, ...],
    dilations: tuple[int, ...],
    extra: tuple[int, ...],
    groups: int,
) -> Value:
    """A convolution with the kernel turned round, over x with stride - 1 zeros between elements."""
    e = c.e
    rank = len(strides)
    inputs, outputs, *kernel = weight.type.shape
    # [groups * in, out, kernel] -> [groups * out, in, kernel], kernel axes turned round.
    split = e.reshape(weight, (groups, inputs // groups, outputs, *kernel))
    swapped = e.transpose(split, (0, 2, 1, *range(3, 3 + rank)))
    turned = e.reshape(swapped, (groups * outputs, inputs // groups, *kernel))
    if max(kernel) > 1:
        turned = c(Reverse(tuple(range(2, 2 + rank))), turned)
    if max(strides) > 1:
        zeros = (0,) * (rank + 2)
        x = c(Pad(zeros, zeros, 0.0, (0, 0, *[s - 1 for s in strides])), x)
    full: list[tuple[int, int]] = []
    for axis, (k, d, p, more) in enumerate(zip(kernel, dilations, padding, extra, strict=True)):
        low, high = d * (k - 1) - p, d * (k - 1) - p + more
        x = e.slice(x, 2 + axis, max(-low, 0), x.type.shape[2 + axis] - max(-high, 0))
        full.append((max(low, 0), max(high, 0)))
    return c(Conv((1,) * rank, tuple(full), dilations, groups), x, turned, *bias)
