"""Element types and tensor types."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import torch

from hardy.compiler.errors import GraphError

# The name `torch` inside DType is the property.
TorchDType = torch.dtype

# One tensor may hold at most this many elements: offsets stay well inside signed 64 bits.
MAX_ELEMENTS = 2**40


class DType(enum.Enum):
    """An element type. `i4` and `u4` occupy one byte an element outside packed weights."""

    f64 = "f64"
    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    f8e4m3 = "f8e4m3"
    f8e5m2 = "f8e5m2"
    i64 = "i64"
    i32 = "i32"
    i16 = "i16"
    i8 = "i8"
    i4 = "i4"
    u8 = "u8"
    u4 = "u4"
    boolean = "bool"

    # Identity hash: enum's own hashes the name in Python on every dictionary access.
    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self.value

    @property
    def torch(self) -> TorchDType:
        """The torch type that stores one element."""
        return _TORCH[self]

    @property
    def bits(self) -> int:
        """Bits of information an element holds (bool counts as a byte)."""
        return _BITS[self]

    @property
    def is_float(self) -> bool:
        return self.value[0] in "fb" and self is not DType.boolean

    @property
    def is_integer(self) -> bool:
        return self.value[0] in "iu"

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest value of an integer type."""
        if not self.is_integer:
            raise ValueError(f"{self} is not an integer type")
        if self.value[0] == "u":
            return 0, 2**self.bits - 1
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    @staticmethod
    def of(dtype: TorchDType) -> DType:
        """The hardy type of a torch type; raises GraphError where there is none."""
        try:
            return _FROM_TORCH[dtype]
        except KeyError:
            raise GraphError(
                f"no hardy type for {dtype_name(dtype)}", hint=f"use one of {', '.join(map(str, DType))}"
            ) from None


_TORCH = {
    DType.f64: torch.float64,
    DType.f32: torch.float32,
    DType.f16: torch.float16,
    DType.bf16: torch.bfloat16,
    DType.f8e4m3: torch.float8_e4m3fn,
    DType.f8e5m2: torch.float8_e5m2,
    DType.i64: torch.int64,
    DType.i32: torch.int32,
    DType.i16: torch.int16,
    DType.i8: torch.int8,
    DType.i4: torch.int8,
    DType.u8: torch.uint8,
    DType.u4: torch.uint8,
    DType.boolean: torch.bool,
}
_BITS = {
    DType.f64: 64,
    DType.f32: 32,
    DType.f16: 16,
    DType.bf16: 16,
    DType.f8e4m3: 8,
    DType.f8e5m2: 8,
    DType.i64: 64,
    DType.i32: 32,
    DType.i16: 16,
    DType.i8: 8,
    DType.i4: 4,
    DType.u8: 8,
    DType.u4: 4,
    DType.boolean: 8,
}
_FROM_TORCH = {t: d for d, t in _TORCH.items() if d not in (DType.i4, DType.u4)}


def dtype_name(dtype: TorchDType) -> str:
    """A torch type as messages name it: as hardy does, or as torch does where hardy has no such type."""
    known = _FROM_TORCH.get(dtype)
    return str(dtype).removeprefix("torch.") if known is None else known.value


def describe_tensor(tensor: torch.Tensor) -> str:
    """Element type and shape as messages show them, for any tensor: `f32[2,4]`, `complex64[3]`."""
    return f"{dtype_name(tensor.dtype)}[{','.join(map(str, tensor.shape))}]"


@dataclass(frozen=True, slots=True)
class TensorType:
    """An element type and a static shape, written `f32[2,4]`; a scalar is `f32[]`."""

    dtype: DType
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype.value}[{','.join(map(str, self.shape))}]"

    __repr__ = __str__

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed data: two 4-bit elements share a byte."""
        return (self.size * self.dtype.bits + 7) // 8

    def with_shape(self, shape: tuple[int, ...]) -> TensorType:
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that NumPy's broadcasting rule gives; GraphError where it gives none."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    rank = max(map(len, shapes))
    result = []
    for axis in range(-rank, 0):
        sizes = {s[axis] for s in shapes if len(s) >= -axis} - {1}
        if len(sizes) > 1:
            text = " and ".join(str(list(s)) for s in shapes)
            raise GraphError(f"shapes {text} do not broadcast: axis {axis} has sizes {sorted(sizes)}")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)
