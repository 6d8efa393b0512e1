"""Comparison and bisection: errors are found where they arise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from hardy.compiler.bisect import bisect_passes, metric_judge, sqnr_judge
from hardy.compiler.calibration import Samples
from hardy.compiler.compare import compare_graphs
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.models import trace
from hardy.compiler.ops.activation import Relu
from hardy.compiler.ops.elementwise import Abs, Mul
from hardy.compiler.pipeline import Pass
from hardy.passes import DEFAULT
from hardy.passes.layers import layers, replace_weights

DATA = torch.randn(6, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SAMPLES = Samples(lambda: DATA)


def network() -> Graph:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    )
    return trace(module.eval(), (torch.zeros(1, 1, 8, 8),))


def spoiled(graph: Graph, number: int) -> Graph:
    layer = list(layers(graph))[number]
    return replace_weights(graph, {layer.weight: layer.data * 1.5})


def test_a_graph_compared_with_itself_differs_nowhere() -> None:
    graph = network()
    result = compare_graphs(graph, graph, SAMPLES)
    assert result.samples == 6
    assert result.unpaired == 0
    assert all(v.total.sqnr_db == math.inf and v.total.cosine == pytest.approx(1) for v in result.values)


def test_error_is_told_where_it_arises_and_what_it_becomes() -> None:
    graph = network()
    result = compare_graphs(graph, spoiled(graph, 1), SAMPLES)
    worst = result.worst()[0]
    second = list(layers(graph))[1].node
    assert (worst.op, worst.source) == ("conv", second.source)
    at = [v.source for v in result.values].index(worst.source)
    assert all(v.total.noise == 0 for v in result.values[:at])
    assert all(v.total.noise > 0 for v in result.values[at:])
    assert all(v.local.noise == 0 for v in result.values if v is not worst)


def test_values_are_paired_through_the_clean_up() -> None:
    graph = network()
    cleaned = graph
    for pass_ in DEFAULT:
        cleaned = pass_.run(cleaned)
    result = compare_graphs(graph, spoiled(cleaned, 2), SAMPLES)
    assert result.worst()[0].source == list(layers(graph))[2].node.source
    assert len(result.values) >= 5


def test_graphs_of_other_interfaces_are_refused() -> None:
    other = trace(nn.Linear(4, 4).eval(), (torch.zeros(1, 4),))
    with pytest.raises(UsageError, match="the inputs of the two models differ"):
        compare_graphs(network(), other, SAMPLES)


@dataclass(frozen=True)
class ReluToAbs(Pass):
    """Rewrites relu(x) to relu(x) * 1, but the second one to abs(x)."""

    def run(self, graph: Graph) -> Graph:
        seen = 0

        def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            nonlocal seen
            if not isinstance(node.op, Relu) or not ledger().take("relu"):
                return None
            seen += 1
            if seen == 2:
                return [b(Abs(), *operands, name="wrong")]
            kept = b(node.op, *operands, name=node.name)
            return [b(Mul(), kept, b.constant(torch.ones(1)))]

        return transform(graph, rewrite)


@dataclass(frozen=True)
class ScaleLayers(Pass):
    """Spoils one layer a lot and the others a little."""

    exact: ClassVar[bool] = False

    only: tuple[str, ...] = ()

    def run(self, graph: Graph) -> Graph:
        new = {}
        for i, layer in enumerate(layers(graph)):
            if not self.only or layer.name in self.only:
                new[layer.weight] = layer.data * (1.3 if i == 1 else 1.001)
        return replace_weights(graph, new)


def test_bisection_names_the_pass_the_rewrite_and_the_node() -> None:
    graph = network()
    found = bisect_passes(graph, (*DEFAULT, ReluToAbs()), sqnr_judge(graph, SAMPLES), 60.0, SAMPLES)
    assert found is not None
    assert found.pass_name == "relu_to_abs"
    assert found.rewrite == "relu (rewrite 2 of 2)"
    assert [(n.op.name, n.name) for n in found.built] == [("abs", "wrong")]
    second = [n for n in graph.nodes if isinstance(n.op, Relu)][1]
    assert found.built[0].source == second.source == found.values[0].source


def test_bisection_of_a_lossy_pass_names_the_layer() -> None:
    graph = network()
    found = bisect_passes(graph, (ScaleLayers(),), sqnr_judge(graph, SAMPLES), 30.0, SAMPLES)
    assert found is not None
    guilty = list(layers(graph))[1]
    assert found.layers[0][:2] == (guilty.name, guilty.node.source)
    assert found.layers[0][2] < 30 < found.layers[1][2]
    assert found.values[0].source == guilty.node.source


def test_bisection_finds_nothing_where_all_is_well() -> None:
    graph = network()
    assert bisect_passes(graph, DEFAULT, sqnr_judge(graph, SAMPLES), 60.0, SAMPLES) is None


def test_a_metric_can_judge() -> None:
    def metric(outputs: Any, feed: Any) -> float:
        return -float(outputs["output"].abs().sum())

    graph = network()
    judge = metric_judge(metric, SAMPLES)
    found = bisect_passes(graph, (ScaleLayers(),), judge, judge(graph) - 0.05, SAMPLES)
    assert found is not None
    assert found.pass_name == "scale_layers"


def test_a_model_below_the_limit_from_the_start_is_refused() -> None:
    with pytest.raises(UsageError, match="before any pass"):
        bisect_passes(network(), DEFAULT, lambda g: 1.0, 2.0, SAMPLES)


def test_a_metric_that_gives_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="not a finite number"):
        metric_judge(lambda outputs, feed: math.nan, SAMPLES)(network())
