"""Graphs in QDQ form: what quantization writes and importers read, built by hand and by hypothesis."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from hypothesis import strategies as st

from hardy.compiler.ir import Builder, Graph, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.activation import Clamp, Gelu, Relu, Sigmoid
from hardy.compiler.ops.elementwise import Add, Mul, Sub
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.quant import Dequantize, Quantize
from hardy.compiler.ops.shape import Concat, Pad, Reshape, Slice, Transpose
from hardy.compiler.types import DType, TensorType

F32 = DType.f32


class QdqBuilder:
    """A graph under construction whose weights and scales come from one seed."""

    def __init__(self, seed: int = 0) -> None:
        self.b = Builder()
        self._random = torch.Generator().manual_seed(seed)

    def input(self, name: str, *shape: int) -> Value:
        return self.b.input(name, TensorType(F32, shape))

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._random)

    def qdq(self, x: Value, scale: float, zero: int, dtype: DType = DType.u8) -> Value:
        """x -> quantize -> dequantize."""
        parameters = [
            self.b.scalar(scale, F32),
            self.b.constant(Literal(torch.tensor(zero, dtype=dtype.torch), dtype)),
        ]
        return self.b(Dequantize(), self.b(Quantize(dtype), x, *parameters), *parameters)

    def weight(self, shape: tuple[int, ...], axis: int | None) -> Value:
        """An i8 constant with a scale for each entry of `axis`, or one."""
        q = torch.randint(-127, 128, shape, generator=self._random).to(torch.int8)
        count = () if axis is None else (shape[axis],)
        scale = torch.rand(count, generator=self._random) * 0.01 + 0.002
        return self.b(Dequantize(axis or 0), self.b.constant(q), self.b.constant(scale))

    def conv(self, x: Value, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> Value:
        shape = (out, x.type.shape[1] // groups, kernel, kernel)
        pad = (kernel // 2, kernel // 2)
        op = Conv((stride, stride), (pad, pad), (1, 1), groups)
        return self.b(op, x, self.weight(shape, 0), self.b.constant(self.normal(out)))

    def linear(self, x: Value, out: int) -> Value:
        w = self.weight((x.type.shape[-1], out), 1)
        return self.b(Add(), self.b(Matmul(), x, w), self.b.constant(self.normal(out)))

    def finish(self, **outputs: Value) -> Graph:
        return self.b.finish(outputs)


class PowersOfTwo(QdqBuilder):
    """The same for a device of shifts: symmetric i8, every scale rounded to a power of two."""

    def qdq(self, x: Value, scale: float, zero: int = 0, dtype: DType = DType.i8) -> Value:
        return super().qdq(x, 2.0 ** round(math.log2(scale)), 0, DType.i8)

    def weight(self, shape: tuple[int, ...], axis: int | None) -> Value:
        found = super().weight(shape, axis)
        q, scale = found.node.operands
        assert scale.literal is not None
        return self.b(found.op, q, self.b.constant(scale.literal.tensor.log2().round().exp2()))


class Random:
    """Grows one QDQ graph; with `smooth`, some layers are followed by functions that no two machines
    compute to the same bit."""

    def __init__(
        self,
        draw: Callable[[st.SearchStrategy[int]], int],
        smooth: bool,
        builder: Callable[[int], QdqBuilder] = QdqBuilder,
    ) -> None:
        self._draw = draw
        self.smooth = smooth
        self.g = builder(self.number(0, 2**16))
        self.values: list[Value] = []

    def number(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def pick(self) -> Value:
        return self.values[self.number(0, len(self.values) - 1)]

    def quantized(self, x: Value) -> None:
        dtype = (DType.u8, DType.u8, DType.i8)[self.number(0, 2)]
        zero = self.number(0, 255) if dtype is DType.u8 else self.number(-128, 127)
        scale = (0.02, 0.05, 0.1, 0.05)[self.number(0, 3)]
        self.values.append(self.g.qdq(x, scale, zero, dtype))

    def image(self) -> Value | None:
        images = [v for v in self.values if v.type.rank == 4 and min(v.type.shape[2:]) > 2]
        return images[self.number(0, len(images) - 1)] if images else None

    def layer(self) -> None:
        x = self.image()
        if x is None or self.number(0, 3) == 0:
            y = self.g.linear(self.pick(), self.number(1, 20))
        elif self.number(0, 2) == 0:
            channels = x.type.shape[1]
            y = self.g.conv(x, channels, groups=channels, stride=self.number(1, 2))
        else:
            y = self.g.conv(x, self.number(1, 20), 2 * self.number(0, 1) + 1, self.number(1, 2))
        ops = (None, None, Relu(), Clamp(0.0, 6.0), *((Gelu(), Sigmoid()) if self.smooth else ()))
        op = ops[self.number(0, len(ops) - 1)]
        self.quantized(y if op is None else self.g.b(op, y))

    def pool(self) -> None:
        x = self.image()
        if x is None:
            return
        b = self.g.b
        kind = self.number(0, 2)
        if kind == 0:
            self.quantized(b(MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), x))
        elif kind == 1:
            self.quantized(b(AvgPool((2, 2), (1, 1), ((0, 1), (1, 0)), (1, 1), count_padding=True), x))
        else:
            self.quantized(b(ReduceMean((2, 3), bool(self.number(0, 1))), x))

    def binary(self) -> None:
        x = self.pick()
        fitting = [v for v in self.values if v.type.shape == x.type.shape]
        y = fitting[self.number(0, len(fitting) - 1)]
        z = self.g.b((Add(), Sub(), Mul())[self.number(0, 2)], x, y)
        self.quantized(self.g.b(Relu(), z) if self.number(0, 1) else z)

    def move(self) -> None:
        x = self.pick()
        b, shape = self.g.b, x.type.shape
        kind = self.number(0, 4)
        if kind == 0:
            self.values.append(b(Reshape((x.type.size // shape[-1], shape[-1])), x))
        elif kind == 1:
            self.values.append(b(Transpose((*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2)), x))
        elif kind == 2:
            starts = tuple(0 for _ in shape)
            self.values.append(b(Slice(starts, (*shape[:-1], max(1, shape[-1] - 1)), (1,) * len(shape)), x))
        elif kind == 3:
            self.values.append(b(Pad((1,) * len(shape), (0,) * len(shape), 0.0), x))
        else:
            fitting = [v for v in self.values if v.type.shape == shape]
            self.quantized(b(Concat(len(shape) - 1), x, fitting[self.number(0, len(fitting) - 1)]))

    def product(self) -> None:
        x = self.pick()
        if x.type.rank < 2:
            return
        fitting = [v for v in self.values if v.type.shape == x.type.shape and v != x]
        if fitting:
            y = fitting[self.number(0, len(fitting) - 1)]
            self.quantized(self.g.b(Matmul(transpose_b=True), x, y))

    def build(self, steps: int) -> Graph:
        shapes = ((1, 3, 8, 8), (2, 5, 7), (1, 4, 6, 5))
        for i in range(self.number(1, 2)):
            self.quantized(self.g.input(f"x{i}", *shapes[self.number(0, 2)]))
        makers = (self.layer, self.layer, self.layer, self.pool, self.binary, self.move, self.product)
        for _ in range(steps):
            if self.values[-1].type.size > 3000:
                break
            makers[self.number(0, len(makers) - 1)]()
        kept = self.values[-self.number(1, 3) :]
        return self.g.finish(**{f"y{i}": v for i, v in enumerate(kept)})


@st.composite
def qdq_graphs(draw: Callable[[st.SearchStrategy[int]], int], steps: int = 6, smooth: bool = True) -> Graph:
    """A random network in QDQ form."""
    return Random(draw, smooth).build(steps)


@st.composite
def shift_graphs(draw: Callable[[st.SearchStrategy[int]], int], steps: int = 6) -> Graph:
    """The same with scales that are powers of two, and nothing that shifts cannot compute."""
    return Random(draw, smooth=False, builder=PowersOfTwo).build(steps)
