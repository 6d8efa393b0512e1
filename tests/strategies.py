"""Random graphs for hypothesis: small, valid, and tame enough to compare numerically."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from hypothesis import strategies as st

from hardy.compiler.ir import Builder, Graph, Op, Value
from hardy.compiler.ops.activation import Clamp, Gelu, HardSwish, Relu, Sigmoid, Silu, Softmax
from hardy.compiler.ops.elementwise import Abs, Add, Cast, Div, Equal, Less, Max, Min, Mul, Neg, Sub, Where
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import BatchNorm, GroupNorm, LayerNorm, ReduceMean
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.reduce import CumSum, ReduceMax, ReduceSum
from hardy.compiler.ops.shape import BroadcastTo, Concat, Gather, Pad, Reshape, Reverse, Slice, Transpose
from hardy.compiler.ops.transcendental import Sin, Tanh
from hardy.compiler.types import DType, TensorType

# Strides, padding and dilations.
Window = tuple[tuple[int, ...], tuple[tuple[int, int], ...], tuple[int, ...]]

F32 = DType.f32
LIMIT = 400  # elements of a tensor
WHOLE = (Neg(), Abs(), Relu(), Clamp(-2.0, 3.0))
SMOOTH = (Tanh(), Sin(), Sigmoid(), Silu(), Gelu(), HardSwish())


class Graphs:
    """Grows one graph. With `whole`, all values are whole numbers of moderate size, so that every
    order of summing gives the same bits; without, values are real and nothing is discontinuous."""

    def __init__(self, draw: Callable[[st.SearchStrategy[object]], object], whole: bool) -> None:
        self._draw = draw
        self.whole = whole
        self.b = Builder("random")
        self.values: list[Value] = []
        # A bound on the magnitude of each value, so that f32 stays exact.
        self.bound: dict[Value, float] = {}

    def integer(self, low: int, high: int) -> int:
        value = self._draw(st.integers(low, high))
        assert isinstance(value, int)
        return value

    def pick(self, count: int) -> int:
        return self.integer(0, count - 1)

    def tensor(self, shape: tuple[int, ...]) -> torch.Tensor:
        rng = torch.Generator().manual_seed(self.integer(0, 2**16))
        if self.whole:
            return torch.randint(-2, 3, shape, generator=rng).float()
        return torch.randn(shape, generator=rng)

    def add(self, op: Op, *operands: Value, bound: float | None = None) -> Value:
        v = self.b(op, *operands, source=f"step {len(self.values)}")
        self.bound[v] = max(self.bound.get(o, 2.0) for o in operands) if bound is None else bound
        if v.type.size <= LIMIT and self.bound[v] < 2**12:
            self.values.append(v)
        return v

    def constant(self, tensor: torch.Tensor) -> Value:
        v = self.b.constant(tensor)
        self.bound[v] = float(tensor.abs().max()) if tensor.numel() else 0.0
        return v

    def value(self) -> Value:
        return self.values[self.pick(len(self.values))]

    def shape(self) -> tuple[int, ...]:
        shapes = [(2, 3), (4, 6), (1, 4, 4, 4), (2, 4, 3, 3), (2, 1, 3), (6,)]
        return shapes[self.pick(len(shapes))]

    def like(self, x: Value) -> list[Value]:
        """The values of x's element type."""
        return [v for v in self.values if v.type.dtype is x.type.dtype]

    def build(self, steps: int) -> Graph:
        for i in range(self.integer(1, 2)):
            self.feed(f"x{i}")
        makers = self.makers()
        for _ in range(steps):
            makers[self.pick(len(makers))]()
        kept = self.values[-self.integer(1, 3) :]
        return self.b.finish({f"y{i}": v for i, v in enumerate(kept)})

    def feed(self, name: str) -> None:
        """An input."""
        v = self.b.input(name, TensorType(DType.i8 if self.whole else F32, self.shape()))
        if self.whole:
            v = self.b(Clamp(-4, 4), v)
            v = self.b(Cast(F32), v)
        self.values.append(v)
        self.bound[v] = 4.0

    def movements(self) -> list[Callable[[], None]]:
        """What moves elements of any type; an entry that is there twice is drawn more often."""
        return [
            self.reshape, self.transpose, self.transpose, self.cut, self.pad, self.concat, self.broadcast,
            self.reverse, self.gather,
        ]  # fmt: skip

    def makers(self) -> list[Callable[[], None]]:
        return [
            self.unary, self.unary, self.binary, self.binary, self.scalar, self.scalar, self.vector,
            self.reduce, self.select, self.product, self.window, self.normalize, *self.movements(),
        ]  # fmt: skip

    def window_sizes(self) -> tuple[int, int, Window]:
        """Kernel size, padding, and the strides, padding and dilations of two axes."""
        k, s, p = self.integer(1, 2), self.integer(1, 2), self.integer(0, 1)
        return k, p, ((s, s), ((p, p), (p, 0)), (1, 1))

    def unary(self) -> None:
        ops: tuple[Op, ...] = WHOLE if self.whole else WHOLE + SMOOTH
        self.add(ops[self.pick(len(ops))], self.value())

    def binary(self) -> None:
        x = self.value()
        fitting = [v for v in self.like(x) if v.type.shape == x.type.shape or v.type.size == 1]
        y = fitting[self.pick(len(fitting))]
        op = (Add(), Sub(), Mul(), Max(), Min())[self.pick(5)]
        if isinstance(op, Mul):
            self.add(op, x, y, bound=self.bound[x] * self.bound[y])
        else:
            self.add(op, x, y, bound=self.bound[x] + self.bound[y])

    def scalar(self) -> None:
        x = self.value()
        op = (Add(), Sub(), Mul(), Max(), Min(), Div())[self.pick(6)]
        number = (
            (1.0, -1.0, 2.0)[self.pick(3)]
            if isinstance(op, Div)
            else (0.0, 1.0, -1.0, 2.0, 6.0)[self.pick(5)]
        )
        if isinstance(op, Div) and self.whole:
            number = 1.0
        c = self.b.scalar(number, F32)
        operands = (x, c) if isinstance(op, Div | Sub) or self.integer(0, 1) else (c, x)
        self.add(op, *operands, bound=max(self.bound[x] * max(abs(number), 1), self.bound[x] + abs(number)))

    def vector(self) -> None:
        """A constant along one axis."""
        x = self.value()
        if not x.type.rank:
            return
        axis = self.pick(x.type.rank)
        shape = tuple(n if i == axis else 1 for i, n in enumerate(x.type.shape))
        c = self.constant(self.tensor(shape[axis:] if self.integer(0, 1) else shape))
        op = (Add(), Sub(), Mul())[self.pick(3)]
        self.add(op, x, c, bound=max(2 * self.bound[x], self.bound[x] + 2))

    def reshape(self) -> None:
        x = self.value()
        rest, shape = x.type.size, []
        while rest > 1:
            divisors = [d for d in range(1, rest + 1) if rest % d == 0]
            shape.append(divisors[self.pick(len(divisors))])
            rest //= shape[-1]
            if len(shape) == 3:
                break
        self.add(Reshape((*shape, rest) if rest > 1 or not shape else tuple(shape)), x)

    def transpose(self) -> None:
        x = self.value()
        perm = self._draw(st.permutations(range(x.type.rank)))
        assert isinstance(perm, list)
        self.add(Transpose(tuple(perm)), x)

    def cut(self) -> None:
        x = self.value()
        starts = tuple(self.integer(0, n - 1) if n else 0 for n in x.type.shape)
        stops = tuple(self.integer(s + 1, n) if n else 0 for s, n in zip(starts, x.type.shape, strict=True))
        self.add(Slice(starts, stops, tuple(self.integer(1, 2) for _ in starts)), x)

    def pad(self) -> None:
        x = self.value()
        low, high = (tuple(self.integer(0, 1) for _ in x.type.shape) for _ in range(2))
        self.add(Pad(low, high, self.border(x)), x)

    def border(self, x: Value) -> float:
        """What pads x."""
        return float(self.integer(0, 1))

    def concat(self) -> None:
        x = self.value()
        if not x.type.rank:
            return
        axis = self.pick(x.type.rank)

        def rest(v: Value) -> tuple[int, ...]:
            return v.type.shape[:axis] + v.type.shape[axis + 1 :]

        fitting = [v for v in self.like(x) if v.type.rank == x.type.rank and rest(v) == rest(x)]
        y = fitting[self.pick(len(fitting))]
        self.add(Concat(axis), x, y)

    def broadcast(self) -> None:
        x = self.value()
        shape = tuple(self.integer(1, 3) if n == 1 else n for n in x.type.shape)
        self.add(BroadcastTo((self.integer(1, 2), *shape)), x)

    def reduce(self) -> None:
        x = self.value()
        axes = tuple(a for a in range(x.type.rank) if self.integer(0, 1))
        count = math.prod(x.type.shape[a] for a in axes)
        ops: tuple[Op, ...] = (
            ReduceSum(axes, bool(self.integer(0, 1))),
            ReduceMax(axes, bool(self.integer(0, 1))),
        )
        if not self.whole:
            ops += (ReduceMean(axes, bool(self.integer(0, 1))),)
        elif x.type.rank:
            ops += (CumSum(self.pick(x.type.rank)),)
        self.add(
            ops[self.pick(len(ops))], x, bound=self.bound[x] * max(x.type.size if self.whole else count, 1)
        )

    def reverse(self) -> None:
        x = self.value()
        self.add(Reverse(tuple(a for a in range(x.type.rank) if self.integer(0, 1))), x)

    def gather(self) -> None:
        x = self.value()
        if not x.type.rank:
            return
        axis = self.pick(x.type.rank)
        size = x.type.shape[axis]
        count = self.integer(0, 2)
        indices = [self.integer(-size, size - 1) for _ in range(max(count, 1))]
        literal = torch.tensor(indices if count else indices[0])
        self.add(Gather(axis), x, self.b.constant(literal))

    def select(self) -> None:
        x = self.value()
        if self.whole:
            test = (Less(), Equal())[self.pick(2)]
            condition = self.b(test, x, self.b.scalar(float(self.integer(-1, 1)), F32))
        else:
            condition = self.b.constant(self.tensor(x.type.shape) > 0)
        self.add(Where(), condition, x, self.b.scalar(0, F32))

    def product(self) -> None:
        x = self.value()
        if x.type.rank < 2:
            return
        flip = bool(self.integer(0, 1))
        inner = x.type.shape[-1]
        w = self.constant(self.tensor((3, inner) if flip else (inner, 3)))
        self.add(Matmul(transpose_b=flip), x, w, bound=self.bound[x] * 2 * inner)

    def window(self) -> None:
        images = [v for v in self.values if v.type.rank == 4 and min(v.type.shape[2:]) >= 2]
        if not images:
            return
        x = images[self.pick(len(images))]
        channels = x.type.shape[1]
        k, p, window = self.window_sizes()
        kind = self.pick(3)
        if kind == 0:
            w = self.constant(self.tensor((4, channels, k, k)))
            bias = [self.constant(self.tensor((4,)))] if self.integer(0, 1) else []
            self.add(Conv(*window), x, w, *bias, bound=self.bound[x] * 2 * channels * k * k + 2)
        elif kind == 1:
            if p == 0:
                self.add(MaxPool((k, k), *window), x)
        elif not self.whole and k > p:
            self.add(AvgPool((k, k), *window, count_padding=True), x)

    def normalize(self) -> None:
        x = self.value()
        if self.whole or x.type.rank < 2:
            return
        n = x.type.shape[1]
        kind = self.pick(4)
        if kind == 0:
            parameters = [self.constant(self.tensor((n,))) for _ in range(3)]
            variance = self.constant(self.tensor((n,)).abs() + 0.5)
            self.add(BatchNorm(), x, *parameters, variance, bound=4 * self.bound[x] + 8)
        elif kind == 1:
            self.add(LayerNorm(x.type.rank - 1, 0.1), x, bound=4.0)
        elif kind == 2:
            self.add(Softmax(self.pick(x.type.rank)), x, bound=1.0)
        elif x.type.rank > 2:
            self.add(GroupNorm(1, 0.1), x, bound=8.0)


@st.composite
def graphs(
    draw: Callable[[st.SearchStrategy[object]], object], whole: bool = False, steps: int = 12
) -> Graph:
    """A random graph of mostly core ops over f32 (fed from i8 where `whole`)."""
    return Graphs(draw, whole).build(steps)
