"""Builds the graph during import and evaluates what is known at compile time.

Shape arithmetic must vanish before the ops that need its results are built, so small results of
constants are computed at once. Larger ones are left to the constant folding pass unless an
importer asks for their value; so are quantized weights, which passes want to see as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from hardy.compiler.errors import GraphError, ModelError
from hardy.compiler.interpret import run_node
from hardy.compiler.ir import Builder, Constant, Graph, Input, Node, Op, Value, make_node
from hardy.compiler.literal import Literal
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.ops.shape import BroadcastTo, Concat, Reshape, Slice, Transpose
from hardy.compiler.types import DType, TensorType

# Results of constants up to this many elements are computed during import.
EAGER = 4096

Operand = Value | float


class Emitter:
    """Appends nodes to a builder, with arithmetic that reads well: `e.mul(x, 0.5)`."""

    def __init__(self, name: str) -> None:
        self.builder = Builder(name)
        self.source = ""
        self.hint = ""
        self._scalars: dict[tuple[float, float, DType], Value] = {}
        self._foldable: set[Value] = set()
        self._known: dict[Value, Literal] = {}

    def __call__(self, op: Op, *operands: Value) -> Value:
        """Append a node with one result."""
        (value,) = self.multi(op, *operands)
        return value

    def multi(self, op: Op, *operands: Value) -> tuple[Value, ...]:
        """Append a node; constants in its place where the operands are small constants."""
        node = make_node(op, operands, self.hint, self.source)
        if operands and all(isinstance(v.op, Constant) or v in self._foldable for v in operands):
            small = sum(t.size for t in node.types) <= EAGER and all(
                v.literal is not None and v.type.size <= EAGER for v in operands
            )
            if small and not _unpacks(node):
                literals = _run(node, [v.literal for v in operands if v.literal is not None])
                return tuple(self.constant(literal) for literal in literals)
            values = self.builder.append(node)
            self._foldable.update(values)
            return values
        return self.builder.append(node)

    def constant(self, data: Literal | torch.Tensor, name: str = "") -> Value:
        return self.builder.constant(data, name=name or self.hint, source=self.source)

    def known(self, value: Value) -> Literal | None:
        """The value if it is known at compile time, else None."""
        if value.literal is not None:
            return value.literal
        if value not in self._foldable:
            return None
        if value not in self._known:
            self._evaluate(value)
        return self._known[value]

    def _evaluate(self, wanted: Value) -> None:
        stack = [wanted.node]
        while stack:
            node = stack[-1]
            missing = [
                v.node for v in node.operands if not isinstance(v.op, Constant) and v not in self._known
            ]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            if node.values[0] not in self._known:
                literals = _run(node, [v.literal or self._known[v] for v in node.operands])
                self._known.update(zip(node.values, literals, strict=True))

    def inputs_behind(self, value: Value) -> list[str]:
        """The graph inputs that a value depends on, in order of declaration."""
        seen: set[int] = set()
        stack = [value.node]
        labels = set()
        while stack:
            node = stack.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node.op, Input):
                labels.add(node.op.label)
            stack.extend(v.node for v in node.operands)
        return [name for name in self.builder.finish({}).input_names if name in labels]

    def scalar(self, value: float, dtype: DType) -> Value:
        """A rank-0 constant, shared by all its uses."""
        key = (value, math.copysign(1, value), dtype)
        if key not in self._scalars:
            tensor = torch.tensor(value, dtype=dtype.torch)
            self._scalars[key] = self.builder.constant(Literal(tensor, dtype), source=self.source)
        return self._scalars[key]

    def finish(self, outputs: dict[str, Value]) -> Graph:
        """The graph without the nodes that no output needs."""
        graph = self.builder.finish(outputs)
        live = {id(v.node) for v in graph.outputs}
        kept: list[Node] = []
        for node in reversed(graph.nodes):
            if id(node) in live or isinstance(node.op, Input):
                kept.append(node)
                live.update(id(v.node) for v in node.operands)
        return graph.with_nodes(reversed(kept), graph.outputs)

    # Arithmetic: a Python number takes the other operand's type.

    def _pair(self, x: Operand, y: Operand) -> tuple[Value, Value]:
        if isinstance(x, Value):
            return x, y if isinstance(y, Value) else self.scalar(y, x.type.dtype)
        if not isinstance(y, Value):
            raise TypeError("one operand must be a graph value")
        return self.scalar(x, y.type.dtype), y

    def add(self, x: Operand, y: Operand) -> Value:
        return self(ew.Add(), *self._pair(x, y))

    def sub(self, x: Operand, y: Operand) -> Value:
        return self(ew.Sub(), *self._pair(x, y))

    def mul(self, x: Operand, y: Operand) -> Value:
        return self(ew.Mul(), *self._pair(x, y))

    def div(self, x: Operand, y: Operand) -> Value:
        return self(ew.Div(), *self._pair(x, y))

    def max(self, x: Operand, y: Operand) -> Value:
        return self(ew.Max(), *self._pair(x, y))

    def min(self, x: Operand, y: Operand) -> Value:
        return self(ew.Min(), *self._pair(x, y))

    def less(self, x: Operand, y: Operand) -> Value:
        return self(ew.Less(), *self._pair(x, y))

    def less_equal(self, x: Operand, y: Operand) -> Value:
        return self(ew.LessEqual(), *self._pair(x, y))

    def equal(self, x: Operand, y: Operand) -> Value:
        return self(ew.Equal(), *self._pair(x, y))

    def where(self, condition: Value, x: Operand, y: Operand) -> Value:
        return self(ew.Where(), condition, *self._pair(x, y))

    def cast(self, x: Value, dtype: DType) -> Value:
        return x if x.type.dtype is dtype else self(ew.Cast(dtype), x)

    # Movement: nothing is built where nothing moves.

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        return x if x.type.shape == tuple(shape) else self(Reshape(tuple(shape)), x)

    def transpose(self, x: Value, permutation: Sequence[int]) -> Value:
        same = tuple(permutation) == tuple(range(x.type.rank))
        return x if same else self(Transpose(tuple(permutation)), x)

    def move_axis(self, x: Value, source: int, target: int) -> Value:
        order = [i for i in range(x.type.rank) if i != source]
        order.insert(target, source)
        return self.transpose(x, order)

    def broadcast(self, x: Value, shape: Sequence[int]) -> Value:
        return x if x.type.shape == tuple(shape) else self(BroadcastTo(tuple(shape)), x)

    def slice(self, x: Value, axis: int, start: int, stop: int) -> Value:
        """x[start:stop] along one axis, 0 <= start <= stop <= size."""
        starts, stops = [0] * x.type.rank, list(x.type.shape)
        starts[axis], stops[axis] = start, stop
        if tuple(stops) == x.type.shape and not any(starts):
            return x
        return self(Slice(tuple(starts), tuple(stops), (1,) * x.type.rank), x)

    def pick(self, x: Value, axis: int, index: int) -> Value:
        """x at one position of an axis, which goes away."""
        part = self.slice(x, axis, index, index + 1)
        return self.reshape(part, x.type.shape[:axis] + x.type.shape[axis + 1 :])

    def split(self, x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
        parts, start = [], 0
        for size in sizes:
            parts.append(self.slice(x, axis, start, start + size))
            start += size
        return parts

    def concat(self, xs: Sequence[Value], axis: int) -> Value:
        return xs[0] if len(xs) == 1 else self(Concat(axis), *xs)

    def stack(self, xs: Sequence[Value], axis: int) -> Value:
        shape = xs[0].type.shape
        return self.concat([self.reshape(x, (*shape[:axis], 1, *shape[axis:])) for x in xs], axis)

    def full(self, shape: Sequence[int], value: float, dtype: DType) -> Value:
        """A constant of one value; built as a broadcast, so that it takes no memory."""
        return self.broadcast(self.scalar(value, dtype), shape)

    def zeros(self, t: TensorType) -> Value:
        return self.full(t.shape, 0, t.dtype)


def _unpacks(node: Node) -> bool:
    """Whether a node makes floats of smaller integers."""
    return isinstance(node.op, Dequantize) and node.type.nbytes > node.operands[0].type.nbytes


def _run(node: Node, operands: list[Literal]) -> list[Literal]:
    """A node's results on constants; ModelError where the reference cannot compute them."""
    try:
        results = run_node(node, [literal.tensor for literal in operands])
    except (RuntimeError, IndexError, ValueError) as error:
        given = ", ".join(str(literal.type) for literal in operands)
        raise ModelError(
            f"{node.op.name}({given}) of constants has no result: {error}", where=node.source
        ) from None
    except GraphError as error:
        raise ModelError(error.message, where=node.source) from error
    return [
        Literal(r.clone() if _is_view(r) else r, t.dtype) for r, t in zip(results, node.types, strict=True)
    ]


def _is_view(tensor: torch.Tensor) -> bool:
    """Whether a tensor keeps more memory alive than it needs."""
    return tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
