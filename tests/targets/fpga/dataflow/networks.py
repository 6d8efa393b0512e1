"""Small integer networks, as quantization by powers of two leaves them, with random weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hardy.compiler.ir import Builder, Graph, Value
from hardy.compiler.ops.binary import BinaryConv, BinaryMatmul, PackBits, pack
from hardy.compiler.ops.elementwise import Add, Cast, Max, Min, Mul
from hardy.compiler.ops.pool import MaxPool
from hardy.compiler.ops.quant import IntegerConv, IntegerMatmul, RequantizeShift
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.shape import Reshape
from hardy.compiler.types import DType, TensorType

Pair = tuple[int, int]
SAME: tuple[Pair, Pair] = ((1, 1), (1, 1))
NONE: tuple[Pair, Pair] = ((0, 0), (0, 0))


@dataclass
class Net:
    """Builds an i8 network, channels first, layer by layer; weights lie in low..high."""

    shape: tuple[int, ...]
    low: int = -60
    high: int = 60
    b: Builder = field(default_factory=Builder)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.x = self.b.input("x", TensorType(DType.i8, (1, *self.shape)))

    def random(self, *shape: int, dtype: torch.dtype = torch.int8) -> Value:
        return self.b.constant(torch.randint(self.low, self.high + 1, shape, dtype=dtype))

    def i32(self, value: int) -> Value:
        return self.b.scalar(value, DType.i32)

    def conv(
        self,
        x: Value,
        n: int,
        kernel: int = 3,
        stride: int = 1,
        padding: tuple[Pair, Pair] = SAME,
        groups: int = 1,
        name: str = "conv",
    ) -> Value:
        w = self.random(n, x.type.shape[1] // groups, kernel, kernel)
        y = self.b(IntegerConv((stride, stride), padding, (1, 1), groups), x, w, name=name)
        return self.b(Add(), y, self.random(1, n, 1, 1, dtype=torch.int32))

    def dense(self, x: Value, n: int) -> Value:
        y = self.b(IntegerMatmul(True), x, self.random(n, x.type.shape[1]), name="dense")
        return self.b(Add(), y, self.random(n, dtype=torch.int32))

    def requantize(self, x: Value, shift: int = 8, relu: bool = True) -> Value:
        y = self.b(RequantizeShift(DType.i8), x, self.i32(shift))
        return self.b(Max(), y, self.b.scalar(0, DType.i8)) if relu else y

    def per_channel(self, x: Value) -> Value:
        """Requantized by a shift for each channel, and limited to 0..50."""
        shifts = torch.arange(x.type.shape[1], dtype=torch.int32) * 3 % 10
        y = self.b(RequantizeShift(DType.i8, 1), x, self.b.constant(shifts))
        y = self.b(Max(), y, self.b.scalar(0, DType.i8))
        return self.b(Min(), y, self.b.scalar(50, DType.i8))

    def pool(self, x: Value, size: int = 2) -> Value:
        return self.b(MaxPool((size, size), (size, size), NONE, (1, 1)), x)

    def flatten(self, x: Value) -> Value:
        return self.b(Reshape((1, x.type.size)), x)

    def wide(self, x: Value) -> Value:
        return self.b(Cast(DType.i32), x)

    def finish(self, y: Value) -> Graph:
        return self.b.finish({"y": y})


def mlp(sizes: tuple[int, ...] = (784, 32, 16, 10)) -> Graph:
    net = Net((sizes[0],))
    y = net.x
    for n in sizes[1:-1]:
        y = net.requantize(net.dense(y, n), 9)
    return net.finish(net.dense(y, sizes[-1]))


def cnn(side: int = 28) -> Graph:
    """LeNet's plan: two convolutions with pools, then dense layers."""
    net = Net((1, side, side))
    y = net.pool(net.requantize(net.conv(net.x, 4)))
    y = net.pool(net.per_channel(net.conv(y, 6, padding=NONE)))
    y = net.requantize(net.dense(net.flatten(y), 12), 9)
    return net.finish(net.dense(y, 10))


def residual() -> Graph:
    """A block with an identity shortcut, one with a 1x1 convolution on it, and a mean."""
    net = Net((4, 8, 8))
    y = net.requantize(net.conv(net.x, 4, name="a1"))
    y = net.conv(y, 4, name="a2")
    y = net.requantize(net.b(Add(), y, net.b(Mul(), net.wide(net.x), net.i32(64))))
    z = net.requantize(net.conv(y, 8, stride=2, name="b1"))
    z = net.conv(z, 8, name="b2")
    z = net.requantize(net.b(Add(), z, net.conv(y, 8, 1, 2, NONE, name="shortcut")))
    return net.finish(net.b(ReduceSum((2, 3), False), net.wide(z)))


def depthwise() -> Graph:
    """Depthwise and pointwise convolutions, a grouped one, a dilated one, and an average over the image."""
    net = Net((3, 9, 7))
    y = net.requantize(net.conv(net.x, 6, stride=2))
    y = net.per_channel(net.conv(y, 6, groups=6))
    y = net.requantize(net.conv(y, 8, 1, 1, NONE))
    y = net.requantize(net.conv(y, 4, groups=2))
    w = net.random(4, 4, 2, 2)
    y = net.requantize(net.b(IntegerConv((1, 1), ((2, 0), (0, 1)), (2, 1)), y, w))
    average = net.b.constant(torch.full((4, 1, *y.type.shape[2:]), 7, dtype=torch.int8))
    y = net.b(IntegerConv((1, 1), NONE, (1, 1), 4), y, average)
    return net.finish(net.requantize(y, 7, relu=False))


def ternary() -> Graph:
    net = Net((2, 6, 6), low=-1, high=1)
    y = net.requantize(net.conv(net.x, 6), 3)
    return net.finish(net.dense(net.flatten(net.pool(y)), 5))


def binary() -> Graph:
    """Signs from an i8 layer on: a padded convolution, one that is not, and a dense layer."""
    net = Net((7, 7, 2))
    b = net.b
    y = b(IntegerConv((1, 1), SAME, (1, 1), layout="channels_last"), net.x, net.random(16, 2, 3, 3))
    y = b(PackBits(), y, net.random(16, dtype=torch.int32))
    y = b(BinaryConv(16, (2, 2), SAME, (1, 1)), y, _signs(b, (8, 3, 3), 16))
    y = b(PackBits(), y, b.constant(torch.randint(-9, 9, (8,), dtype=torch.int32)))
    y = b(BinaryConv(8, (1, 1), NONE, (1, 1)), y, _signs(b, (24, 3, 3), 8))
    y = b(PackBits(), y)
    y = b(BinaryMatmul(4 * 24), b(Reshape((1, 12)), y), _signs(b, (5,), 4 * 24))
    return net.finish(y)


def _signs(b: Builder, shape: tuple[int, ...], length: int) -> Value:
    return b.constant(pack(torch.rand(*shape, length) < 0.5))
