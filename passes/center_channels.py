"""Takes what layers read off its channels' centers, so that one range fits all channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardy.compiler.calibration import ChannelRange, observe, samples_for
from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.notes import note
from hardy.compiler.ops.elementwise import Add, Sub
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.passes.layers import Layer, layers, select


@dataclass(frozen=True)
class CenterChannels(Pass):
    """Subtract each channel's center from what a layer reads, and add what it stood for to the result.

    x W = (x - c) W + c W, where c is the middle between the least and the greatest value of each channel
    in `calibration` (Outlier Suppression+, Wei et al., 2023, arXiv:2304.09145, without its scales). A
    few channels far from zero, as layer norms in encoders give, would otherwise take most of the range
    of an activation that is quantized with one scale. Matrix products are changed where that makes
    the range of their input narrower by the factor `least_gain`.

    `samples`, `only` and `skip` are as in `quantize`.
    """

    calibration: Any = None
    least_gain: float = 1.2
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    samples: int | None = None

    def run(self, graph: Graph) -> Graph:
        chosen = [y for y in select(layers(graph), self.only, self.skip) if _is_row_product(y)]
        if not chosen:
            return graph
        samples = samples_for(self.name, self.calibration, graph.input_types(), self.samples)
        seen = {y.x: ChannelRange(y.x_axis) for y in chosen}
        observe(graph, samples, {value: [range_] for value, range_ in seen.items()})
        gains = {value: _gain(range_) for value, range_ in seen.items()}
        by_node = {y.node: y for y in chosen if gains[y.x] >= self.least_gain}
        note("ranges_divided_by", {y.name: gains[y.x] for y in by_node.values()})
        centered: dict[Value, Value] = {}

        def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            layer = by_node.get(node)
            if layer is None:
                return None
            center = _center(seen[layer.x])
            if layer.x not in centered:
                with b.at(layer.x.node.source):
                    centered[layer.x] = b(Sub(), operands[0], b.constant(center))
            product = b(node.op, centered[layer.x], operands[1], name=node.name)
            return [b(Add(), product, b.constant((layer.rows().double() @ center.double()).float()))]

        return transform(graph, rewrite)


def _is_row_product(layer: Layer) -> bool:
    """x W in f32 with channels along the last axis of x, so that a vector serves all rows."""
    return (
        isinstance(layer.node.op, Matmul)
        and layer.place == 1
        and layer.x_axis == layer.x.type.rank - 1
        and layer.x.type.dtype is DType.f32
    )


def _center(seen: ChannelRange) -> Tensor:
    return (seen.low + seen.high) / 2


def _gain(seen: ChannelRange) -> float:
    """By what the range of all channels together, with zero, is divided."""
    center, zero = _center(seen), torch.zeros(())
    before = torch.maximum(seen.high.max(), zero) - torch.minimum(seen.low.min(), zero)
    after = (seen.high - center).max() - (seen.low - center).min()
    return float(before / after) if after > 0 else 1.0
