"""Graphs in parts: run one after another they compute what the whole computes."""

from __future__ import annotations

import torch
from torch import nn

from hardy.compiler.cut import cut
from hardy.compiler.interpret import evaluate, run
from hardy.compiler.ir import Graph, Value
from hardy.compiler.models import trace
from hardy.compiler.ops.activation import Relu
from hardy.compiler.verify import verify


class Skips(nn.Module):
    """A residual block, a long skip connection, a weight used twice and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.a(x).relu()
        z = (self.b(y) + y).relu()
        u = (self.a(z) + x).relu()
        return self.c(u), z


def skips() -> Graph:
    torch.manual_seed(0)
    return trace(Skips(), (torch.zeros(3, 4),))


def relus(graph: Graph) -> list[Value]:
    return [n.values[0] for n in graph.nodes if isinstance(n.op, Relu)]


def test_parts_one_after_another_compute_the_whole() -> None:
    graph = skips()
    parts = cut(graph, [[v] for v in relus(graph)] + [graph.outputs])
    x = torch.randn(3, 4)
    known = {graph.inputs[0]: x}
    for part in parts:
        verify(part.graph)
        results = evaluate(part.graph, [known[v] for v in part.takes])
        known |= zip(part.gives, results, strict=True)
    expected = run(graph, {graph.input_names[0]: x})
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        assert torch.equal(known[value], expected[name])


def test_no_node_is_in_two_parts_and_names_are_shared() -> None:
    graph = skips()
    parts = cut(graph, [[v] for v in relus(graph)] + [graph.outputs])
    computed = [v for part in parts for v in part.gives]
    assert len(computed) == len(set(computed))
    for part in parts:
        assert part.graph.input_names == tuple(part.names[v] for v in part.takes)
        assert part.graph.output_names == tuple(part.names[v] for v in part.gives)


def test_a_part_gives_only_what_is_needed_later() -> None:
    graph = skips()
    first, second = relus(graph)[:2]
    parts = cut(graph, [[first], [second], graph.outputs])
    assert [set(p.gives) for p in parts] == [{first}, {second}, {graph.outputs[0]}]
    assert set(parts[2].takes) == {second, graph.inputs[0]}


def test_what_no_end_needs_is_left_out() -> None:
    graph = skips()
    (part,) = cut(graph, [[relus(graph)[0]]])
    assert len(part.graph.nodes) < len(graph.nodes)
    assert part.gives == (relus(graph)[0],)
