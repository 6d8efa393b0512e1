"""Runs a graph on samples and shows the values of interest to streaming statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from hardy.compiler.calibration.data import Samples
from hardy.compiler.errors import InputError
from hardy.compiler.interpret import Compute, evaluate
from hardy.compiler.ir import Graph, Value

# Told how many samples are done.
Tell = Callable[[int], None]


class Statistic(Protocol):
    """Something that is learned from a tensor in each run; its memory must not grow with their number."""

    def update(self, x: torch.Tensor) -> None: ...


def observe(
    graph: Graph,
    samples: Samples,
    watched: Mapping[Value, Sequence[Statistic]],
    tell: Tell | None = None,
    compute: Compute | None = None,
) -> int:
    """Run every sample through the reference; each watched value updates its statistics. The number
    of samples. `compute` takes the place of the reference of each node, as in `evaluate`.

    InputError where a watched value becomes NaN or infinite, with its source.
    """

    def see(value: Value, x: torch.Tensor) -> None:
        statistics = watched.get(value)
        if not statistics:
            return
        if x.is_floating_point() and not bool(x.isfinite().all()):
            raise InputError(
                f"the result of {value.op.name} holds NaN or infinity on this sample",
                where=value.node.source or value.node.name,
                hint="leave such samples out, or find the cause with `hardy compare`",
            )
        for statistic in statistics:
            statistic.update(x)

    count = 0
    with torch.no_grad():
        for feed in samples.feeds(graph.input_types()):
            try:
                evaluate(graph, [feed[name] for name in graph.input_names], see, compute)
            except InputError as error:
                error.where = f"sample {count} of {samples.origin}; {error.where}"
                raise
            count += 1
            if tell is not None:
                tell(count)
    return count
