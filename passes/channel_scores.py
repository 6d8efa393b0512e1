"""How much units of channels matter: the scores of weights, gathered over all that a unit owns.

Scores of groups are compared with each other, so they are on one scale:

- "magnitude": the share of each layer's squared weights that belongs to the unit, summed over layers.
- "wanda": the same of w^2 times the mean square of its activation, over the layers that take the channel
  in: the share of their outputs' energy that comes from it, were its inputs uncorrelated.
- "first_order": the squared change of the loss when all of the unit's outputs become zero, to first order
  (the sum of w dL/dw over its rows), averaged over the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hardy.compiler.calibration import open_samples
from hardy.passes.channel_groups import ChannelGroup, Channels, Occurrence
from hardy.passes.scores import first_order_terms, require_score, weight_scores

Scores = np.ndarray[Any, np.dtype[np.float64]]


def unit_scores(
    channels: Channels, groups: Sequence[ChannelGroup], score: str, calibration: object, label: str
) -> list[Scores]:
    """The score of each unit of each group, at least 0."""
    require_score(score, calibration)
    chosen = list(dict.fromkeys(o.layer for g in groups for o in g.occurrences))
    if score == "first_order":
        samples = open_samples(calibration, channels.graph.input_types())
        totals = [np.zeros(len(g.units)) for g in groups]
        count = 0
        for terms in first_order_terms(channels.graph, chosen, samples, label):
            count += 1
            for total, group in zip(totals, groups, strict=True):
                change = sum(
                    _gather(o, terms[o.layer.weight].double()) for o in group.occurrences if o.is_output
                )
                total += np.square(change)
        return [total / count for total in totals]
    elements = weight_scores(channels.graph, chosen, score, calibration)
    result = []
    for group in groups:
        places = [o for o in group.occurrences if score == "magnitude" or not o.is_output]
        total = np.zeros(len(group.units))
        for o in places or group.occurrences:
            squares = elements[o.layer.weight].double().square()
            total += _gather(o, squares) / max(float(squares.sum()), torch.finfo(torch.float32).tiny)
        result.append(total)
    return result


def _gather(o: Occurrence, elements: torch.Tensor) -> Scores:
    """The sum of a weight's elements that belong to each unit."""
    axes = [axis for axis in range(elements.ndim) if axis != o.axis]
    vector = (elements.sum(axes) if axes else elements).numpy()
    return np.array([vector[indices].sum() for indices in o.indices])
