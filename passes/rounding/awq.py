"""AWQ (Lin et al., 2023, arXiv:2306.00978): input channels that are large are given a finer grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hardy.compiler.calibration import SecondMoments
from hardy.passes.rounding.blocks import Blocks, output_errors

STEPS = 20


def search_scales(weights: Sequence[Tensor], inputs: SecondMoments, blocks: Blocks) -> Tensor:
    """By what to multiply each input channel of the weights, [k], and divide what they multiply.

    `weights` are the rows [1, n, k] of all layers that read the same input. The scales are the mean
    magnitudes of the channels to the power of 0, 1/20, ..., 19/20, whichever changes the layers'
    outputs least when the weights are rounded to nearest.
    """
    magnitude = inputs.magnitude[0].clamp(min=1e-4 * float(inputs.magnitude.mean()) + 1e-30)
    best, least = torch.ones_like(magnitude), float("inf")
    for step in range(STEPS):
        scales = magnitude ** (step / STEPS)
        scales = scales / (scales.amax() * scales.amin()).sqrt()
        error = 0.0
        for rows in weights:
            scaled = rows * scales
            scale, zero = blocks.parameters(scaled, clip=False)
            rounded = blocks.dequantize(blocks.quantize(scaled, scale, zero), scale, zero)
            error += float(output_errors(rounded / scales - rows, inputs.matrix).sum())
        if error < least:
            best, least = scales, error
    return best
