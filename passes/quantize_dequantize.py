"""Graphs in quantize-dequantize form: what is quantized, on which grid, and the rewrite that does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from hardy.compiler.calibration import Grid
from hardy.compiler.ir import Builder, Constant, Graph, Node, Value, transform
from hardy.compiler.literal import Literal
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.ops.quant import Quantize as QuantizeOp
from hardy.compiler.types import DType
from hardy.passes.averages import as_product, averages
from hardy.passes.biases import move_outputs
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.islands import Islands, Place, find_islands
from hardy.passes.layers import Layer
from hardy.passes.stored_layers import stored_layers

# A weight, with its axis of output channels.
WeightKey = tuple[Value, int]


@dataclass(frozen=True)
class Grids:
    """The grids of activations and of weights, these with a scale for each output channel or with one."""

    activations: Grid
    weights: Grid
    per_channel: bool

    def of(self, place: Place) -> Grid:
        """The second operand of a product of activations takes a weight's place, and its type."""
        return self.weights if place.right else self.activations


@dataclass(frozen=True)
class Product:
    """A product to quantize: which operands are activations, and its weight's layer if it has one."""

    activations: tuple[int, ...]
    layer: Layer | None
    macs: int


@dataclass(frozen=True)
class RoundedWeight:
    """A weight's integers as [output channels, k] in f32, scales and zero points as [output channels] or [1].

    `shift`, where it is known, is what to add to each output channel so that its mean stays.
    """

    integers: Tensor
    scale: Tensor
    zero: Tensor
    shift: Tensor | None = None

    def rows(self) -> Tensor:
        """The weight as it has become, [output channels, k]."""
        return (self.integers - self.zero[:, None]) * self.scale[:, None]


@dataclass(frozen=True)
class Plan:
    """What a graph's quantization consists of."""

    graph: Graph
    products: Mapping[Node, Product]
    islands: Islands
    grids: Grids
    # Scale and zero point of the places that share them, by any of these.
    ranges: Mapping[Place, tuple[Tensor, Tensor]]
    weights: Mapping[WeightKey, RoundedWeight]

    def weight_of(self, layer: Layer) -> RoundedWeight:
        return self.weights[layer.weight, layer.out_axis]

    def without(self, spared: Collection[Node]) -> Plan:
        """The plan with some of its products left float. What is quantized still keeps its range."""
        products = {n: p for n, p in self.products.items() if n not in spared}
        narrow = self.grids.activations.power_of_two
        islands = find_islands(self.graph, {n: p.activations for n, p in products.items()}, narrow)
        ranges = {root: self.ranges[self.islands.ties[root]] for root in islands.ties.values()}
        return dataclasses.replace(self, products=products, islands=islands, ranges=ranges)

    def apply(self) -> Graph:
        """The graph in quantize-dequantize form."""
        insertion = _Insertion(self)
        graph = EliminateDeadCode().run(transform(self.graph, insertion.rewrite))
        stored: dict[Node, Layer] = {layer.node: layer for layer in stored_layers(graph)}
        shifts: dict[Layer, Tensor] = {}
        for node, product in self.products.items():
            shift = None if product.layer is None else self.weight_of(product.layer).shift
            if shift is not None:
                shifts[stored[insertion.placed[node]]] = shift
        return move_outputs(graph, shifts) if shifts else graph


@dataclass
class _Insertion:
    plan: Plan
    constants: dict[Place, tuple[Value, Value]] = field(default_factory=dict)
    activations: dict[Place, Value] = field(default_factory=dict)
    weights: dict[WeightKey, Value] = field(default_factory=dict)
    # What has become of each product.
    placed: dict[Node, Node] = field(default_factory=dict)

    def rewrite(self, b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        if isinstance(node.op, Constant):
            return None
        new = list(operands)
        for i, operand in enumerate(operands):
            place = self.plan.islands.reads.get((node, i))
            if place is not None:
                new[i] = self._activation(b, place, operand)
        product = self.plan.products.get(node)
        if product is not None and product.layer is not None:
            new[product.layer.place] = self._weight(b, product.layer)
        if tuple(new) == operands:
            return None
        if (
            self.plan.grids.activations.power_of_two
            and averages(node)
            and (node, 0) in self.plan.islands.reads
        ):
            mean = as_product(b, node, new[0], self.plan.grids.weights)
            if mean is not None:
                return [mean]
        made = dataclasses.replace(node, operands=tuple(new))
        self.placed[node] = made
        return b.append(made)

    def _activation(self, b: Builder, place: Place, value: Value) -> Value:
        """The value as it is after quantization, made where it is first read."""
        found = self.activations.get(place)
        if found is None:
            dtype = self.plan.grids.of(place).dtype
            with b.at(place.value.node.source):
                scale, zero = self._parameters(b, self.plan.islands.ties[place], dtype)
                quantized = b(QuantizeOp(dtype), value, scale, zero)
                found = self.activations[place] = b(Dequantize(), quantized, scale, zero)
        return found

    def _parameters(self, b: Builder, key: Place, dtype: DType) -> tuple[Value, Value]:
        found = self.constants.get(key)
        if found is None:
            scale, zero = self.plan.ranges[key]
            found = b.constant(scale), b.constant(Literal(zero.to(dtype.torch), dtype))
            self.constants[key] = found
        return found

    def _weight(self, b: Builder, layer: Layer) -> Value:
        key = (layer.weight, layer.out_axis)
        found = self.weights.get(key)
        if found is None:
            rounded, grid = self.plan.weight_of(layer), self.plan.grids.weights
            name, by_channel = layer.weight.node.name, self.plan.grids.per_channel
            stored = Literal(layer.unrows(rounded.integers).to(grid.dtype.torch), grid.dtype)
            scale, zero = (p if by_channel else p[0] for p in (rounded.scale, rounded.zero))
            parameters = [b.constant(scale, name=name and f"{name}.scale")]
            if not grid.symmetric:
                parameters.append(b.constant(Literal(zero.to(grid.dtype.torch), grid.dtype)))
            axis = layer.out_axis if by_channel else 0
            found = b(Dequantize(axis), b.constant(stored, name=name), *parameters)
            self.weights[key] = found
        return found
