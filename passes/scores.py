"""How much weights matter: the scores that pruning ranks them by.

- "magnitude": |w|.
- "wanda": |w| times the root mean square of the activations that it multiplies (Sun et al., 2023,
  arXiv:2306.11695), from calibration data.
- "first_order": |w dL/dw|, the loss that setting w to zero costs to first order (Molchanov et al., 2019,
  arXiv:1906.10771). L is the cross entropy of the first output where the data holds labels, else half
  the squared norm of all float outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hardy.compiler.calibration import Feed, Moments, Samples, inputs_of, observe, open_samples
from hardy.compiler.errors import InputError, UsageError
from hardy.compiler.ir import Graph, Value
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.passes.layers import Layer

SCORES = ("magnitude", "wanda", "first_order")


def require_score(score: str, calibration: object) -> None:
    """UsageError for a score that does not exist or lacks its data."""
    if score not in SCORES:
        raise UsageError(f"there is no score {score!r}", hint=f"there are {', '.join(SCORES)}")
    if score != "magnitude" and calibration is None:
        raise UsageError(f"the score {score} needs calibration data", hint="give data, or score='magnitude'")


def data_for(graph: Graph, calibration: object, samples: int | None) -> Samples | None:
    """The first `samples` feeds (all, if None) of a pass's calibration data; None without data."""
    if calibration is None:
        return None
    opened = open_samples(calibration, graph.input_types())
    return opened if samples is None else opened.first(samples)


def weight_scores(
    graph: Graph, chosen: Sequence[Layer], score: str, calibration: object, label: str = "label"
) -> dict[Value, Tensor]:
    """The score of each element of each chosen layer's weight: f32, of the weight's shape, at least 0.

    A weight that several layers share has the root of the sum of their squares.
    """
    require_score(score, calibration)
    if score == "first_order":
        samples = open_samples(calibration, graph.input_types())
        total: dict[Value, Tensor] = {}
        count = 0
        for products in first_order_terms(graph, chosen, samples, label):
            count += 1
            for value, product in products.items():
                total[value] = total[value] + product.abs() if value in total else product.abs()
        return {value: t / count for value, t in total.items()}
    squares: dict[Value, Tensor] = {}
    scales = _activations(graph, chosen, calibration) if score == "wanda" else {}
    for layer in chosen:
        own = layer.data.float().abs()
        if layer in scales:
            own = own * scales[layer]
        squares[layer.weight] = squares.get(layer.weight, torch.zeros(())) + own.square()
    return {value: t.sqrt() for value, t in squares.items()}


def _activations(graph: Graph, chosen: Sequence[Layer], calibration: object) -> dict[Layer, Tensor]:
    """The root mean square of each layer's input channels, shaped to multiply its weight."""
    moments = {layer: Moments(input_axis(layer)) for layer in chosen}
    watched: dict[Value, list[Moments]] = {}
    for layer, statistic in moments.items():
        watched.setdefault(layer.x, []).append(statistic)
    observe(graph, open_samples(calibration, graph.input_types()), watched)
    return {layer: _along_weight(layer, m.rms.float()) for layer, m in moments.items()}


def input_axis(layer: Layer) -> int:
    """The axis of a layer's input that it sums over."""
    op, rank = layer.node.op, layer.x.type.rank
    if isinstance(op, Conv):
        return 1 if op.layout == "channels_first" else rank - 1
    assert isinstance(op, Matmul)
    if layer.place == 1:
        return rank - 2 if op.transpose_a else rank - 1
    return rank - 1 if op.transpose_b else rank - 2


def _along_weight(layer: Layer, channels: Tensor) -> Tensor:
    """A figure for each input channel [channels], where the weight multiplies that channel."""
    shape = [1] * layer.weight.type.rank
    groups = layer.node.op.groups if isinstance(layer.node.op, Conv) else 1
    if groups > 1:
        rows = layer.weight.type.shape[layer.out_axis] // groups
        channels = channels.reshape(groups, -1).repeat_interleave(rows, 0)
        shape[layer.out_axis], shape[layer.in_axis] = channels.shape
    else:
        shape[layer.in_axis] = len(channels)
    return channels.reshape(shape)


def first_order_terms(
    graph: Graph, chosen: Sequence[Layer], samples: Samples, label: str
) -> Iterator[Mapping[Value, Tensor]]:
    """w dL/dw of each chosen weight on one sample after the other."""
    from hardy.compiler.training import GraphModule

    values = list(dict.fromkeys(layer.weight for layer in chosen))
    module = GraphModule(graph, train=values)
    for number, feed in enumerate(samples.feeds(graph.input_types())):
        outputs, _ = module(inputs_of(graph, feed))
        gradients = torch.autograd.grad(
            _loss(outputs, feed, label), list(module.parameters()), allow_unused=True
        )
        products = {}
        for value, parameter, gradient in zip(values, module.parameters(), gradients, strict=True):
            product = parameter.detach() * (0 if gradient is None else gradient)
            if not bool(product.isfinite().all()):
                raise InputError(
                    f"the gradient of {value.node.name or value.op.name} holds NaN or infinity",
                    where=f"sample {number} of {samples.origin}",
                )
            products[value] = product.float()
        yield products


def _loss(outputs: Mapping[str, Tensor], feed: Feed, label: str) -> Tensor:
    if label in feed:
        (logits, *_) = outputs.values()
        target = feed[label].long().reshape(-1)
        rows = logits.reshape(-1, logits.shape[-1])
        if len(rows) != len(target):
            raise InputError(
                f"there are {len(target)} classes {label!r} for outputs of shape {list(logits.shape)}",
                hint="give one class for each row of the first output",
            )
        return F.cross_entropy(rows, target)
    floats = [y for y in outputs.values() if y.is_floating_point()]
    if not floats:
        raise UsageError("first-order scores need a float output, or labels")
    return torch.stack([y.float().square().sum() for y in floats]).sum() / 2
