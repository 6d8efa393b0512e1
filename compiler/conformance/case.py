"""One conformance case: an op on given inputs; and the types and values that cases share."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph, Op
from hardy.compiler.literal import Literal
from hardy.compiler.types import DType, TensorType

Fill = Callable[[TensorType, torch.Generator], torch.Tensor]

FLOATS = ("f32", "f64", "f16", "bf16")
INTEGERS = ("i64", "i32", "i16", "i8", "u8")
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -2.5, 0.5, 3e-42, 88.0, -104.0, 1e30)


@dataclass(frozen=True)
class Case:
    """A graph of one op, the inputs to run it on, and the element type it is about."""

    name: str
    op: Op
    dtype: DType
    graph: Graph
    inputs: Mapping[str, torch.Tensor]

    def expected(self) -> dict[str, torch.Tensor]:
        """The reference's outputs."""
        return run(self.graph, self.inputs)


def normal(t: TensorType, rng: torch.Generator) -> torch.Tensor:
    """Standard normal floats; integers of both signs (or small), and mixed booleans."""
    if t.dtype is DType.boolean:
        return torch.randint(0, 2, t.shape, generator=rng).bool()
    if t.dtype.is_integer:
        low, high = t.dtype.range
        return torch.randint(max(low, -100), min(high, 100) + 1, t.shape, generator=rng).to(t.dtype.torch)
    return torch.randn(t.shape, generator=rng, dtype=torch.float64).to(t.dtype.torch)


def between(low: float, high: float) -> Fill:
    """Uniform in low..high; whole numbers, both ends included, for integers."""

    def fill(t: TensorType, rng: torch.Generator) -> torch.Tensor:
        if t.dtype.is_integer:
            return torch.randint(int(low), int(high) + 1, t.shape, generator=rng).to(t.dtype.torch)
        x = torch.rand(t.shape, generator=rng, dtype=torch.float64)
        return (low + (high - low) * x).to(t.dtype.torch)

    return fill


def exactly(*values: float) -> Fill:
    """These values, repeated to fill the shape."""

    def fill(t: TensorType, rng: torch.Generator) -> torch.Tensor:
        wide = torch.float64 if t.dtype.is_float else torch.int64
        row = torch.tensor(values, dtype=wide)
        flat = row.repeat(t.size // len(values) + 1)[: t.size]
        return flat.reshape(t.shape).to(t.dtype.torch)

    return fill


def full_range(t: TensorType, rng: torch.Generator) -> torch.Tensor:
    """Integers over the whole of their type."""
    low, high = t.dtype.range
    if t.dtype is DType.i64:
        low, high = -(2**62), 2**62
    return torch.randint(low, high + 1, t.shape, generator=rng).to(t.dtype.torch)


def parse_type(text: str) -> TensorType:
    """`f32[2,3]` as a type."""
    dtype, _, rest = text.partition("[")
    return TensorType(DType(dtype), tuple(int(n) for n in rest.rstrip("]").split(",") if n))


def case(
    op: Op,
    *types: str,
    label: str = "",
    fill: Mapping[int, Fill] | Fill = normal,
    constants: tuple[int, ...] = (),
) -> Case:
    """A case: operands of these types, filled by `fill` (for all, or by position), those whose
    positions are in `constants` known at compile time."""
    name = "-".join([op.name, *[t.replace("[", "_").replace(",", "x").rstrip("]") for t in types]])
    name += f"-{label}" if label else ""
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    b = Builder(op.name)
    inputs: dict[str, torch.Tensor] = {}
    operands = []
    for i, text in enumerate(types):
        t = parse_type(text)
        filler = fill.get(i, normal) if isinstance(fill, Mapping) else fill
        data = filler(t, rng)
        if i in constants:
            operands.append(b.constant(Literal(data, t.dtype)))
        else:
            operands.append(b.input(f"x{i}", t))
            inputs[f"x{i}"] = data
    results = b.multi(op, *operands, source=f"conformance case {name}")
    graph = b.finish({f"y{i}": v for i, v in enumerate(results)})
    return Case(name, op, parse_type(types[0]).dtype, graph, inputs)
