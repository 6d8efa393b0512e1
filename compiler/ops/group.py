"""A part of a graph as one node: what a target compiles to one kernel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hardy.compiler.ir import Builder, Graph, Op, Value
from hardy.compiler.ops.rules import require
from hardy.compiler.types import TensorType


@dataclass(frozen=True)
class Group(Op):
    """A graph applied to operands, one for each of its inputs, in order.

    `kind` names the way a target lowers it, such as "elementwise" or "matmul"; it does not change
    what is computed.
    """

    kind: str
    body: Graph

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        expected = tuple(v.type for v in self.body.inputs)
        require(
            operands == expected,
            f"the group takes {', '.join(map(str, expected))}, got {', '.join(map(str, operands))}",
        )
        return tuple(v.type for v in self.body.outputs)

    def reference(self, *operands: Tensor) -> tuple[Tensor, ...]:
        from hardy.compiler.interpret import evaluate

        return evaluate(self.body, operands)

    def decompose(self, b: Builder, *operands: Value) -> tuple[Value, ...]:
        return b.inline(self.body, operands)

    def macs(self, *operands: TensorType) -> int:
        nodes = self.body.nodes
        return sum(n.op.macs(*[v.type for v in n.operands]) for n in nodes)
