"""What a pattern matched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hardy.compiler.ir import Node, Op, Value
from hardy.compiler.literal import Literal
from hardy.compiler.types import TensorType

OpType = TypeVar("OpType", bound=Op)


@dataclass(frozen=True)
class Match:
    """What a pattern's names stand for. `root` is the node that gets replaced."""

    root: Node
    values: Mapping[str, Value]
    attributes: Mapping[str, Any]
    nodes: Mapping[str, Node]
    uses: Mapping[Value, int]

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def attribute(self, name: str) -> Any:
        """A captured attribute, or the number of a captured scalar."""
        return self.attributes[name]

    def number(self, name: str) -> float:
        """A captured number; for integers an int, which is exact."""
        number: float = self.attributes[name]
        return number

    def node(self, name: str) -> Node:
        """The node of the term that was given this `name`."""
        return self.nodes[name]

    def op(self, kind: type[OpType], name: str = "") -> OpType:
        """The op of a named node, or of the root; it must be of this kind."""
        op = (self.nodes[name] if name else self.root).op
        if not isinstance(op, kind):
            raise TypeError(f"{name or 'the root'} is {op.name}, not {kind.name}")
        return op

    def literal(self, name: str) -> Literal:
        """The data of a value that matched a constant."""
        literal = self.values[name].literal
        if literal is None:
            raise TypeError(f"{name} is not a constant")
        return literal

    def only_use(self, value: Value) -> bool:
        """Whether a value is used once in the whole graph."""
        return self.uses.get(value, 0) == 1

    @property
    def type(self) -> TensorType:
        """The type of the root's first result."""
        return self.root.type
