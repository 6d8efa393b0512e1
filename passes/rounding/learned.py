"""AdaRound (Nagel et al., 2020, arXiv:2004.10568): whether each weight is rounded up or down is learned."""

from __future__ import annotations

import torch
from torch import Tensor

from hardy.passes.rounding.blocks import Blocks, output_errors

# The rectified sigmoid's stretch, and how far the steps together may move its argument.
LOW, HIGH = -0.1, 1.1
TRAVEL = 60.0
# The share of the steps before weights are pushed to either side, and the exponents of that push.
WARM = 0.2
STEEP, FLAT = 20.0, 2.0
PUSH = 3.0


def learn_rounding(
    rows: Tensor, moments: Tensor, blocks: Blocks, scale: Tensor, zero: Tensor, steps: int
) -> Tensor:
    """Integers [groups, n, k] (f32) for given scales and zero points, each the one above or below.

    Minimizes equation 25 with the identity for the activation function: the mean squared change of
    the output is a function of the inputs' second moments, so that every step sees all the data. It
    is relative to that of rounding to nearest. A row that came out worse is rounded to nearest.
    """
    k = rows.shape[-1]
    nearest = blocks.quantize(rows, scale, zero)
    before = output_errors(blocks.dequantize(nearest, scale, zero) - rows, moments)
    unit = float(before.sum())
    if unit <= 0:
        return nearest
    spread_scale, spread_zero = blocks.spread(scale, k), blocks.spread(zero, k)
    # What a real zero point adds to every element is added before rounding, whole ones after.
    before_rounding = spread_zero if blocks.grid.real_zero else torch.zeros(())
    place = rows / spread_scale + before_rounding
    floor = place.floor()
    after_rounding = spread_zero - before_rounding
    share = (place - floor).clamp(0.01, 0.99)
    v = torch.logit((share - LOW) / (HIGH - LOW)).requires_grad_()
    limits = blocks.grid.limits
    optimizer = torch.optim.Adam([v], lr=TRAVEL / steps)
    with torch.enable_grad():
        for step in range(steps):
            h = (torch.sigmoid(v) * (HIGH - LOW) + LOW).clamp(0, 1)
            q = (floor + h + after_rounding).clamp(*limits)
            change = (q - spread_zero) * spread_scale - rows
            loss = output_errors(change, moments).sum() * (v.numel() / unit)
            done = (step / steps - WARM) / (1 - WARM)
            if done > 0:
                beta = FLAT + (STEEP - FLAT) * (1 - done)
                loss = loss + PUSH * (1 - (2 * h - 1).abs().pow(beta)).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    up = (torch.sigmoid(v.detach()) * (HIGH - LOW) + LOW) >= 0.5
    learned = (floor + up + after_rounding).clamp(*limits)
    after = output_errors(blocks.dequantize(learned, scale, zero) - rows, moments)
    return torch.where((after < before)[..., None], learned, nearest)
