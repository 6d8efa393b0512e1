"""The text form: whole goldens, and everything that prints reads back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.compiler.conformance import all_cases
from hardy.compiler.errors import GraphError
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.literal import Literal
from hardy.compiler.ops.elementwise import Add, Neg
from hardy.compiler.ops.group import Group
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.reduce import TopK
from hardy.compiler.ops.shape import Pad
from hardy.compiler.text import parse_graph, print_graph
from hardy.compiler.types import DType, TensorType
from hardy.compiler.verify import verify
from tests.integer_strategies import integer_graphs
from tests.strategies import graphs


def literals(graph: Graph) -> dict[str, Literal]:
    return {c.digest: c for c in graph.constants()}


def example() -> Graph:
    body = Builder("fused")
    a = body.input("a", TensorType(DType.f32, (2, 4)))
    inner = body.finish({"r": body(Add(), body(Neg(), a), a)})
    b = Builder("main")
    x = b.input("x", TensorType(DType.f32, (2, 3)))
    w = b.constant(torch.arange(12.0).reshape(3, 4), name="layer.weight")
    y = b(Matmul(), x, w, name="y", source="model.py:12, layer")
    padded = b(Pad((1, 0), (0, 0), -math.inf), y, name="y")
    values, positions = b.multi(TopK(2, 1), padded)
    grouped = b.multi(Group("elementwise", inner), y, name="g", source="model.py:13")[0]
    bias = b.constant(torch.tensor([0.1, math.inf]))
    return b.finish({"values": b(Add(), values, bias), "positions": positions, "grouped out": grouped})


GOLDEN = """\
graph main(%x: f32[2,3]) {
  %layer.weight: f32[3,4] = constant(#3a9a410b695ba1d585ee7fb44d9354c7)
  %y: f32[2,4] = matmul(%x, %layer.weight)  # model.py:12, layer
  %y~1: f32[3,4] = pad(%y, low=(1, 0), high=(0, 0), value=-inf)
  %0: f32[3,2], %1: i64[3,2] = top_k(%y~1, k=2, axis=1)
  %g: f32[2,4] = group(%y, kind='elementwise') graph fused(%a: f32[2,4]) {  # model.py:13
    %0: f32[2,4] = neg(%a)
    %1: f32[2,4] = add(%0, %a)
    return %1 as r
  }
  %2: f32[2] = constant([0.10000000149011612, inf])
  %3: f32[3,2] = add(%0, %2)
  return %3 as values, %1 as positions, %g as "grouped out"
}
"""


def test_print_shows_one_op_a_line_with_types_names_and_sources() -> None:
    text = print_graph(example())
    assert text == GOLDEN


def test_sources_can_be_left_out() -> None:
    assert "#" not in print_graph(example(), sources=False).replace("(#", "")


def test_what_prints_reads_back() -> None:
    graph = example()
    again = parse_graph(print_graph(graph), literals(graph))
    verify(again)
    assert print_graph(again) == print_graph(graph)
    assert [n.source for n in again.nodes] == [n.source for n in graph.nodes]


@pytest.mark.parametrize("chunk", range(4))
def test_every_op_reads_back(chunk: int) -> None:
    for c in all_cases()[chunk::4]:
        again = parse_graph(print_graph(c.graph), literals(c.graph))
        assert print_graph(again) == print_graph(c.graph)
        assert [n.op for n in again.nodes] == [n.op for n in c.graph.nodes]
        assert [n.types for n in again.nodes] == [n.types for n in c.graph.nodes]


@settings(max_examples=30, deadline=None)
@given(graphs() | graphs(whole=True) | integer_graphs())
def test_any_graph_reads_back(graph: Graph) -> None:
    again = parse_graph(print_graph(graph), literals(graph))
    verify(again)
    assert print_graph(again) == print_graph(graph)
    assert [(n.op, n.types, n.source) for n in again.nodes] == [
        (n.op, n.types, n.source) for n in graph.nodes
    ]


NAMES = st.text(max_size=12)


@given(
    label=NAMES.filter(bool),
    names=st.lists(NAMES, min_size=1, max_size=4),
    source=NAMES,
    output=NAMES,
    graph_name=NAMES,
)
def test_any_name_and_source_reads_back(
    label: str, names: list[str], source: str, output: str, graph_name: str
) -> None:
    b = Builder(graph_name)
    x = b.input(label, TensorType(DType.f32, (2,)))
    for name in names:
        x = b(Neg(), x, name=name, source=source)
    graph = b.finish({output: x})
    again = parse_graph(print_graph(graph), {})
    assert print_graph(again) == print_graph(graph)
    assert again.name == graph_name
    assert again.input_names == (label,)
    assert again.output_names == (output,)
    assert [n.source.split() for n in again.nodes] == [n.source.split() for n in graph.nodes]


@given(st.lists(st.floats(width=32), max_size=8), st.sampled_from(["f64", "f32", "f16", "bf16"]))
def test_small_constants_read_back_to_the_bit(values: list[float], dtype: str) -> None:
    b = Builder()
    t = torch.tensor(values, dtype=torch.float64).to(DType(dtype).torch)
    graph = b.finish({"y": b.constant(t)})
    again = parse_graph(print_graph(graph), literals(graph))
    assert next(again.constants()) == next(graph.constants())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text ends inside a graph"),
        ("grph main() {", "expected `graph name"),
        ("graph main(%x: f32[2]) {\n  %0: f32[2] = nege(%x)\n", "no op 'nege'"),
        ("graph main(%x: f32[2]) {\n  %0: f32[2] = neg(%y)\n", "%y is not defined above"),
        ("graph main(%x: f32[2]) {\n  %0: f32[3] = neg(%x)\n", "the result of neg is f32[2]"),
        ("graph main(%x: f32[2]) {\n  %0: q7[2] = neg(%x)\n", "no element type 'q7'"),
        ("graph main(%x: f32[2]) {\n  %0: f32[2] = neg(%x, speed=3)\n", "wrong attributes for neg"),
        ("graph main() {\n  %0: f32[9] = constant(#00)\n", "the data of constant #00 is not there"),
        ("graph main(%x: f32[2]) {\n  %0: f32[2] = neg(%x)\n  %0: f32[2] = neg(%x)\n", "defined twice"),
        ("graph main(%x: f32[2]) {\n  return %x as y\n}\nmore", "after the graph's closing brace"),
        ("graph main(%x: f32[2]) {\n  %0: f32[2] = reshape(%x, shape=__import__('os'))\n", "cannot read"),
    ],
)
def test_bad_text_names_line_and_cause(text: str, message: str) -> None:
    with pytest.raises(GraphError) as info:
        parse_graph(text, {})
    assert message in info.value.message
