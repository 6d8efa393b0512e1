"""Layers that multiply: convolutions, dense layers, sums, and products of signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from hardy.compiler.ir import Node
from hardy.compiler.ops.binary import BinaryConv, BinaryMatmul, signs
from hardy.compiler.ops.quant import IntegerConv, IntegerMatmul
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.types import DType
from hardy.targets.fpga.dataflow.draft import Draft, Traced, refuse
from hardy.targets.fpga.dataflow.layers import Depthwise, Head, Product, WholeImage, Window
from hardy.targets.fpga.dataflow.ranges import I32, Integers
from hardy.targets.fpga.dataflow.steps import Affine
from hardy.targets.target import YES, Support, no

if TYPE_CHECKING:
    from hardy.targets.fpga.dataflow.trace import Tracer


def _constant_weight(node: Node) -> Support:
    if node.operands[0].literal is not None:
        return no("its input must not be constant")
    return (
        YES
        if node.operands[1].literal is not None
        else no("its weight must be constant: weights lie on chip")
    )


def _no_zero_points(node: Node) -> Support:
    for v in node.operands[2:]:
        if v.literal is None or bool(v.literal.tensor.any()):
            return no("zero points must be 0: quantize with a symmetric scheme")
    return YES


def check_matmul(node: Node) -> Support:
    weight = node.operands[1].type
    if weight.size != weight.shape[-1] * weight.shape[-2]:
        return no(f"a stack of matrices {weight} as weight")
    return _constant_weight(node) and _no_zero_points(node)


def check_conv(node: Node) -> Support:
    if node.operands[0].type.rank > 4:
        return no("three spatial axes: images have one or two")
    return _constant_weight(node) and _no_zero_points(node)


def check_binary(node: Node) -> Support:
    if isinstance(node.op, BinaryConv):
        return check_conv(node)
    return check_matmul(node)


def check_sum(node: Node) -> Support:
    (x,) = node.operands
    if x.type.dtype is not DType.i32 or x.literal is not None:
        return no(f"sums of {x.type}: only of i32 that is computed")
    return YES


def window_of(op: IntegerConv | BinaryConv, size: tuple[int, int], kernel: tuple[int, ...]) -> Window:
    """The window of a convolution over one or two spatial axes."""
    if len(kernel) == 1:
        return Window(
            size,
            (1, kernel[0]),
            (1, op.strides[0]),
            ((0, 0), op.padding[0]),
            (1, op.dilations[0]),
        )
    (top, left), (h, w) = op.padding, kernel
    return Window(
        size, (h, w), (op.strides[0], op.strides[1]), (top, left), (op.dilations[0], op.dilations[1])
    )


def matmul(tracer: Tracer, node: Node) -> Traced:
    op = node.op
    assert isinstance(op, IntegerMatmul)
    x = tracer.values[node.operands[0]]
    data = tracer.constant(node.operands[1])
    assert data is not None
    weight = data.reshape(data.shape[-2:])
    return _dense(tracer, node, x, weight if op.transpose_b else weight.T)


def binary_matmul(tracer: Tracer, node: Node) -> Traced:
    op = node.op
    assert isinstance(op, BinaryMatmul)
    x = tracer.values[node.operands[0]]
    weight = _signs(node, op.length)
    return _dense(tracer, node, _of_bits(node, x, op.length), weight.reshape(-1, op.length))


def _signs(node: Node, length: int) -> Integers:
    """The weights' signs [..., length]."""
    literal = node.operands[1].literal
    assert literal is not None
    return signs(literal.tensor)[..., :length].to(torch.int64).numpy()


def _of_bits(node: Node, x: Traced, length: int) -> Traced:
    if not x.bits or x.shape[-1] != length:
        raise refuse(node, "its input must be packed by pack_bits right before it")
    return x


