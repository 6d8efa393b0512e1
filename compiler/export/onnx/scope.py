"""The names and the initializers of an ONNX graph that is being written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from hardy.compiler.frontends.onnx.tensors import to_array
from hardy.compiler.ir import Value
from hardy.compiler.literal import Literal


class Scope:
    """`reserved` are the names of inputs and outputs, which no other value may take."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self.names: dict[Value, str] = {}
        self.initializers: list[TensorProto] = []
        self._taken = set(reserved)

    def name(self, value: Value, hint: str) -> str:
        """The value's name: the hint, or the op's name, made unique."""
        if value not in self.names:
            self.names[value] = self._unique(hint or value.op.name)
        return self.names[value]

    def literal(self, literal: Literal, name: str) -> None:
        """An initializer for a constant of the graph."""
        data = to_array(literal.tensor, literal.type.dtype)
        self.initializers.append(numpy_helper.from_array(data, name))

    def constant(self, data: Any, base: str) -> str:
        """An initializer for what ONNX takes as an operand and hardy as an attribute."""
        name = self._unique(base)
        self.initializers.append(numpy_helper.from_array(np.asarray(data), name))
        return name

    def ints(self, data: Sequence[int], base: str) -> str:
        return self.constant(np.array(data, dtype=np.int64), base)

    def _unique(self, base: str) -> str:
        name, count = base, 0
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name
