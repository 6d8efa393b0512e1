"""Adds constants to the output channels of layers, in their biases where they have some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from hardy.compiler.ir import Builder, Graph, Node, Value, make_node, transform
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.linear import Conv
from hardy.passes.channel_scales import Factors, output_axis
from hardy.passes.layers import Layer


def move_outputs(graph: Graph, moved: Mapping[Layer, Tensor]) -> Graph:
    """The graph with constants, a number for each channel, added to the output channels of layers."""
    factors = Factors(graph)
    biases: dict[Node, list[tuple[int, Layer]]] = {}
    behind: dict[Node, Layer] = {}
    for layer in moved:
        found = _bias(layer, graph, factors)
        if found is None:
            behind[layer.node] = layer
        else:
            biases.setdefault(found[0], []).append((found[1], layer))

    def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        new = list(operands)
        for place, layer in biases.get(node, ()):
            old = node.operands[place]
            assert old.literal is not None
            shape = [1] * old.type.rank
            shape[output_axis(layer) - (node.type.rank - old.type.rank) if len(shape) > 1 else 0] = -1
            total = old.literal.tensor.double() + moved[layer].reshape(shape)
            new[place] = b.constant(
                total.to(old.type.dtype.torch), name=old.node.name, source=old.node.source
            )
        if node in behind:
            layer = behind[node]
            by = moved[layer].to(node.type.dtype.torch)
            if isinstance(node.op, Conv) and len(new) == 2:
                return b.append(make_node(node.op, [*new, b.constant(by)], node.name, node.source))
            shape = [1] * (node.type.rank - output_axis(layer))
            shape[0] = -1
            (result,) = b.append(replace(node, operands=tuple(new)))
            return [b(Add(), result, b.constant(by.reshape(shape)))]
        return None if tuple(new) == operands else b.append(replace(node, operands=tuple(new)))

    return transform(graph, rewrite)


def _bias(layer: Layer, graph: Graph, factors: Factors) -> tuple[Node, int] | None:
    """The constant that is added to each output channel, as an operand of a node."""
    node, result = layer.node, layer.node.values[0]
    if isinstance(node.op, Conv):
        return (node, 2) if len(node.operands) == 3 and node.operands[2].literal is not None else None
    users = factors.users.get(result, ())
    if len(users) != 1 or result in graph.outputs or not isinstance(users[0].op, Add):
        return None
    user = users[0]
    place = 1 if user.operands[0] == result else 0
    edits = factors.constant(user, place, output_axis(layer))
    return (user, place) if edits is not None and user.type.shape == node.type.shape else None
