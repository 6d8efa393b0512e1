"""What an importer sees of one ONNX node: its operands, attributes and the graph being built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from onnx import AttributeProto, GraphProto, NodeProto

from hardy.compiler.errors import ModelError, UnsupportedError
from hardy.compiler.frontends.emit import Emitter
from hardy.compiler.frontends.onnx.tensors import dtype_of
from hardy.compiler.ir import Op, Value
from hardy.compiler.literal import Literal
from hardy.compiler.types import DType

if TYPE_CHECKING:
    from hardy.compiler.frontends.onnx.scope import Scope


@dataclass(frozen=True)
class TensorList:
    """A sequence of tensors whose length is known at compile time."""

    items: tuple[Item, ...]
    dtype: DType | None = None


@dataclass(frozen=True)
class EmptyOptional:
    """An optional that is known to be empty; a full one is its content."""


Item = Value | TensorList | EmptyOptional
Importer = Callable[["Context"], "Item | Sequence[Item | None]"]


class ConstantRequiredError(ModelError):
    """An importer needs at compile time what depends on these inputs."""

    def __init__(self, message: str, inputs: Sequence[str], where: str) -> None:
        names = ", ".join(map(repr, inputs))
        super().__init__(
            f"{message}, but it depends on the input{'s' * (len(inputs) != 1)} {names}",
            where=where,
            hint="shapes are static: make it a constant of the model by binding "
            + " and ".join(f"{n}=VALUE" for n in inputs),
        )
        self.inputs = tuple(inputs)


@dataclass
class Context:
    """One node during import."""

    scope: Scope
    node: NodeProto
    source: str
    opset: int
    inputs: list[Item | None]
    attributes: Mapping[str, AttributeProto]

    @property
    def e(self) -> Emitter:
        return self.scope.emitter

    def __call__(self, op: Op, *operands: Value) -> Value:
        return self.e(op, *operands)

    def multi(self, op: Op, *operands: Value) -> tuple[Value, ...]:
        return self.e.multi(op, *operands)

    # Operands

    def item(self, index: int) -> Item | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def has(self, index: int) -> bool:
        return self.item(index) is not None

    def __getitem__(self, index: int) -> Value:
        """A required tensor operand."""
        value = self.optional(index)
        if value is None:
            raise ModelError(f"{self.node.op_type} misses operand {index}", where=self.source)
        return value

    def optional(self, index: int) -> Value | None:
        value = self.item(index)
        if value is None or isinstance(value, Value):
            return value
        kind = "a sequence" if isinstance(value, TensorList) else "an empty optional"
        raise ModelError(
            f"operand {index} of {self.node.op_type} must be a tensor, got {kind}", where=self.source
        )

    def sequence(self, index: int) -> TensorList:
        value = self.item(index)
        if isinstance(value, TensorList):
            return value
        raise ModelError(f"operand {index} of {self.node.op_type} must be a sequence", where=self.source)

    def tensors(self) -> list[Value]:
        """All operands, each a tensor."""
        return [self[i] for i in range(len(self.inputs))]

    def wants(self, output: int) -> bool:
        """Whether the model names this result."""
        return output < len(self.node.output) and bool(self.node.output[output])

    # Values needed at compile time

    def known(self, index: int) -> Literal | None:
        """An operand's value where it is known at compile time."""
        value = self.optional(index)
        return None if value is None else self.e.known(value)

    def constant(self, index: int, what: str = "") -> torch.Tensor:
        """An operand's value; ConstantRequiredError names the inputs that must be bound."""
        name = self.node.input[index] if index < len(self.node.input) else str(index)
        return self.require(
            self[index], f"{self.node.op_type} needs {what or f'operand {name!r}'} at compile time"
        )

    def require(self, value: Value, message: str) -> torch.Tensor:
        literal = self.e.known(value)
        if literal is None:
            raise ConstantRequiredError(message, self.e.inputs_behind(value), self.source)
        return literal.tensor

    def constant_ints(self, index: int, what: str = "") -> tuple[int, ...]:
        return tuple(int(v) for v in self.constant(index, what).reshape(-1).tolist())

    def constant_int(self, index: int, what: str = "") -> int:
        return int(self._one(index, what))

    def constant_float(self, index: int, what: str = "") -> float:
        return float(self._one(index, what))

    def _one(self, index: int, what: str) -> float:
        tensor = self.constant(index, what)
        if tensor.numel() != 1:
            self.fail(f"operand {index} must hold one element, got shape {list(tensor.shape)}")
        return tensor.reshape(()).item()

    def ints_operand_or_attribute(self, index: int, name: str) -> tuple[int, ...] | None:
        """What older operator sets have as an attribute and newer ones as an operand."""
        if name in self.attributes:
            return self.integers(name)
        return self.constant_ints(index, name) if self.has(index) else None

    # Attributes

    def _attribute(self, name: str, kind: int) -> AttributeProto | None:
        attribute = self.attributes.get(name)
        if attribute is not None and attribute.type != kind:
            expected = AttributeProto.AttributeType.Name(kind)
            got = AttributeProto.AttributeType.Name(attribute.type)
            self.fail(f"attribute {name!r} must be {expected}, got {got}")
        return attribute

    def integer(self, name: str, default: int | None = None) -> int:
        attribute = self._attribute(name, AttributeProto.INT)
        return int(self._or(default, name)) if attribute is None else attribute.i

    def real(self, name: str, default: float | None = None) -> float:
        attribute = self._attribute(name, AttributeProto.FLOAT)
        return float(self._or(default, name)) if attribute is None else attribute.f

    def text(self, name: str, default: str | None = None) -> str:
        attribute = self._attribute(name, AttributeProto.STRING)
        return str(self._or(default, name)) if attribute is None else attribute.s.decode(errors="replace")

    def integers(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        attribute = self._attribute(name, AttributeProto.INTS)
        return tuple(self._or(default, name)) if attribute is None else tuple(attribute.ints)

    def reals(self, name: str, default: Sequence[float] | None = None) -> tuple[float, ...]:
        attribute = self._attribute(name, AttributeProto.FLOATS)
        return tuple(self._or(default, name)) if attribute is None else tuple(attribute.floats)

    def texts(self, name: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        attribute = self._attribute(name, AttributeProto.STRINGS)
        if attribute is None:
            return tuple(self._or(default, name))
        return tuple(s.decode(errors="replace") for s in attribute.strings)

    def tensor(self, name: str) -> Literal | None:
        attribute = self._attribute(name, AttributeProto.TENSOR)
        return None if attribute is None else self.scope.reader.literal(attribute.t)

    def graph(self, name: str) -> GraphProto:
        attribute = self._attribute(name, AttributeProto.GRAPH)
        return self._or(None, name) if attribute is None else attribute.g

    def _or(self, default: Any, name: str) -> Any:
        if default is None:
            self.fail(f"attribute {name!r} is missing")
        return default

    def dtype(self, name: str, default: DType | None = None) -> DType:
        """An element type attribute."""
        if default is not None and name not in self.attributes:
            return default
        return dtype_of(self.integer(name), self.source)

    # Axes and errors

    def axis(self, axis: int, rank: int) -> int:
        """An axis that may count from the end, as one that does not."""
        if not -rank <= axis < rank:
            self.fail(f"axis {axis} is outside a tensor of rank {rank}")
        return axis % rank

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        result = tuple(self.axis(a, rank) for a in axes)
        if len(set(result)) != len(result):
            self.fail(f"axes {list(axes)} repeat")
        return result

    def fail(self, message: str) -> NoReturn:
        """The model breaks a rule of the standard."""
        raise ModelError(message, where=self.source)

    def unsupported(self, message: str, hint: str = "") -> NoReturn:
        raise UnsupportedError(message, where=self.source, hint=hint)

    def data_dependent(self) -> NoReturn:
        """The size of the result depends on data that is not known at compile time."""
        raise UnsupportedError(
            f"the shape of {self.node.op_type}'s result depends on the data; shapes are static",
            where=self.source,
            hint="run this part of the model outside of hardy, or bind what it reads to a constant",
        )
