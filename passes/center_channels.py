"""Takes what layers read off its channels' centers and makes its channels of one size, for one range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hardy.compiler.calibration import ChannelRange, Moments, Statistic, observe, samples_for
from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.notes import note
from hardy.compiler.ops.elementwise import Add, Mul, Sub
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.rules import along
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.passes.layer_inputs import graph_up_to
from hardy.passes.layers import Layer, layers, select

# Steps of an 8-bit range, and of a weight's magnitude: what noise is foreseen for.
STEPS, WEIGHT_STEPS = 255, 127
# Thresholds that are tried, as shares of the widest channel's half range.
SHARES = torch.logspace(0, -5, 21, base=2, dtype=torch.float64)
# The input of a depthwise convolution is left alone where a median channel's noise over its power is below.
QUIET = 10**-3.5
# How far channels of a depthwise convolution go towards one size: narrow ones keep room for the unseen.
POWER = 0.5


@dataclass(frozen=True)
class CenterChannels(Pass):
    """Subtract each channel's center from what a layer reads, and divide channels far wider than others.

    x W = ((x - c) / s) (s W) + c W, where c is the middle between the least and the greatest value of each
    channel in `calibration`, and s is 1 but for channels wider than a threshold, which it makes as wide as
    that (Outlier Suppression+, Wei et al., 2023, arXiv:2304.09145, equations 3 and 7). A few channels far
    from zero, or far wider than the others, as encoders have, would otherwise take most of the range of
    an activation that is quantized with one scale. The threshold is the one with the least noise foreseen
    for 8-bit steps of activations and weights. Centers are subtracted where that makes the range of a
    matrix product's input narrower by the factor `least_gain`, and channels divided where that makes the
    foreseen noise of the result, its root mean square, less by that factor.

    Channels are divided with `scales` alone, because a range by channel asks more of the data: a channel
    that calibration left silent is clipped where it is not. Depthwise convolutions have a scale of their
    own for each channel's weights: x / s with channels of more similar size, where the noise of the input
    would be felt otherwise.

    `samples`, `only` and `skip` are as in `quantize`.
    """

    calibration: Any = None
    least_gain: float = 1.2
    scales: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    samples: int | None = None

    def run(self, graph: Graph) -> Graph:
        found: dict[Value, _Input] = {}
        for layer in select(layers(graph), self.only, self.skip):
            if _is_row_product(layer) or (self.scales and _is_depthwise(layer)):
                own = found.setdefault(layer.x, _Input(layer.x_axis))
                own.layers.append(layer)
        # One input gets one form: those that both kinds of layers read stay.
        found = {x: own for x, own in found.items() if len({type(y.node.op) for y in own.layers}) == 1}
        if not found:
            return graph
        samples = samples_for(self.name, self.calibration, graph.input_types(), self.samples)
        watched: Mapping[Value, Sequence[Statistic]] = {
            x: (own.range, own.moments) for x, own in found.items()
        }
        observe(graph_up_to(graph, list(watched)), samples, watched)
        forms = {x: form for x, own in found.items() if (form := self._form(own)) is not None}
        by_node = {y.node: y for x in forms for y in found[x].layers}
        gains = {y.name: forms[y.x].narrower for y in by_node.values() if forms[y.x].center is not None}
        quieter = {y.name: forms[y.x].quieter for y in by_node.values() if forms[y.x].scale is not None}
        note("ranges_divided_by", gains)
        note("noise_divided_by", quieter)
        changed: dict[Value, Value] = {}

        def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            layer = by_node.get(node)
            if layer is None:
                return None
            form, x = forms[layer.x], operands[1 - layer.place]
            if layer.x not in changed:
                with b.at(layer.x.node.source):
                    changed[layer.x] = form.apply(b, x, layer.x_axis)
            new = list(operands)
            new[1 - layer.place] = changed[layer.x]
            if form.scale is not None:
                old = layer.weight.node
                rows = layer.rows().double() * layer.spread(form.scale)
                weight = layer.unrows(rows.float())
                new[layer.place] = b.constant(weight, name=old.name, source=old.source)
            product = b(node.op, *new, name=node.name)
            if form.center is None:
                return [product]
            return [b(Add(), product, b.constant((layer.rows().double() @ form.center).float()))]

        return transform(graph, rewrite)

    def _form(self, own: _Input) -> _Form | None:
        """What becomes of an input; None where nothing is gained."""
        low, high = own.range.low.double(), own.range.high.double()
        if isinstance(own.layers[0].node.op, Conv):
            scale, quieter = _filled(own, low, high)
            return _Form(None, scale, 1.0, quieter) if quieter >= self.least_gain else None
        center, narrower = (low + high) / 2, _gain(low, high)
        if narrower < self.least_gain:
            center, narrower = torch.zeros_like(low), 1.0
        form = _Form(center if narrower > 1.0 else None, None, narrower, 1.0)
        if self.scales:
            scale, quieter = _flattened(own, low - center, high - center, center)
            if quieter >= self.least_gain:
                form = _Form(form.center, scale, narrower, quieter)
        return None if form.center is None and form.scale is None else form


@dataclass
class _Input:
    """What some layers read, and what is known of it."""

    axis: int
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.range, self.moments = ChannelRange(self.axis), Moments(self.axis)


@dataclass(frozen=True)
class _Form:
    """The center and the scale of each channel, f64, and what they are good for."""

    center: Tensor | None
    scale: Tensor | None
    narrower: float
    quieter: float

    def apply(self, b: Builder, x: Value, axis: int) -> Value:
        behind = x.type.rank - axis
        if self.center is not None:
            x = b(Sub(), x, b.constant(along(self.center.float(), 0, behind)))
        if self.scale is not None:
            x = b(Mul(), x, b.constant(along((1 / self.scale).float(), 0, behind)))
        return x


def _is_row_product(layer: Layer) -> bool:
    """x W in f32 with channels along the last axis of x, so that a vector serves all rows."""
    return (
        isinstance(layer.node.op, Matmul)
        and layer.place == 1
        and layer.x_axis == layer.x.type.rank - 1
        and layer.x.type.dtype is DType.f32
    )


def _is_depthwise(layer: Layer) -> bool:
    op, channels = layer.node.op, layer.x.type.shape[layer.x_axis]
    return (
        isinstance(op, Conv)
        and 1 < channels == op.groups == layer.weight.type.shape[layer.out_axis]
        and layer.x.type.dtype is DType.f32
    )


def _gain(low: Tensor, high: Tensor) -> float:
    """By what the range of all channels together, with zero, is divided by centering."""
    center, zero = (low + high) / 2, torch.zeros((), dtype=low.dtype)
    before = torch.maximum(high.max(), zero) - torch.minimum(low.min(), zero)
    after = (high - center).max() - (low - center).min()
    return float(before / after) if after > 0 else 1.0


def _filled(own: _Input, low: Tensor, high: Tensor) -> tuple[Tensor, float]:
    """The scales with which all channels are of one size, and by what they divide the noise's root mean
    square; 1 where the noise is small enough."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    weight = torch.stack([y.rows().double().square().sum(1) for y in own.layers]).sum(0)

    def noise(scale: Tensor) -> float:
        step = ((high / scale).max() - (low / scale).min()) / STEPS
        return float(step.square() / 12 * (weight * scale.square()).sum())

    alike = torch.ones_like(low)
    before = noise(alike)
    step = (high.max() - low.min()) / STEPS
    if float(step.square() / 12) <= QUIET * float(own.moments.rms.square().median()):
        return alike, 1.0
    # Of one width, or as wide as the ends of the range of all allow.
    ends = [end / limit for end, limit in ((high, high.max()), (low, low.min())) if limit != 0]
    tried = [(high - low) / (high - low).max(), torch.stack(ends).amax(0)]
    # What is always zero, or all but, stays: no factor makes sense of it.
    tried = [torch.where(scale > 1e-6, scale, 1.0) for scale in tried]
    tried = [scale**POWER for scale in tried]
    best = min(tried, key=noise)
    return best, (before / noise(best)) ** 0.5


def _flattened(own: _Input, low: Tensor, high: Tensor, center: Tensor) -> tuple[Tensor, float]:
    """The scales of the best threshold, and by what they divide the root mean square of foreseen noise."""
    half = torch.maximum(high, -low)
    widest = half.max()
    if not bool(widest > 0):
        return torch.ones_like(half), 1.0
    # E (x - c)^2
    power = own.moments.rms.square() - 2 * center * own.moments.mean + center.square()
    rows = [layer.rows().double() for layer in own.layers]
    weight = torch.stack([r.square().sum(0) for r in rows]).sum(0)

    def noise(scale: Tensor) -> float:
        of_input = (2 * (half / scale).max() / STEPS) ** 2 / 12 * (weight * scale.square()).sum()
        steps = torch.stack([((r.abs() * scale).amax(1) / WEIGHT_STEPS).square().sum() for r in rows]).sum()
        return float(of_input + steps / 12 * (power / scale.square()).sum())

    tried = [(half / (widest * share)).clamp(min=1.0) for share in SHARES]
    noises = [noise(scale) for scale in tried]
    best = min(range(len(tried)), key=noises.__getitem__)
    return tried[best], (noises[0] / noises[best]) ** 0.5 if noises[best] > 0 else 1.0
