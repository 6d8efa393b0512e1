"""What an importer of one ATen operator sees, and the table of importers.

An importer is a function `(c, *args, **kwargs)` with the operator's own parameters, where tensors
are graph values. It returns the value of the result, or a list of them in the operator's order
(None for a result that nobody uses). What torch says of the result is in `c.types`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import fx

from hardy.compiler.errors import GraphError, UnsupportedError
from hardy.compiler.frontends.emit import Emitter
from hardy.compiler.ir import Op, Value
from hardy.compiler.types import DType, TensorType

Importer = Callable[..., Any]
F = TypeVar("F", bound=Importer)
Number = bool | int | float
Operand = Value | Number

# "aten.add.Tensor" -> importer; filled by the modules of this package, in a fixed order.
IMPORTERS: dict[str, Importer] = {}


def aten(*names: str, namespace: str = "aten") -> Callable[[F], F]:
    """Register an importer for overloads such as "add.Tensor"; a bare name means `.default`."""

    def register(function: F) -> F:
        for name in names:
            key = f"{namespace}.{name}" if "." in name else f"{namespace}.{name}.default"
            if key in IMPORTERS:
                other = IMPORTERS[key]
                raise ValueError(
                    f"{key} has two importers: {other.__module__}.{other.__name__} "
                    f"and {function.__module__}.{function.__name__}"
                )
            IMPORTERS[key] = function
        return function

    return register


class Context:
    """One operator under import: the emitter, torch's own result types, and errors with the source."""

    def __init__(self, e: Emitter, node: fx.Node, types: tuple[TensorType | None, ...], source: str) -> None:
        self.e = e
        self.node = node
        self.types = types
        self.source = source

    def __call__(self, op: Op, *operands: Value) -> Value:
        return self.e(op, *operands)

    @property
    def type(self) -> TensorType:
        """The type that torch gives the (first) result."""
        first = self.types[0]
        assert first is not None
        return first

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    def value(self, x: Operand, dtype: DType) -> Value:
        """A tensor or number in an element type."""
        if isinstance(x, Value):
            return self.e.cast(x, dtype)
        return self.e.scalar(bool(x) if dtype is DType.boolean else x, dtype)

    def operands(self, *xs: Operand) -> list[Value]:
        """Tensors and numbers in the result's element type."""
        return [self.value(x, self.dtype) for x in xs]

    def axis(self, axis: int, rank: int) -> int:
        """An axis that may count from the end; a scalar has the axis 0."""
        return axis % max(rank, 1)

    def axes(self, axes: Sequence[int] | int | None, rank: int) -> tuple[int, ...]:
        """Axes in ascending order; none given means all."""
        if isinstance(axes, int):
            axes = [axes]
        if not axes:
            return tuple(range(rank))
        return tuple(sorted(self.axis(a, rank) for a in axes)) if rank else ()

    def used(self, index: int) -> bool:
        """Whether anything uses a result of an operator that has several."""
        return any(user.args[1] == index for user in self.node.users if _is_getitem(user)) or any(
            not _is_getitem(user) for user in self.node.users
        )

    def known(self, x: Value, what: str) -> torch.Tensor:
        """The data of a tensor that must be known at compile time."""
        literal = self.e.known(x)
        if literal is None:
            self.unsupported(f"{what} depends on the input", hint="make it a constant of the model")
        return literal.tensor

    def unsupported(self, message: str, hint: str = "") -> NoReturn:
        raise UnsupportedError(f"{self.node.target}: {message}", where=self.source, hint=hint)


def _is_getitem(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"


def promoted(x: Operand, y: Operand) -> DType:
    """The element type in which torch computes an elementwise function of two operands."""
    return _promoted(_kind(x), _kind(y))


def _kind(x: Operand) -> tuple[DType | type, bool]:
    return (x.type.dtype, x.type.rank > 0) if isinstance(x, Value) else (type(x), False)


@functools.cache
def _promoted(x: tuple[DType | type, bool], y: tuple[DType | type, bool]) -> DType:
    examples = [
        torch.empty([1] * dimensioned, dtype=kind.torch) if isinstance(kind, DType) else kind(0)
        for kind, dimensioned in (x, y)
    ]
    return DType.of(torch.result_type(*examples))


def refuse_type(dtype: torch.dtype, where: str) -> None:
    """UnsupportedError for element types that hardy does not have."""
    if dtype.is_complex:
        raise UnsupportedError(
            "complex numbers are not supported", where=where, hint="compute with real and imaginary parts"
        )
    try:
        DType.of(dtype)
    except GraphError as error:
        raise UnsupportedError(error.message, where=where, hint=error.hint) from None
