"""The two-dimensional windows of convolution and pooling as the kernels describe them."""

from __future__ import annotations

from collections.abc import Sequence

from hardy.compiler.ir import Value
from hardy.compiler.ops.linear import Conv
from hardy.compiler.ops.quant import IntegerConv
from hardy.targets.cpu.kernels import conv as conv_kernels
from hardy.targets.cpu.kernels.window import Window


def pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second


def pads(padding: Sequence[tuple[int, int]]) -> tuple[int, int, int, int]:
    """Top, left, bottom, right."""
    (top, bottom), (left, right) = padding
    return top, left, bottom, right


def window_of(
    x: Value,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilations: Sequence[int],
) -> Window:
    """Windows over x [batch, height, width, channels]."""
    batch, height, width, channels = x.type.shape
    return Window(batch, height, width, channels, pair(kernel), pair(strides), pads(padding), pair(dilations))


def conv_of(x: Value, out: int, kernel: Sequence[int], op: Conv | IntegerConv) -> conv_kernels.Conv:
    """A convolution of x [batch, height, width, channels] to `out` channels."""
    batch, height, width, channels = x.type.shape
    return conv_kernels.Conv(
        batch,
        height,
        width,
        channels,
        out,
        pair(kernel),
        pair(op.strides),
        pads(op.padding),
        pair(op.dilations),
        op.groups,
    )
