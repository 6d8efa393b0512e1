"""The layers of a graph: convolutions and matrix products with a constant weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

import torch

from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Builder, Constant, Graph, Node, Value, transform
from hardy.compiler.literal import Literal
from hardy.compiler.ops.linear import Conv, Matmul


@dataclass(frozen=True)
class Layer:
    """A node that multiplies what flows through the graph by a constant weight.

    `out_axis` and `in_axis` are the weight's axes of output channels and of what is summed over (the
    channels of one group for a convolution, whose other axes are the kernel's). `place` is the
    number of the weight among the node's operands. `name` is what people select the layer by.
    """

    node: Node
    place: int
    out_axis: int
    in_axis: int
    name: str

    @property
    def x(self) -> Value:
        """What flows in."""
        return self.node.operands[1 - self.place]

    @property
    def weight(self) -> Value:
        return self.node.operands[self.place]

    @property
    def x_axis(self) -> int:
        """The axis of `x` that holds the input channels, those of all groups."""
        op, rank = self.node.op, self.x.type.rank
        if isinstance(op, Conv):
            return 1 if op.layout == "channels_first" else rank - 1
        assert isinstance(op, Matmul)
        if self.place == 1:
            return rank - 2 if op.transpose_a else rank - 1
        return rank - 1 if op.transpose_b else rank - 2

    @property
    def data(self) -> torch.Tensor:
        """The weight's tensor; nobody may write to it."""
        literal = self.weight.literal
        assert literal is not None
        return literal.tensor

    @property
    def macs(self) -> int:
        return self.node.op.macs(*[v.type for v in self.node.operands])

    def rows(self, weight: torch.Tensor | None = None) -> torch.Tensor:
        """The weight as [output channels, everything that is summed over]; a copy or a view."""
        w = self.data if weight is None else weight
        return w.movedim(self.out_axis, 0).flatten(1)

    def spread(self, channels: torch.Tensor) -> torch.Tensor:
        """A figure of each input channel as [1 or output channels, everything that is summed over]."""
        op, shape = self.node.op, self.weight.type.shape
        groups = op.groups if isinstance(op, Conv) else 1
        by_group = channels.reshape(groups, -1)
        by_row = by_group.repeat_interleave(shape[self.out_axis] // groups, 0) if groups > 1 else by_group
        kernel = self.weight.type.size // (shape[self.out_axis] * shape[self.in_axis])
        return by_row.repeat_interleave(kernel, 1)

    def unrows(self, rows: torch.Tensor) -> torch.Tensor:
        """The inverse of `rows`: a contiguous tensor of the weight's shape."""
        shape = list(self.weight.type.shape)
        moved = [shape.pop(self.out_axis), *shape]
        return rows.reshape(moved).movedim(0, self.out_axis).contiguous()


L = TypeVar("L", bound=Layer)


def layers(graph: Graph) -> Iterator[Layer]:
    """Every layer with a float weight, in order.

    Its name is the weight's where it has one (`encoder.layer.0.query.weight`), else the node's, made
    unique with a number.
    """
    seen: dict[str, int] = {}
    for node in graph.nodes:
        found = weight_of(node, _is_weight)
        if found is None:
            continue
        place, out_axis, in_axis = found
        base = node.operands[place].node.name or node.name or node.op.name
        seen[base] = seen.get(base, 0) + 1
        name = base if seen[base] == 1 else f"{base}#{seen[base]}"
        yield Layer(node, place, out_axis, in_axis, name)


def weight_of(node: Node, is_weight: Callable[[Value], bool]) -> tuple[int, int, int] | None:
    """The weight's place and its axes of output and input channels, None for what is no layer."""
    op = node.op
    if isinstance(op, Conv):
        return (1, 0, 1) if is_weight(node.operands[1]) else None
    if isinstance(op, Matmul):
        for place, transposed in ((1, op.transpose_b), (0, not op.transpose_a)):
            value = node.operands[place]
            if is_weight(value) and value.type.rank == 2 and node.operands[1 - place].literal is None:
                # The columns of b and the rows of a are output channels.
                return (place, 0, 1) if transposed else (place, 1, 0)
    return None


def _is_weight(value: Value) -> bool:
    return isinstance(value.op, Constant) and value.type.dtype.is_float


def select(found: Iterable[L], only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[L]:
    """The layers whose name or source matches a shell pattern of `only` (all, if empty) and none of `skip`.

    UsageError for a pattern that matches no layer, with the layers' names.
    """
    found = list(found)
    for pattern in (*only, *skip):
        if not any(_matches(layer, pattern) for layer in found):
            names = ", ".join(layer.name for layer in found[:20]) + (", ..." if len(found) > 20 else "")
            raise UsageError(f"no layer matches {pattern!r}", hint=f"the layers are {names or 'none'}")
    return [
        layer
        for layer in found
        if (not only or any(_matches(layer, p) for p in only)) and not any(_matches(layer, p) for p in skip)
    ]


def _matches(layer: Layer, pattern: str) -> bool:
    return fnmatchcase(layer.name, pattern) or fnmatchcase(layer.node.source, pattern)


def replace_weights(graph: Graph, new: Mapping[Value, torch.Tensor]) -> Graph:
    """The graph with other data in some of its constants, of the same types; names and sources stay."""

    def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        tensor = new.get(node.values[0]) if isinstance(node.op, Constant) else None
        if tensor is None:
            return None
        dtype = node.type.dtype
        return [b.constant(Literal(tensor.to(dtype.torch), dtype), name=node.name, source=node.source)]

    return transform(graph, rewrite)
