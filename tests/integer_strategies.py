"""Random graphs of integers for hypothesis, all of whose results are defined to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from hypothesis import strategies as st

from hardy.compiler.ir import Graph, Op, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.activation import Clamp, Mod, Relu
from hardy.compiler.ops.elementwise import (
    Abs,
    Add,
    And,
    Cast,
    Div,
    Equal,
    Less,
    LessEqual,
    Max,
    Min,
    Mul,
    Neg,
    Not,
    Or,
    Pow,
    Rem,
    ShiftLeft,
    ShiftRight,
    Sign,
    Sub,
    Where,
    Xor,
)
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.pool import MaxPool
from hardy.compiler.ops.quant import (
    Dequantize,
    IntegerConv,
    IntegerMatmul,
    Quantize,
    Requantize,
    RequantizeShift,
)
from hardy.compiler.ops.reduce import ArgMax, ArgMin, CumSum, ReduceMax, ReduceMin, ReduceProd, ReduceSum
from hardy.compiler.types import DType, TensorType
from tests.strategies import LIMIT, Graphs

T = TypeVar("T")
F32, BOOL, I32 = DType.f32, DType.boolean, DType.i32
NARROW = (DType.i8, DType.u8, DType.i4, DType.u4)
# The common ones twice.
INTEGERS = (
    DType.i8,
    DType.u8,
    I32,
    DType.i64,
    DType.i8,
    DType.u8,
    I32,
    DType.i64,
    DType.i16,
    DType.i4,
    DType.u4,
)
# Ends of ranges, small numbers, and what no float holds.
NUMBERS = (
    0, 1, -1, 2, -2, 3, 7, -8, 15, 100, 127, 128, 255, 2**31 - 1, -(2**31), 2**53 + 1, -(2**53) - 1,
    -(2**63), 2**63 - 1,
)  # fmt: skip
# Powers of two: what they scale stays exact in f32, in whatever order it is computed.
EXACT_SCALES = (0.25, 0.5, 1.0, 2.0)


def any_of(dtype: DType, shape: Sequence[int], seed: int) -> torch.Tensor:
    """Integers from the whole range of their type and from near zero, half and half; mixed booleans."""
    rng = torch.Generator().manual_seed(seed)
    if dtype is BOOL:
        return torch.randint(0, 2, tuple(shape), generator=rng).bool()
    low, high = dtype.range
    # torch draws below a bound that must itself fit 64 bits: the greatest i64 is left out.
    far = torch.randint(low, min(high, 2**63 - 2) + 1, tuple(shape), generator=rng)
    near = torch.randint(max(low, -4), 5, tuple(shape), generator=rng)
    return torch.where(torch.randint(0, 2, tuple(shape), generator=rng).bool(), far, near).to(dtype.torch)


def integer_inputs(graph: Graph, seed: int) -> dict[str, torch.Tensor]:
    """Inputs for a graph of integers."""
    types = graph.input_types().items()
    return {name: any_of(t.dtype, t.shape, seed + i) for i, (name, t) in enumerate(types)}


class IntegerGraphs(Graphs):
    """Grows one graph of integers, booleans and, between quantizations, floats that are exact."""

    def __init__(self, draw: Callable[[st.SearchStrategy[object]], object]) -> None:
        super().__init__(draw, whole=True)

    def feed(self, name: str) -> None:
        self.values.append(self.b.input(name, TensorType(self.one(INTEGERS), self.shape())))

    def makers(self) -> list[Callable[[], None]]:
        return [
            self.unary, self.unary, self.binary, self.binary, self.scalar, self.scalar, self.vector,
            self.divide, self.shift, self.power, self.compare, self.logic, self.select, self.cast, self.cast,
            self.reduce, self.product, self.integer_product, self.window, self.integer_window, self.pool,
            self.quantize, self.dequantize, self.requantize, *self.movements(),
        ]  # fmt: skip

    def one(self, choices: Sequence[T]) -> T:
        return choices[self.pick(len(choices))]

    def chance(self) -> bool:
        return bool(self.integer(0, 1))

    def add(self, op: Op, *operands: Value, bound: float | None = None) -> Value:
        v = self.b(op, *operands, source=f"step {len(self.values)}")
        if v.type.size <= LIMIT:
            self.values.append(v)
        return v

    def some(self, dtypes: Sequence[DType]) -> Value:
        """A value of one of these types; where there is none yet, a value cast to one."""
        fitting = [v for v in self.values if v.type.dtype in dtypes]
        if fitting and self.integer(0, 4):
            # The latest ones often, so that chains form.
            return self.one(fitting[-2:] if self.chance() else fitting)
        whole = [v for v in self.values if v.type.dtype is not F32]
        return self.add(Cast(self.one(dtypes)), self.one(whole))

    def whole_number(self) -> Value:
        return self.some(INTEGERS)

    def data(self, dtype: DType, shape: Sequence[int]) -> Value:
        """A constant."""
        return self.b.constant(Literal(any_of(dtype, shape, self.integer(0, 2**16)), dtype))

    def number(self, dtype: DType, numbers: Sequence[int] = NUMBERS) -> int:
        low, high = dtype.range
        return self.one([n for n in numbers if low <= n <= high])

    def border(self, x: Value) -> float:
        dtype = x.type.dtype
        return self.number(dtype) if dtype.is_integer else self.integer(0, 1)

    def unary(self) -> None:
        x = self.whole_number()
        # Ends may lie outside of the range, on their side of it.
        least, greatest = x.type.dtype.range
        low = self.one((-math.inf, *[n for n in NUMBERS if n <= greatest]))
        high = self.one((math.inf, *[n for n in NUMBERS if n >= least]))
        ends = (min(low, high), max(low, high))
        ops = (Neg(), Abs(), Sign(), Not(), Relu(), Clamp(*ends), Clamp(*ends))
        self.add(self.one(ops), x)

    def binary(self) -> None:
        x = self.whole_number()
        fitting = [v for v in self.like(x) if v.type.shape == x.type.shape or v.type.size == 1]
        ops = (Add(), Sub(), Mul(), Max(), Min(), And(), Or(), Xor())
        self.add(self.one(ops), x, self.one(fitting))

    def scalar(self) -> None:
        x = self.whole_number()
        c = self.b.scalar(self.number(x.type.dtype), x.type.dtype)
        ops = (Add(), Sub(), Mul(), Max(), Min(), And(), Or(), Xor())
        self.add(self.one(ops), *((x, c) if self.chance() else (c, x)))

    def vector(self) -> None:
        """A constant along one axis."""
        x = self.whole_number()
        if not x.type.rank:
            return
        axis = self.pick(x.type.rank)
        shape = tuple(n if i == axis else 1 for i, n in enumerate(x.type.shape))
        c = self.data(x.type.dtype, shape[axis:] if self.chance() else shape)
        self.add(self.one((Add(), Sub(), Mul())), x, c)

    def divide(self) -> None:
        x = self.whole_number()
        # The least number over -1 does not exist.
        number = self.number(x.type.dtype, [n for n in NUMBERS if n not in (0, -1)])
        self.add(self.one((Div(), Rem(), Mod())), x, self.b.scalar(number, x.type.dtype))

    def shift(self) -> None:
        x = self.whole_number()
        by = self.b.scalar(self.integer(0, x.type.dtype.bits - 1), x.type.dtype)
        self.add(self.one((ShiftLeft(), ShiftRight())), x, by)

    def power(self) -> None:
        x = self.whole_number()
        self.add(Pow(), x, self.b.scalar(self.integer(0, 4), x.type.dtype))

    def compare(self) -> None:
        x = self.whole_number()
        same = [v for v in self.like(x) if v.type.shape == x.type.shape]
        y = self.one(same) if self.chance() else self.b.scalar(self.number(x.type.dtype), x.type.dtype)
        self.add(self.one((Equal(), Less(), LessEqual())), x, y)

    def logic(self) -> None:
        x = self.some((BOOL,))
        same = [v for v in self.like(x) if v.type.shape == x.type.shape]
        y = self.one(same) if self.integer(0, 2) else self.b.scalar(self.integer(0, 1), BOOL)
        if self.integer(0, 3):
            self.add(self.one((And(), Or(), Xor(), Equal(), Max(), Min())), x, y)
        else:
            self.add(Not(), x)

    def select(self) -> None:
        x = self.whole_number()
        y = self.one([v for v in self.like(x) if v.type.shape == x.type.shape])
        conditions = [v for v in self.values if v.type == x.type.with_dtype(BOOL)]
        condition = self.one(conditions) if conditions else self.data(BOOL, x.type.shape)
        self.add(Where(), condition, x, y)

    def cast(self) -> None:
        whole = [v for v in self.values if v.type.dtype is not F32]
        x = self.one(whole)
        exact = x.type.dtype is BOOL or x.type.dtype.bits <= 16
        self.add(Cast(self.one((*INTEGERS, BOOL, *([F32] * exact)))), x)

    def reduce(self) -> None:
        x = self.whole_number()
        axes = tuple(a for a in range(x.type.rank) if self.chance())
        kinds = (ReduceSum, ReduceProd, ReduceMax, ReduceMin)
        if self.integer(0, 2) or not x.type.rank:
            self.add(self.one(kinds)(axes, self.chance()), x)
            return
        axis = self.pick(x.type.rank)
        scans: tuple[Op, ...] = (
            CumSum(axis, self.chance(), self.chance()),
            ArgMax(axis, self.chance(), self.chance()),
            ArgMin(axis, self.chance()),
        )
        self.add(self.one(scans), x)

    def product(self) -> None:
        x = self.some((I32, DType.i64))
        if x.type.rank < 2:
            return
        flip = self.chance()
        inner = x.type.shape[-1]
        self.add(Matmul(transpose_b=flip), x, self.data(x.type.dtype, (3, inner) if flip else (inner, 3)))

    def integer_product(self) -> None:
        x = self.some(NARROW)
        if x.type.rank < 2:
            return
        flip, narrow = self.chance(), self.one(NARROW)
        rows, inner = x.type.shape[-2:]
        w = self.data(narrow, (3, inner) if flip else (inner, 3))
        zeros = [
            self.data(x.type.dtype, (rows,) if self.chance() else ()),
            self.data(narrow, (3,) if self.chance() else ()),
        ]
        self.add(IntegerMatmul(transpose_b=flip), x, w, *zeros[: self.integer(0, 2)])

    def window(self) -> None:
        x = self.some((I32, DType.i64))
        if x.type.rank != 4 or min(x.type.shape[2:]) < 2:
            return
        k, _, window = self.window_sizes()
        w = self.data(x.type.dtype, (4, x.type.shape[1], k, k))
        bias = [self.data(x.type.dtype, (4,))] if self.chance() else []
        self.add(Conv(*window), x, w, *bias)

    def integer_window(self) -> None:
        x = self.some(NARROW)
        if x.type.rank != 4 or min(x.type.shape[2:]) < 2:
            return
        k, _, window = self.window_sizes()
        narrow = self.one(NARROW)
        w = self.data(narrow, (4, x.type.shape[1], k, k))
        zeros = [self.data(x.type.dtype, ()), self.data(narrow, (4,) if self.chance() else ())]
        self.add(IntegerConv(*window), x, w, *zeros[: self.integer(0, 2)])

    def pool(self) -> None:
        x = self.whole_number()
        if x.type.rank != 4 or min(x.type.shape[2:]) < 2:
            return
        k, p, window = self.window_sizes()
        if k > p:
            self.add(MaxPool((k, k), *window), x)

    def axis_and_shape(self, x: Value) -> tuple[int, tuple[int, ...]]:
        """The axis of a quantization and the shape of its parameters."""
        if x.type.rank and self.chance():
            axis = self.pick(x.type.rank)
            return axis, (x.type.shape[axis],)
        return 0, ()

    def scales(self, shape: tuple[int, ...], numbers: Sequence[float] = EXACT_SCALES) -> Value:
        return self.b.constant(
            torch.tensor([self.one(numbers) for _ in range(math.prod(shape))]).reshape(shape)
        )

    def quantize(self) -> None:
        floats = [v for v in self.values if v.type.dtype is F32]
        if not floats:
            return
        x, dtype = self.one(floats), self.one((*NARROW, DType.i16, I32))
        axis, shape = self.axis_and_shape(x)
        zero = [self.data(dtype, shape)] if self.chance() and dtype is not I32 else []
        self.add(Quantize(dtype, axis), x, self.scales(shape), *zero)

    def dequantize(self) -> None:
        x = self.some((*NARROW, DType.i16))
        axis, shape = self.axis_and_shape(x)
        zero = [self.data(x.type.dtype, shape)] if self.chance() else []
        self.add(Dequantize(axis), x, self.scales(shape), *zero)

    def requantize(self) -> None:
        x, dtype = self.some((I32,)), self.one(NARROW)
        axis, shape = self.axis_and_shape(x)
        if self.chance():
            amounts = [self.integer(0, 31) for _ in range(math.prod(shape))]
            shift = self.b.constant(torch.tensor(amounts, dtype=torch.int32).reshape(shape))
            self.add(RequantizeShift(dtype, axis), x, shift)
            return
        scale = self.scales(shape, (1e-8, 0.0009765625, 0.37, 1.0, 3.0))
        self.add(Requantize(dtype, axis), x, scale, self.data(dtype, shape))


@st.composite
def integer_graphs(draw: Callable[[st.SearchStrategy[object]], object], steps: int = 12) -> Graph:
    """A random graph over i8, u8, i16, i32, i64, bool and stored 4-bit integers, whose results are
    the same to the bit however they are computed."""
    return IntegerGraphs(draw).build(steps)