def _dense(tracer: Tracer, node: Node, x: Traced, weight: Integers) -> Traced:
    """Rows of x times weight [outputs, inputs]."""
    outputs, inputs = weight.shape
    rows = int(np.prod(x.shape)) // inputs
    order = tracer.ordered(x).reshape(rows, inputs)
    within = order % inputs
    if not (order // inputs == np.arange(rows)[:, None]).all() or not (within == within[0]).all():
        raise refuse(node, "its rows would have to be put in another order, which streams cannot do")
    weight = weight[:, within[0]][:, :, None]
    result = np.arange(rows * outputs, dtype=np.int64).reshape(rows, outputs)
    return _layer(tracer, node, x, Product(weight, 1), None, result)


def conv(tracer: Tracer, node: Node) -> Traced:
    op = node.op
    assert isinstance(op, IntegerConv)
    x = tracer.values[node.operands[0]]
    size, _ = tracer.image(node, x, op.layout)
    data = tracer.constant(node.operands[1])
    assert data is not None
    kernel = data.shape[2:]
    weight = data.reshape(*data.shape[:2], -1)
    return _convolution(tracer, node, x, window_of(op, size, kernel), weight, op.groups, op.layout)


def binary_conv(tracer: Tracer, node: Node) -> Traced:
    op = node.op
    assert isinstance(op, BinaryConv)
    x = _of_bits(node, tracer.values[node.operands[0]], op.channels)
    size, channels = tracer.image(node, x, "channels_last")
    data = _signs(node, channels)
    kernel = data.shape[1:-1]
    weight = np.moveaxis(data.reshape(data.shape[0], -1, channels), -1, 1)
    return _convolution(tracer, node, x, window_of(op, size, kernel), weight, 1, "channels_last")


def _convolution(
    tracer: Tracer, node: Node, x: Traced, window: Window, weight: Integers, groups: int, layout: str
) -> Traced:
    """weight: [outputs, inputs / groups, taps]."""
    outputs, inputs, _ = weight.shape
    places = np.arange(node.type.size, dtype=np.int64).reshape(node.type.shape)
    places = np.moveaxis(places, 1, -1) if layout == "channels_first" else places
    result = places.reshape(-1, outputs)
    head: Head = Product(weight, groups)
    if groups > 1 and groups == outputs and inputs == 1:
        head = WholeImage(weight[:, 0]) if window.is_whole_image else Depthwise(weight[:, 0])
        return _layer(tracer, node, x, head, None if window.is_whole_image else window, result)
    if window.is_identity:
        return _layer(tracer, node, x, head, None, result)
    if window.is_whole_image and groups == 1:
        # A dense layer over the image as it comes: pixel by pixel, each with its channels.
        weight = np.moveaxis(weight, 1, 2).reshape(outputs, -1, 1)
        return _layer(tracer, node, x, Product(weight, 1), None, result)
    return _layer(tracer, node, x, head, window, result)


def reduce_sum(tracer: Tracer, node: Node) -> Traced:
    """The sum over all pixels: a product with ones."""
    op = node.op
    assert isinstance(op, ReduceSum)
    x = tracer.values[node.operands[0]]
    kept = [1 if a in op.axes else n for a, n in enumerate(x.shape)]
    count = int(np.prod(kept))
    into = np.broadcast_to(np.arange(count, dtype=np.int64).reshape(kept), x.shape).reshape(-1)
    from_stream = into[tracer.ordered(x)]
    if not (from_stream == from_stream[0]).all() or from_stream.shape[1] != count:
        raise refuse(node, "sums are over all pixels of each channel, or none")
    pixels = from_stream.shape[0]
    head = WholeImage(np.ones((count, pixels), np.int64))
    return _layer(tracer, node, x, head, None, from_stream[:1].copy())


def _layer(
    tracer: Tracer, node: Node, x: Traced, head: Head, window: Window | None, order: Integers
) -> Traced:
    """The draft of a layer that multiplies."""
    tensor = tracer.tensor(x)
    draft = tracer.new(node, (order.shape[0], order.shape[1]), order, (tensor.low, tensor.high))
    draft.input, draft.head, draft.window, draft.bit_inputs = tensor, head, window, x.bits
    pads = window is not None and window.pads
    assert isinstance(head, Product | Depthwise | WholeImage)
    least, most = _input_bounds(head, draft, pads)
    low, high = _sums(head, least, most)
    tracer.require_no_wrap(node, [(low, high)], I32)
    draft.low, draft.high = low, high
    if x.bits and not pads:
        # Of K products, n equal pairs of bits add n and the others take away: 2 n - K.
        length = head.weights[0].size
        draft.low, draft.high = np.zeros_like(low), np.full_like(high, length)
        draft.add(Affine(np.full(1, 2, np.int64), np.full(1, -length, np.int64)))
    return tracer.result(node, draft)


def _input_bounds(
    head: Product | Depthwise | WholeImage, draft: Draft, pads: bool
) -> tuple[Integers, Integers]:
    """The range of each channel as the head sees it."""
    tensor = draft.input
    assert tensor is not None
    low, high = tensor.low, tensor.high
    if draft.bit_inputs:
        low, high = np.full_like(low, -1), np.ones_like(high)
    channels = head.weights.shape[1] * head.groups if isinstance(head, Product) else head.weights.shape[0]
    if channels % low.size == 0:
        low, high = np.tile(low, channels // low.size), np.tile(high, channels // high.size)
    else:
        low, high = np.full(channels, low.min()), np.full(channels, high.max())
    return (np.minimum(low, 0), np.maximum(high, 0)) if pads else (low, high)


def _sums(head: Product | Depthwise | WholeImage, low: Integers, high: Integers) -> tuple[Integers, Integers]:
    """The range of every partial sum of each output: no order of addition leaves it."""
    weights = head.weights
    if isinstance(head, Product):
        per_group = weights.reshape(head.groups, -1, *weights.shape[1:])
        least = low.reshape(head.groups, 1, -1, 1)
        most = high.reshape(head.groups, 1, -1, 1)
    else:
        per_group, least, most = weights[None], low[None, :, None], high[None, :, None]
    ends = np.minimum(per_group * least, per_group * most), np.maximum(per_group * least, per_group * most)
    axes = (2, 3) if isinstance(head, Product) else (2,)
    return (
        np.minimum(ends[0], 0).sum(axes).reshape(-1),
        np.maximum(ends[1], 0).sum(axes).reshape(-1),
    )
