"""The weights of a graph's layers on a grid of integers: to nearest, or so that outputs change least."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from hardy.compiler.calibration import Grid, Moments, Samples, SecondMoments, clip_rows
from hardy.compiler.errors import UnsupportedError
from hardy.compiler.ir import Graph, Value
from hardy.compiler.progress import tell
from hardy.passes.layer_inputs import grouped_rows, moments_of_inputs
from hardy.passes.layers import Layer
from hardy.passes.quantize_dequantize import Grids, RoundedWeight, WeightKey
from hardy.passes.rounding.blocks import Blocks
from hardy.passes.rounding.gptq import gptq, importance_of

# Bytes of second moments that are held at once.
MEMORY = 1 << 28
# The least variance of an input, as a share of its mean square.
SPREAD = 1e-4


def round_to_nearest(
    found: Iterable[Layer], grids: Grids, power: Mapping[tuple[Value, int], Moments]
) -> dict[WeightKey, RoundedWeight]:
    """Weights to nearest. Where `power` has the mean squares of a layer's input channels, ranges are
    clipped so that the error weighed by these is least; elsewhere they cover the whole weight."""
    result: dict[WeightKey, RoundedWeight] = {}
    for layer in found:
        key = (layer.weight, layer.out_axis)
        if key in result:
            continue
        rows, grid = _finite_rows(layer), grids.weights
        flat = rows if grids.per_channel else rows.reshape(1, -1)
        moments = power.get((layer.x, layer.x_axis))
        if moments is None:
            scale, zero = grid.parameters(flat.amin(1), flat.amax(1))
        else:
            # The noise of an output is the weights' noise by the inputs, which are far from alike.
            importance = layer.spread(moments.rms.square()).expand(rows.shape).reshape(flat.shape)
            scale, zero = clip_rows(flat, grid, importance)
        integers = grid.quantize(flat, scale[:, None], zero[:, None]).reshape(rows.shape)
        result[key] = RoundedWeight(integers, scale, zero)
    return result


def round_by_moments(
    graph: Graph, samples: Samples, found: Iterable[Layer], grids: Grids
) -> dict[WeightKey, RoundedWeight]:
    """Weights rounded by GPTQ, and by how much that moves the mean of each output channel.

    A constant can take out a mean error, so that the errors to be made small are those around the
    mean: second moments are those of x - E[x], and the shift is E[x] times the weights' change (Nagel
    et al., 2019, arXiv:1906.04721, section 4.2).
    """
    unique = {(layer.weight, layer.out_axis): layer for layer in found}
    for layer in unique.values():
        _finite_rows(layer)
    result: dict[WeightKey, RoundedWeight] = {}
    blocks = Blocks(grids.weights)
    for group, inputs in moments_of_inputs(graph, samples, list(unique.values()), MEMORY):
        for layer in group:
            tell("round weights", len(result), len(unique))
            rows = grouped_rows(layer, layer.data)
            moments = _around_the_mean(inputs)
            common = None if grids.per_channel else _common(rows, moments, grids.weights)
            integers, scale, zero = gptq(rows, moments, blocks, parameters=common)
            change = blocks.dequantize(integers, scale, zero) - rows
            shift = -(change @ inputs.mean[..., None])
            count = None if grids.per_channel else 1
            result[layer.weight, layer.out_axis] = RoundedWeight(
                integers.flatten(0, 1), scale.reshape(-1)[:count], zero.reshape(-1)[:count], shift.reshape(-1)
            )
    return result


def _common(rows: Tensor, moments: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The scale and zero point that suit all rows together, [groups, n, 1] each."""
    importance = importance_of(moments).expand_as(rows)
    scale, zero = clip_rows(rows.reshape(1, -1), grid, importance.reshape(1, -1))
    return scale.expand(*rows.shape[:2], 1), zero.expand(*rows.shape[:2], 1)


def _around_the_mean(inputs: SecondMoments) -> Tensor:
    """The covariance, and a little more: no channel is as constant as a few samples make it look."""
    power = inputs.matrix.diagonal(dim1=-2, dim2=-1).mean(-1)
    eye = torch.eye(inputs.matrix.shape[-1])
    return inputs.covariance + SPREAD * power[:, None, None] * eye


def _finite_rows(layer: Layer) -> Tensor:
    rows = layer.rows().float()
    if not bool(torch.isfinite(rows).all()):
        raise UnsupportedError(f"the weight of {layer.name} holds NaN or infinity", where=layer.node.source)
    return rows
