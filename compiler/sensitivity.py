"""What a lossy pass costs layer by layer: the error of the outputs when it changes one layer alone."""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardy.compiler.calibration import Feed, Samples, inputs_of
from hardy.compiler.errors import UnsupportedError, UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.pipeline import Pass, sqnr
from hardy.compiler.progress import Progress, tell
from hardy.passes.layers import layers, select

# A figure of one run's outputs by name, given its feed, which may hold labels: the mean counts.
Metric = Callable[[Mapping[str, Tensor], Feed], float]


@dataclass(frozen=True)
class Point:
    """One layer at one setting.

    `sqnr_db` is over all float outputs together, infinite where nothing changed, None where the pass
    refused the layer, for the `reason`. `metric` is its mean over the samples.
    """

    layer: str
    setting: Any
    sqnr_db: float | None = None
    metric: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Scan:
    """A scan's points, layer by layer, and the metric of the graph as it was."""

    points: tuple[Point, ...]
    metric: float | None


def scan(
    graph: Graph,
    pass_: Pass,
    option: str,
    settings: Sequence[Any],
    samples: Samples,
    *,
    only: Sequence[str] = (),
    metric: Metric | None = None,
    progress: Progress = tell,
) -> Scan:
    """Run the pass on each layer alone, with each setting of one option, and compare the outputs.

    The pass has a field `only`. The outputs of the graph itself are kept for all samples, so give few.
    UsageError where the pass has no such fields, or the metric is not a finite number.
    """
    fields = {f.name for f in dataclasses.fields(pass_)}
    for name in ("only", option):
        if name not in fields:
            raise UsageError(
                f"the pass {pass_.name} has no option {name!r}", hint=f"its options are {', '.join(fields)}"
            )
    names = [layer.name for layer in select(layers(graph), only)]
    feeds = list(samples.feeds(graph.input_types()))
    expected = [_outputs(graph, feed) for feed in feeds]
    baseline = _mean(metric, expected, feeds)
    points: list[Point] = []
    for name in names:
        for setting in settings:
            progress(f"{name} at {setting}", len(points), len(names) * len(settings))
            # An option that makes no sense is the caller's mistake, no refusal of the layer.
            changed = dataclasses.replace(pass_, **{option: setting, "only": (glob.escape(name),)})
            try:
                after = changed.run(graph)
            except (UsageError, UnsupportedError) as error:
                points.append(Point(name, setting, reason=error.message))
                continue
            actual = expected if after is graph else [_outputs(after, feed) for feed in feeds]
            points.append(Point(name, setting, _noise(expected, actual), _mean(metric, actual, feeds)))
    return Scan(tuple(points), baseline)


def _outputs(graph: Graph, feed: Feed) -> dict[str, Tensor]:
    return run(graph, inputs_of(graph, feed))


def _noise(expected: Sequence[Mapping[str, Tensor]], actual: Sequence[Mapping[str, Tensor]]) -> float:
    pairs = [
        (e.reshape(-1).double(), a[name].reshape(-1).double())
        for es, a in zip(expected, actual, strict=True)
        for name, e in es.items()
        if e.is_floating_point()
    ]
    if not pairs:
        raise UsageError("the graph has no float output to compare", hint="give a metric")
    return sqnr(torch.cat([e for e, _ in pairs]), torch.cat([a for _, a in pairs]))


def mean_metric(metric: Metric, graph: Graph, samples: Samples) -> float:
    """The mean of a metric over samples; UsageError where it gives no finite number."""
    total, count = 0.0, 0
    for feed in samples.feeds(graph.input_types()):
        total += _figure(metric, _outputs(graph, feed), feed)
        count += 1
    return total / count


def _figure(metric: Metric, outputs: Mapping[str, Tensor], feed: Feed) -> float:
    value = metric(outputs, feed)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"the metric gave {value!r}, not a finite number")
    return float(value)


def _mean(
    metric: Metric | None, outputs: Sequence[Mapping[str, Tensor]], feeds: Sequence[Feed]
) -> float | None:
    if metric is None:
        return None
    values = [_figure(metric, each, feed) for each, feed in zip(outputs, feeds, strict=True)]
    return sum(values) / len(values)
