"""Integers on the CPU: whatever graph they are in, the same bits as the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import hardy
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from tests.integer_strategies import integer_graphs, integer_inputs


def require_same_bits(graph: Graph, target: str) -> None:
    inputs = integer_inputs(graph, 11)
    actual = hardy.compile(graph, target=target).run(inputs)
    for name, expected in run(graph, inputs).items():
        torch.testing.assert_close(actual[name], expected, rtol=0, atol=0)


@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(graph=integer_graphs(steps=20))
def test_a_graph_of_integers_gives_the_bits_of_the_reference(graph: Graph) -> None:
    require_same_bits(graph, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "cpu:portable"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=integer_graphs(steps=20))
def test_many_graphs_of_integers_give_the_bits_of_the_reference(target: str, graph: Graph) -> None:
    require_same_bits(graph, target)
