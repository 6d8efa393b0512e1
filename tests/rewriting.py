"""Shared by the tests of passes: run one on IR text and compare, with the properties all must have."""

from __future__ import annotations

import textwrap

import torch

from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.pipeline import Pass, random_inputs
from hardy.compiler.text import parse_graph, print_graph
from hardy.compiler.tolerance import require_close
from hardy.compiler.verify import verify


def read(text: str) -> Graph:
    return parse_graph(textwrap.dedent(text), {})


def body(graph: Graph) -> str:
    """The lines between the header and the end, without indent."""
    return textwrap.dedent("\n".join(print_graph(graph).splitlines()[1:-1]))


def require_same_outputs(before: Graph, after: Graph, seed: int = 0) -> None:
    """Both graphs compute the same, within the types' tolerances."""
    inputs = random_inputs(before.input_types(), seed)
    expected = run(before, inputs)
    actual = run(after, inputs)
    assert expected.keys() == actual.keys()
    for name in expected:
        require_close(name, expected[name], actual[name], scaled=True)


def apply(pass_: Pass, graph: Graph) -> Graph:
    """Run a pass and check what every pass promises, and of an exact one that the outputs stay."""
    after = pass_.run(graph)
    verify(after)
    assert after.input_types() == graph.input_types()
    assert after.output_types() == graph.output_types()
    if pass_.exact:
        require_same_outputs(graph, after)
    assert pass_.run(after) is after, "a second run finds more to do"
    return after


def expect(pass_: Pass, before: str, after: str) -> None:
    """The pass turns a program into another: `before` is a whole graph, `after` the body alone, as
    `print_graph` shows it, so its unnamed values are %0, %1, ..."""
    assert body(apply(pass_, read(before))) == textwrap.dedent(after).strip("\n")


def expect_unchanged(pass_: Pass, text: str) -> None:
    """The pass leaves the graph alone: the same object."""
    graph = read(text)
    assert pass_.run(graph) is graph


def ops(graph: Graph) -> list[str]:
    """The names of the ops in order, without inputs and constants."""
    return [n.op.name for n in graph.nodes if n.op.name not in ("input", "constant")]


torch.set_num_threads(1)
