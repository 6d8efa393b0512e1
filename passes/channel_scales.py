"""Moves a factor of each channel from the input of layers into what computes it, through constants alone.

Where x is what layers multiply, x / s with weights that take it times s is the same. Dividing x is
free where what computes it ends in constants of each channel: the weight of a normalization, the
weight and bias of a layer, with relu, additions of constants and products in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.literal import Literal
from hardy.compiler.ops.activation import LeakyRelu, Relu
from hardy.compiler.ops.elementwise import Add, Mul
from hardy.compiler.ops.linear import Conv
from hardy.compiler.ops.norm import LayerNorm, RmsNorm
from hardy.compiler.ops.pool import Pool
from hardy.compiler.ops.rules import along
from hardy.passes.layers import Layer, layers

# They let a positive factor of a channel through.
HOMOGENEOUS = (Relu, LeakyRelu, Pool)


@dataclass(frozen=True)
class Edit:
    """An operand, a constant, to be multiplied along an axis."""

    node: Node
    place: int
    axis: int


@dataclass
class Factors:
    """Factors of the graph's constants, collected and then applied at once."""

    graph: Graph
    users: Mapping[Value, Sequence[Node]] = field(init=False)
    layer_of: Mapping[Node, Layer] = field(init=False)
    # By node, and by the operand's place and the axis.
    factors: dict[Node, dict[tuple[int, int], Tensor]] = field(default_factory=dict)
    # What is divided at run time, for some of its users, because no constant could be.
    divided: dict[Value, tuple[Tensor, frozenset[Node]]] = field(default_factory=dict)
    _quotients: dict[Value, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.users = self.graph.users()
        self.layer_of = {layer.node: layer for layer in layers(self.graph)}

    def source_of(self, x: Value, axis: int, readers: Iterable[Node]) -> list[Edit] | None:
        """The constants that multiply x by channel along `axis`, None where there are none or where
        others than `readers` use x."""
        if x in self.graph.outputs or not set(self.users.get(x, ())) <= set(readers):
            return None
        node, op = x.node, x.op
        layer = self.layer_of.get(node)
        if layer is not None:
            return _layer_edits(layer, axis)
        if isinstance(op, LayerNorm | RmsNorm):
            parameters = node.operands[1:]
            alone = op.axis == axis == x.type.rank - 1 and all(v.literal is not None for v in parameters)
            return [Edit(node, i, 0) for i in range(1, len(node.operands))] if alone and parameters else None
        if isinstance(op, Pool) and axis != _channel_axis_of(op.layout, x.type.rank):
            return None
        if isinstance(op, HOMOGENEOUS):
            return self.source_of(node.operands[0], axis, [node])
        if isinstance(op, Add):
            return self._sum(node, axis)
        if isinstance(op, Mul):
            return self._product(node, axis)
        return None

    def _sum(self, node: Node, axis: int) -> list[Edit] | None:
        edits = []
        for place, value in enumerate(node.operands):
            found = self.constant(node, place, axis)
            if found is None and value.literal is None and value.type.shape == node.type.shape:
                found = self.source_of(value, axis, [node])
            if found is None:
                return None
            edits += found
        return edits

    def _product(self, node: Node, axis: int) -> list[Edit] | None:
        for place in range(2):
            found = self.constant(node, place, axis)
            if found is not None:
                return found
        # The later factor first: a gate is mostly behind an activation.
        for value in reversed(node.operands):
            if value.type.shape == node.type.shape and node.operands[0] != node.operands[1]:
                found = self.source_of(value, axis, [node])
                if found is not None:
                    return found
        return None

    def constant(self, node: Node, place: int, axis: int) -> list[Edit] | None:
        """A constant with an entry for each channel of the node's result."""
        value = node.operands[place]
        own = axis - (node.type.rank - value.type.rank)
        if value.literal is None or own < 0 or value.type.shape[own] != node.type.shape[axis]:
            return None
        return [Edit(node, place, own)]

    def multiply(self, edits: Iterable[Edit], factor: Tensor) -> None:
        for edit in edits:
            own = self.factors.setdefault(edit.node, {})
            key = (edit.place, edit.axis)
            own[key] = own[key] * factor.double() if key in own else factor.double()

    def divide(self, x: Value, readers: Iterable[Node], divisor: Tensor) -> None:
        """Divide x, as these layers read it, when the graph runs."""
        self.divided[x] = (divisor, frozenset(readers))

    def data(self, node: Node, place: int) -> Tensor:
        """A constant operand with its factors so far, f64."""
        literal = node.operands[place].literal
        assert literal is not None
        data = literal.tensor.double()
        for (where, axis), factor in self.factors.get(node, {}).items():
            if where == place:
                data = data * along(factor, axis, data.ndim)
        return data

    def apply(self) -> Graph:
        """The graph with all of it; the same object where there is none."""

        def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            new = self.operands(b, node, operands)
            return None if new == operands else b.append(replace(node, operands=new))

        return transform(self.graph, rewrite)

    def operands(self, b: Builder, node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        """The operands of a node of the graph in a sweep over it, with all of it."""
        new = list(operands)
        for place in sorted({place for place, _ in self.factors.get(node, ())}):
            old = node.operands[place]
            literal = Literal(self.data(node, place).to(old.type.dtype.torch), old.type.dtype)
            new[place] = b.constant(literal, name=old.node.name, source=old.node.source)
        for place, old in enumerate(node.operands):
            divisor, readers = self.divided.get(old, (None, frozenset()))
            if divisor is not None and node in readers:
                if old not in self._quotients:
                    factor = b.constant((1 / divisor.double()).to(old.type.dtype.torch))
                    self._quotients[old] = b(Mul(), operands[place], factor)
                new[place] = self._quotients[old]
        return tuple(new)


def _layer_edits(layer: Layer, axis: int) -> list[Edit] | None:
    node, op = layer.node, layer.node.op
    if axis != output_axis(layer):
        return None
    edits = [Edit(node, layer.place, layer.out_axis)]
    if isinstance(op, Conv) and len(node.operands) == 3:
        if node.operands[2].literal is None:
            return None
        edits.append(Edit(node, 2, 0))
    return edits


def output_axis(layer: Layer) -> int:
    """The axis of a layer's result that holds its output channels."""
    return _channel_axis(layer, layer.node.type.rank)


def input_axis(layer: Layer) -> int:
    """The axis of what flows in that holds the input channels."""
    return _channel_axis(layer, layer.x.type.rank)


def _channel_axis(layer: Layer, rank: int) -> int:
    op = layer.node.op
    if isinstance(op, Conv):
        return _channel_axis_of(op.layout, rank)
    return rank - (1 if layer.place == 1 else 2)


def _channel_axis_of(layout: str, rank: int) -> int:
    return 1 if layout == "channels_first" else rank - 1


def input_edit(layer: Layer) -> Edit | None:
    """How the weight takes an input times a factor of each channel; None for grouped convolutions
    that are not depthwise."""
    op = layer.node.op
    if isinstance(op, Conv) and op.groups > 1:
        depthwise = op.groups == layer.x.type.shape[input_axis(layer)] == layer.weight.type.shape[0]
        return Edit(layer.node, layer.place, layer.out_axis) if depthwise else None
    return Edit(layer.node, layer.place, layer.in_axis)


def readers_of(graph: Graph, found: Iterable[Layer]) -> dict[Value, list[Layer]]:
    """The layers that read each value, in the order of the graph, for those with an input edit."""
    result: dict[Value, list[Layer]] = {}
    for layer in found:
        if input_edit(layer) is not None:
            result.setdefault(layer.x, []).append(layer)
    return {x: group for x, group in result.items() if len({input_axis(layer) for layer in group}) == 1}
