"""Makes the channels of neighbouring layers' weights of one size, so that one scale suits them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ir import Graph
from hardy.compiler.notes import note
from hardy.compiler.pipeline import Pass
from hardy.passes.channel_scales import Edit, Factors, input_axis, input_edit, readers_of
from hardy.passes.layers import layers, select

# Sweeps go on until no factor of a channel differs from one by more.
NEAR = 1e-2
SWEEPS = 50


@dataclass(frozen=True)
class Equalize(Pass):
    """Equalize the weights of layers across their common channels.

    Cross-layer equalization (Nagel et al., 2019, arXiv:1906.04721), equation 11: between a layer and
    those that read it, through relu, leaky relu, pools, biases and products by a channel, the first
    layer's output channels are divided by s = sqrt(r1 r2) / r2 and the next layers' input channels
    multiplied by it, where r are the largest weights of a channel. Depthwise convolutions are
    equalized on both sides. The graph computes the same; an activation that is bounded above, such as
    relu6, ends the chain. `only` and `skip` select layers.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph) -> Graph:
        factors = Factors(graph)
        chosen = select(layers(graph), self.only, self.skip)
        nodes = {layer.node: layer for layer in chosen}
        pairs = []
        for x, group in readers_of(graph, chosen).items():
            edits = factors.source_of(x, input_axis(group[0]), [layer.node for layer in group])
            first = [e for e in edits or () if e.node in nodes and e.place == nodes[e.node].place]
            own = [edit for layer in group if (edit := input_edit(layer)) is not None]
            if edits and first:
                pairs.append((edits, first, own))
        for _ in range(SWEEPS):
            farthest = 0.0
            for edits, first, own in pairs:
                before, after = (_largest(factors, side) for side in (first, own))
                usable = (before > 0) & (after > 0)
                factor = torch.where(usable, (before / after).sqrt(), 1.0)
                far = float(factor.log().abs().amax())
                if far > NEAR:
                    factors.multiply(edits, 1 / factor)
                    factors.multiply(own, factor)
                farthest = max(farthest, far)
            if farthest <= NEAR:
                break
        note("equalized_pairs", len(pairs))
        return factors.apply()


def _largest(factors: Factors, edits: Sequence[Edit]) -> Tensor:
    """The largest magnitude of each channel over the weights of several edits."""
    parts = [factors.data(e.node, e.place).movedim(e.axis, 0).flatten(1).abs().amax(1) for e in edits]
    return torch.stack(parts).amax(0)
