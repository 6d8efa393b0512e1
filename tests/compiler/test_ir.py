"""Builder, nodes, transform, literals."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from hardy.compiler.errors import GraphError, InputError, MismatchError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph, Node, Op, Value, transform
from hardy.compiler.literal import Literal
from hardy.compiler.ops.elementwise import Add, Mul, Neg
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.tolerance import compare, require_close
from hardy.compiler.types import DType, TensorType

F32 = TensorType(DType.f32, (2, 3))


def small() -> Graph:
    b = Builder("small")
    x = b.input("x", F32)
    y = b(Neg(), x, name="y", source="model.py:1")
    return b.finish({"out": b(Add(), y, x, source="model.py:2")})


def test_transform_returns_the_same_graph_when_nothing_changes() -> None:
    graph = small()
    assert transform(graph, lambda b, node, operands: None) is graph


def test_transform_shares_the_nodes_above_a_change() -> None:
    graph = small()

    def double(b: Builder, node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...] | None:
        return (b(Mul(), *operands),) if isinstance(node.op, Add) else None

    changed = transform(graph, double)
    assert changed.nodes[:2] == graph.nodes[:2]
    assert changed.nodes[2].op == Mul()
    assert changed.nodes[2].source == "model.py:2"


def test_an_op_with_too_many_operands_names_them() -> None:
    b = Builder()
    x = b.input("x", F32)
    with pytest.raises(GraphError, match=r"neg takes 1 operands \(x\), got 2"):
        b(Neg(), x, x)


def test_literals_of_equal_type_and_bytes_are_equal() -> None:
    a, b = Literal(torch.ones(3)), Literal(torch.ones(3))
    assert a == b
    assert hash(a) == hash(b)
    assert a != Literal(torch.ones(3, 1))
    assert a != Literal(torch.ones(3, dtype=torch.float64))


def test_a_literal_does_not_copy_its_tensor() -> None:
    t = torch.ones(3)
    assert Literal(t).tensor.data_ptr() == t.data_ptr()


def test_four_bit_literals_need_their_type_named() -> None:
    data = torch.tensor([1, -8], dtype=torch.int8)
    assert Literal(data, DType.i4).type == TensorType(DType.i4, (2,))
    assert Literal(data).type.dtype is DType.i8
    with pytest.raises(GraphError, match=r"a literal of u4 needs u8 data, got i8$"):
        Literal(data, DType.u4)


def test_messages_name_types_as_hardy_does_and_foreign_ones_as_torch_does() -> None:
    with pytest.raises(GraphError, match=r"^no hardy type for complex64\n"):
        DType.of(torch.complex64)
    with pytest.raises(MismatchError, match=r"^expected f16\[2,3\], got f8e4m3\[6\]$"):
        compare(torch.zeros(2, 3, dtype=torch.float16), torch.zeros(6, dtype=torch.float8_e4m3fn))
    with pytest.raises(MismatchError, match=r"times the tolerance of bf16\)$"):
        require_close("y", torch.zeros(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16))
    with pytest.raises(InputError, match=r"input 'x' must be f32\[2,3\], got uint16\[\]$"):
        run(small(), {"x": torch.tensor(1, dtype=torch.uint16)})


@dataclass(frozen=True)
class Lying(Op):
    """Its reference does not keep to its shape rule."""

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: torch.Tensor) -> torch.Tensor:
        return x.long().reshape(-1)


def test_a_reference_that_breaks_its_shape_rule_is_named() -> None:
    b = Builder()
    graph = b.finish({"y": b(Lying(), b.input("x", F32), source="model.py:3")})
    message = r"the reference of lying gave i64\[6\], its shape rule says f32\[2,3\]\n"
    with pytest.raises(GraphError, match=message) as caught:
        run(graph, {"x": torch.zeros(2, 3)})
    assert caught.value.where == "model.py:3"


def test_a_fraction_is_no_scalar_of_an_integer_type() -> None:
    with pytest.raises(GraphError, match=r"0.25 is not a value of i32"):
        Builder().scalar(0.25, DType.i32)


def test_inline_replaces_inputs() -> None:
    inner = small()
    b = Builder()
    x = b.input("a", F32)
    (y,) = b.inline(inner, [b(Neg(), x)])
    graph = b.finish({"y": y})
    data = torch.randn(2, 3)
    assert torch.equal(run(graph, {"a": data})["y"], run(inner, {"x": -data})["out"])


def test_users_list_a_node_once_for_each_use() -> None:
    b = Builder()
    x = b.input("x", F32)
    y = b(Add(), x, x)
    graph = b.finish({"y": y})
    assert graph.users()[x] == [y.node, y.node]


def test_macs_count_multiplications() -> None:
    a, w = TensorType(DType.f32, (5, 2, 3)), TensorType(DType.f32, (3, 4))
    assert Matmul().macs(a, w) == 5 * 2 * 3 * 4


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("i4", -8, 7), ("u8", 0, 255), ("i64", -(2**63), 2**63 - 1)]
)
def test_integer_ranges(dtype: str, low: int, high: int) -> None:
    assert DType(dtype).range == (low, high)


def test_four_bit_tensors_pack_two_elements_a_byte() -> None:
    assert TensorType(DType.i4, (3, 3)).nbytes == 5
