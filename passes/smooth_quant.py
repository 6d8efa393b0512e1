"""Moves outliers of activations into weights, where quantization bears them better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hardy.compiler.calibration import ChannelRange, observe, open_samples
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.notes import note
from hardy.compiler.pipeline import Pass
from hardy.compiler.progress import tell
from hardy.passes.channel_scales import Factors, input_axis, input_edit, readers_of
from hardy.passes.layers import layers, select

# Factors closer to one than this leave a channel's range as it is.
NEAR = 1e-2


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Divide the input channels of layers by a factor each, and multiply their weights by it.

    SmoothQuant (Xiao et al., 2022, arXiv:2211.10438), equation 4: the factor is max|x|^alpha /
    max|w|^(1 - alpha), with x from `calibration` (`samples` feeds, all by default). What divides is
    the normalization or layer that computes the input; layers whose input has other sources or other
    users stay as they are. The graph computes the same, and quantizes better. `only` and `skip`
    select layers.
    """

    alpha: float = 0.5
    calibration: Any = None
    samples: int | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph) -> Graph:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha lies between 0 and 1, got {self.alpha}")
        factors = Factors(graph)
        work = []
        for x, group in readers_of(graph, select(layers(graph), self.only, self.skip)).items():
            axis = input_axis(group[0])
            edits = factors.source_of(x, axis, [layer.node for layer in group])
            if edits is not None:
                work.append((x, group, edits, ChannelRange(axis)))
        if not work:
            return graph
        if self.calibration is None:
            raise UsageError(
                "smooth_quant has no calibration data",
                hint="give some: calibration=... in Python, --calibration on the command line",
            )
        samples = open_samples(self.calibration, graph.input_types())
        samples = samples if self.samples is None else samples.first(self.samples)
        limit = samples.limit or 0
        watched = {x: [seen] for x, _, _, seen in work}
        observe(graph, samples, watched, lambda n: tell("calibrate", n, max(n, limit)))
        report = []
        # Last ones first: dividing the input of one layer changes the weights of the layer before it.
        for _, group, edits, seen in reversed(work):
            own = [edit for layer in group if (edit := input_edit(layer)) is not None]
            largest = torch.maximum(-seen.low, seen.high).double()
            data = [factors.data(edit.node, edit.place).movedim(edit.axis, 0).flatten(1) for edit in own]
            weight = torch.stack([d.abs().amax(1) for d in data]).amax(0)
            usable = (largest > 0) & (weight > 0)
            factor = torch.where(usable, largest**self.alpha / weight ** (1 - self.alpha), 1.0)
            factor = factor.nan_to_num(nan=1.0, posinf=1.0)
            if bool((factor.log().abs() < NEAR).all()):
                continue
            factors.multiply(own, factor)
            factors.multiply(edits, 1 / factor)
            row: dict[str, Any] = {"layers": ", ".join(layer.name for layer in group)}
            for when, sizes in (("before", largest), ("after", largest / factor)):
                row[f"max_over_median_{when}"] = float(sizes.amax() / sizes.median().clamp(min=1e-30))
            report.append(row)
        note("smoothed", report[::-1])
        return factors.apply()
