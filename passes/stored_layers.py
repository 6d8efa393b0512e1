"""Layers whose weight is stored as integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.calibration import Grid
from hardy.compiler.ir import Graph, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.quant import Dequantize
from hardy.passes.layers import Layer, weight_of
from hardy.passes.rounding.blocks import Blocks


@dataclass(frozen=True)
class StoredLayer(Layer):
    """A layer that multiplies by a dequantized constant; its weight is what that gives."""

    @property
    def stored(self) -> Dequantize:
        op = self.weight.op
        assert isinstance(op, Dequantize)
        return op

    @property
    def parts(self) -> list[Literal]:
        """Integers, scales, and zero points where there are any."""
        return [v.literal for v in self.weight.node.operands if v.literal is not None]

    @property
    def data(self) -> Tensor:
        return self.stored.reference(*[part.tensor for part in self.parts])

    @property
    def blocks(self) -> Blocks | None:
        """The grid as rows take it; None where scales are not those of output channels."""
        dtype = self.parts[0].type.dtype
        if not (dtype.is_integer and dtype.bits <= 8):
            return None
        real = len(self.parts) == 3 and self.parts[2].type.dtype.is_float
        grid = Grid(dtype, symmetric=len(self.parts) == 2 and dtype.range[0] < 0, real_zero=real)
        if self.stored.block:
            by_row = self.weight.type.rank == 2 and self.stored.axis == self.in_axis
            return Blocks(grid, self.stored.block) if by_row else None
        by_output = self.parts[1].type.rank == 0 or self.stored.axis == self.out_axis
        return Blocks(grid) if by_output else None

    def parameters(self) -> tuple[Tensor, Tensor]:
        """Scales and zero points as rows, [output channels, blocks], f32."""
        shape = (self.weight.type.shape[self.out_axis], -1)
        found = [self._as_rows(part.tensor.float(), shape) for part in self.parts[1:]]
        return found[0], found[1] if len(found) == 2 else torch.zeros_like(found[0])

    def _as_rows(self, parameter: Tensor, shape: tuple[int, int]) -> Tensor:
        if parameter.ndim == 0:
            return parameter.expand(shape[0], 1)
        return parameter.movedim(self.out_axis, 0) if parameter.ndim == 2 else parameter.reshape(shape)


def stored_layers(graph: Graph) -> Iterator[StoredLayer]:
    """Every layer with a weight of integers, in order, with the names that `layers` gives."""
    seen: dict[str, int] = {}
    for node in graph.nodes:
        found = weight_of(node, _is_stored)
        if found is None:
            continue
        place, out_axis, in_axis = found
        base = node.operands[place].node.operands[0].node.name or node.name or node.op.name
        seen[base] = seen.get(base, 0) + 1
        name = base if seen[base] == 1 else f"{base}#{seen[base]}"
        yield StoredLayer(node, place, out_axis, in_axis, name)


def _is_stored(value: Value) -> bool:
    return isinstance(value.op, Dequantize) and all(v.literal is not None for v in value.node.operands)
