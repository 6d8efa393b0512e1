"""Figures of merit: how good a model's outputs are on one sample; higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hardy.compiler.calibration import Feed
from hardy.compiler.calibration.data import load_function
from hardy.compiler.errors import InputError, UsageError

# Outputs by name, the sample, and the outputs of the original model on it.
Metric = Callable[[Mapping[str, Tensor], Feed, Mapping[str, Tensor]], float]
LABEL = "label"


def _first(outputs: Mapping[str, Tensor]) -> Tensor:
    return next(iter(outputs.values()))


def accuracy(outputs: Mapping[str, Tensor], feed: Feed, original: Mapping[str, Tensor]) -> float:
    """The share of rows whose greatest output is the class under `label`."""
    if LABEL not in feed:
        raise InputError(f"the data has no {LABEL!r}", hint="name another metric, such as agreement")
    scores, label = _first(outputs), feed[LABEL].reshape(-1)
    return float((scores.reshape(len(label), -1).argmax(1) == label).double().mean())


def agreement(outputs: Mapping[str, Tensor], feed: Feed, original: Mapping[str, Tensor]) -> float:
    """The share of rows whose greatest output is the original's."""
    return float((_first(outputs).argmax(-1) == _first(original).argmax(-1)).double().mean())


def cosine(outputs: Mapping[str, Tensor], feed: Feed, original: Mapping[str, Tensor]) -> float:
    """The cosine of the angle between all float outputs and the original's."""
    names = [name for name, t in original.items() if t.is_floating_point()]
    mine, other = (torch.cat([side[n].double().reshape(-1) for n in names]) for side in (outputs, original))
    return float(torch.nn.functional.cosine_similarity(mine, other, dim=0))


METRICS: dict[str, Metric] = {"accuracy": accuracy, "agreement": agreement, "cosine": cosine}


def find_metric(name: str) -> Metric:
    """A metric by name, or `package.module:function` of outputs and sample; UsageError lists the names."""
    if name in METRICS:
        return METRICS[name]
    if ":" not in name:
        raise UsageError(
            f"there is no metric {name!r}", hint=f"there are {', '.join(METRICS)}, or package.module:function"
        )
    function = load_function(name)
    return lambda outputs, feed, original: function(outputs, feed)


def figure(
    metric: Metric, outputs: Mapping[str, Tensor], feed: Feed, original: Mapping[str, Tensor]
) -> float:
    """The metric of one sample; UsageError where it is no finite number."""
    value = metric(outputs, feed, original)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"the metric gave {value!r}, not a finite number")
    return float(value)
