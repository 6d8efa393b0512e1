"""The checker finds every way in which a graph can be wrong."""

from __future__ import annotations

import pytest

from hardy.compiler.errors import GraphError
from hardy.compiler.ir import Builder, Graph, Input, Node, Value
from hardy.compiler.ops.elementwise import Add, Neg
from hardy.compiler.types import DType, TensorType
from hardy.compiler.verify import verify

F32 = TensorType(DType.f32, (2,))
X = Node(Input("x", F32), (), (F32,), "x")
Y = Node(Neg(), (Value(X, 0),), (F32,), "y", "model.py:3")


def graph(
    *nodes: Node, inputs: tuple[Node, ...] = (X,), outputs: tuple[Value, ...] = (), names: str = ""
) -> Graph:
    return Graph("g", tuple(Value(n, 0) for n in inputs), nodes, outputs, tuple(names))


def test_a_built_graph_passes() -> None:
    b = Builder()
    x = b.input("x", F32)
    verify(b.finish({"y": b(Add(), x, x)}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (graph(Y, X), "operand 0 of neg is not computed before it"),
        (graph(X, Y, Y), "listed twice"),
        (graph(X, Node(Neg(), (Value(X, 1),), (F32,))), "result 1 of input"),
        (graph(X, Node(Neg(), (Value(X, 0),), (TensorType(DType.f64, (2,)),))), "stored with type f64[2]"),
        (graph(X, Node(Add(), (Value(X, 0),), (F32,))), "add takes 2 operands"),
        (graph(X, Y, inputs=()), "inputs are not its first nodes"),
        (graph(X, outputs=(Value(Y, 0),), names="y"), "output 'y' is not computed"),
        (graph(X, outputs=(Value(X, 0),) * 2, names="yy"), "two outputs are called 'y'"),
        (graph(X, outputs=(Value(X, 0),), names=""), "1 outputs have 0 names"),
    ],
)
def test_a_wrong_graph_is_refused(wrong: Graph, message: str) -> None:
    with pytest.raises(GraphError) as info:
        verify(wrong)
    assert message in info.value.message


def test_the_error_shows_the_nodes_around_the_fault() -> None:
    bad = Node(Neg(), (Value(Y, 0),), (TensorType(DType.i8, (2,)),), source="model.py:4")
    with pytest.raises(GraphError) as info:
        verify(graph(X, Y, bad))
    assert "    > %2: i8[2] = neg(%1)  # model.py:4" in info.value.hint
    assert "      %1: f32[2] = neg(%0)  # model.py:3" in info.value.hint
    assert info.value.where == "model.py:4"
