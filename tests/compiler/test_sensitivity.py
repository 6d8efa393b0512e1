"""The scan of a pass over layers: what each costs by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from hardy.compiler.calibration import Feed, Samples, open_samples
from hardy.compiler.errors import UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.models import trace
from hardy.compiler.pipeline import sqnr
from hardy.compiler.sensitivity import scan
from hardy.passes import Prune, PruneChannels, Simplify


def network() -> Graph:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).eval()
    return trace(module, (torch.zeros(2, 6),), self_test=False)


def data(graph: Graph) -> Samples:
    generator = torch.Generator().manual_seed(1)
    feeds = [
        {"input": torch.randn(2, 6, generator=generator), "label": torch.tensor([1, 2])} for _ in range(3)
    ]
    return open_samples(feeds, graph.input_types())


def right(outputs: Mapping[str, Tensor], feed: Feed) -> float:
    return float((outputs["output"].argmax(1) == feed["label"]).float().mean())


def test_each_layer_is_changed_alone_and_compared_over_all_samples() -> None:
    graph = network()
    samples = data(graph)
    result = scan(graph, Prune(structure="element"), "sparsity", [0.0, 0.5], samples, metric=right)
    assert [(p.layer, p.setting) for p in result.points] == [
        ("0.weight", 0.0),
        ("0.weight", 0.5),
        ("2.weight", 0.0),
        ("2.weight", 0.5),
    ]
    pruned = Prune(sparsity=0.5, structure="element", only=("2.weight",)).run(graph)
    before, after = (
        [run(g, {"input": feed["input"]}) for feed in samples.feeds(graph.input_types())]
        for g in (graph, pruned)
    )
    last = result.points[-1]
    sides = [torch.cat([y["output"] for y in ys]) for ys in (before, after)]
    assert last.sqnr_db == pytest.approx(sqnr(*sides))
    label = {"label": torch.tensor([1, 2])}
    assert last.metric == pytest.approx(sum(right(y, label) for y in after) / 3)
    assert result.metric == pytest.approx(sum(right(y, label) for y in before) / 3)
    assert result.points[0].sqnr_db == math.inf


def test_a_refused_layer_is_listed_with_the_reason() -> None:
    graph = network()
    first, last = scan(graph, PruneChannels(ratio=0.5), "ratio", [0.5], data(graph)).points
    assert first.sqnr_db is not None
    assert math.isfinite(first.sqnr_db)
    assert last.sqnr_db is None
    assert last.reason == "none of these layers has channels that can be removed"


def test_mistakes_of_the_caller_are_errors() -> None:
    graph = network()
    samples = data(graph)
    with pytest.raises(UsageError, match="simplify has no option 'only'"):
        scan(graph, Simplify(), "sparsity", [0.5], samples)
    with pytest.raises(UsageError, match="prune has no option 'share'"):
        scan(graph, Prune(), "share", [0.5], samples)
    with pytest.raises(UsageError, match="must lie in"):
        scan(graph, Prune(), "sparsity", [1.5], samples)
    with pytest.raises(UsageError, match="no layer matches 'typo'"):
        scan(graph, Prune(), "sparsity", [0.5], samples, only=("typo",))


@pytest.mark.parametrize("value", [None, "high", math.nan])
def test_a_metric_that_gives_no_number_is_refused(value: object) -> None:
    graph = network()
    with pytest.raises(UsageError, match="not a finite number"):
        scan(graph, Prune(), "sparsity", [0.5], data(graph), metric=lambda outputs, feed: value)
