"""Channels last, decomposition for a target, and groups."""

# Printed nodes are as long as they are.
# ruff: noqa: E501

from __future__ import annotations

import pytest
import torch

from hardy.compiler.errors import UnsupportedError
from hardy.compiler.ir import Builder, Graph, Value
from hardy.compiler.ops.activation import Gelu, HardSwish, Relu, Sigmoid, Silu, Softmax
from hardy.compiler.ops.elementwise import Add, Mul, Neg
from hardy.compiler.ops.group import Group
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import BatchNorm, GroupNorm, LayerNorm, ReduceMean
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.quant import IntegerConv, Requantize
from hardy.compiler.ops.reduce import TopK
from hardy.compiler.ops.resize import Resize
from hardy.compiler.ops.shape import Concat, Pad, Reshape
from hardy.compiler.ops.transcendental import Exp, Tanh
from hardy.compiler.types import DType, TensorType
from hardy.passes import Anchor, ChannelsLast, Decompose, EliminateDeadCode, FormGroups, GroupPolicy, Simplify
from hardy.targets.target import YES, no
from tests.rewriting import apply, body, ops, read

F32 = DType.f32


class Net:
    """Builds image networks in few words."""

    def __init__(self, *shape: int) -> None:
        self.b = Builder("net")
        self.rng = torch.Generator().manual_seed(0)
        self.x = self.b.input("x", TensorType(F32, shape or (1, 3, 16, 16)))

    def constant(self, *shape: int) -> Value:
        return self.b.constant(torch.rand(shape, generator=self.rng) + 0.1)

    def conv(self, x: Value, out: int, k: int = 3, stride: int = 1, groups: int = 1) -> Value:
        w = self.constant(out, x.type.shape[1] // groups, k, k)
        pad = ((k // 2, k // 2),) * 2
        return self.b(Conv((stride,) * 2, pad, (1, 1), groups), x, w, self.constant(out))

    def norm(self, x: Value) -> Value:
        return self.b(BatchNorm(), x, *[self.constant(x.type.shape[1]) for _ in range(4)])


def residual_net() -> Graph:
    """The kinds of blocks of ResNet, MobileNet and EfficientNet, and a detector's upsampling."""
    n = Net()
    b = n.b
    x = b(Relu(), n.norm(n.conv(n.x, 8, stride=2)))
    x = b(MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), x)
    y = b(Silu(), n.norm(n.conv(x, 8, groups=8)))
    gate = b(ReduceMean((2, 3), True), y)
    gate = b(Sigmoid(), n.conv(b(Silu(), n.conv(gate, 2, 1)), 8, 1))
    x = b(Add(), n.norm(n.conv(b(Mul(), y, gate), 8, 1)), x)
    small = b(HardSwish(), n.conv(x, 4, stride=2))
    large = b(Resize((1, 4, 4, 4), (1.0, 1.0, 2.0, 2.0)), small)
    x = b(Concat(1), x, b(Pad((0, 0, 0, 0), (0, 0, 0, 0)), large))
    x = b(GroupNorm(3), x, n.constant(12), n.constant(12))
    x = b(AvgPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), x)
    x = b(Reshape((1, 12)), b(ReduceMean((2, 3), True), x))
    return b.finish({"y": b(Matmul(), x, n.constant(12, 5))})


def test_only_the_input_of_a_whole_network_is_transposed() -> None:
    after = Simplify().run(apply(ChannelsLast(), residual_net()))
    moved = [n for n in after.nodes if n.op.name == "transpose"]
    assert [n.operands[0] for n in moved] == list(after.inputs)
    layouts = {n.op.layout for n in after.nodes if isinstance(n.op, Conv | MaxPool | AvgPool)}
    assert layouts == {"channels_last"}


def test_an_image_output_is_transposed_once() -> None:
    n = Net(1, 4, 8, 8)
    y = n.conv(n.conv(n.x, 4), 2)
    after = apply(ChannelsLast(), n.b.finish({"y": n.b(Tanh(), y)}))
    assert ops(after) == ["transpose", "conv", "conv", "tanh", "transpose"]


def test_channels_last_leaves_other_ranks() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (1, 2, 5)))
    graph = b.finish({"y": b(Conv((1,), ((0, 0),), (1,)), x, b.constant(torch.ones(2, 2, 1)))})
    assert ChannelsLast(spatial=(2,)).run(graph) is graph
    assert "transpose" in ops(apply(ChannelsLast(spatial=(1, 2)), graph))


def test_integer_convolutions_go_channels_last_with_their_requantization() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.u8, (1, 2, 4, 4)))
    zero = b.constant(torch.tensor(3, dtype=torch.uint8))
    w = b.constant(torch.ones(3, 2, 1, 1, dtype=torch.int8))
    y = b(IntegerConv((1, 1), ((0, 0), (0, 0)), (1, 1)), x, w, zero)
    scale, zeros = b.constant(torch.tensor([0.1, 0.2, 0.3])), b.constant(torch.zeros(3, dtype=torch.int8))
    y = b(Requantize(DType.i8, axis=1), y, scale, zeros)
    after = apply(ChannelsLast(), b.finish({"y": y}))
    assert ops(after) == ["transpose", "integer_conv", "requantize", "transpose"]
    (requantize,) = [n.op for n in after.nodes if isinstance(n.op, Requantize)]
    assert requantize.axis == 3


# Decomposition


def gelu_softmax() -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (2, 3)))
    with b.at("model.py:5"):
        y = b(Softmax(1), b(Gelu(), x))
    return b.finish({"y": y})


def test_composites_expand_to_the_core() -> None:
    after = apply(Decompose(), gelu_softmax())
    assert all(n.op.is_core() for n in after.nodes)
    assert {n.source for n in after.nodes if n.op.name not in ("input",)} == {"model.py:5"}


def test_named_composites_stay() -> None:
    after = apply(Decompose(("softmax",)), gelu_softmax())
    assert ops(after)[-1] == "softmax"
    assert "gelu" not in ops(after)


def test_composites_of_composites_expand_as_far_as_needed() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (1, 4, 2, 2)))
    graph = b.finish({"y": b(GroupNorm(2), x)})
    assert ops(apply(Decompose(("layer_norm",)), graph)) == ["reshape", "layer_norm", "reshape"]
    assert "reduce_sum" in ops(apply(Decompose(), graph))


def test_a_core_op_that_is_not_taken_is_refused_with_its_line_and_reason() -> None:
    b = Builder()
    with b.at("model.py:9"):
        x = b.input("x", TensorType(F32, (4,)))
        values, _ = b.multi(TopK(2, 0), x)
    graph = b.finish({"y": values})
    with pytest.raises(
        UnsupportedError, match=r"not every node is supported:\n    top_k \(model.py:9\): no sorting"
    ):
        Decompose(lambda node: no("no sorting here") if node.op.name == "top_k" else YES).run(graph)


# Groups

POLICY = GroupPolicy(
    anchors={
        Conv: Anchor("conv"),
        Matmul: Anchor("matmul"),
        Softmax: Anchor("softmax", producers=True),
        LayerNorm: Anchor("layer_norm", producers=True, consumers=False),
    }
)


def groups(graph: Graph, policy: GroupPolicy = POLICY) -> list[tuple[str, list[str]]]:
    """Kinds and ops of the groups, in order; ops outside of groups as a kind of their own."""
    after = apply(FormGroups(policy), EliminateDeadCode().run(graph))
    result = []
    for node in after.nodes:
        if isinstance(node.op, Group):
            result.append((node.op.kind, ops(node.op.body)))
        elif node.op.name not in ("input", "constant"):
            result.append((node.op.name, []))
    return result


def test_an_epilogue_joins_its_anchor() -> None:
    graph = read("""
    graph main(%x: f32[2,3], %w: f32[3,4], %r: f32[2,4]) {
      %b: f32[4] = constant([1.0, 2.0, 3.0, 4.0])
      %two: f32[] = constant(2.0)
      %0: f32[2,4] = matmul(%x, %w)  # a.py:1
      %1: f32[2,4] = add(%0, %b)  # a.py:1
      %2: f32[2,4] = mul(%1, %two)  # a.py:2
      %3: f32[2,4] = add(%r, %2)  # a.py:3
      return %3 as y
    }""")
    assert (
        body(apply(FormGroups(POLICY), graph))
        == """\
%b: f32[4] = constant([1.0, 2.0, 3.0, 4.0])
%0: f32[2,4] = group(%x, %w, %b, %r, kind='matmul') graph matmul(%x0: f32[2,3], %x1: f32[3,4], %x2: f32[4], %x3: f32[2,4]) {  # a.py:1 + a.py:2 + a.py:3
  %two: f32[] = constant(2.0)
  %0: f32[2,4] = matmul(%x0, %x1)  # a.py:1
  %1: f32[2,4] = add(%0, %x2)  # a.py:1
  %2: f32[2,4] = mul(%1, %two)  # a.py:2
  %3: f32[2,4] = add(%x3, %2)  # a.py:3
  return %3 as y0
}
return %0 as y"""
    )


def chain(*ops_: Relu | Exp | Neg | Softmax | LayerNorm | Tanh) -> Graph:
    b = Builder()
    y = b.input("x", TensorType(F32, (2, 3)))
    for op in ops_:
        y = b(op, y)
    return b.finish({"y": y})


def test_producers_join_only_where_the_anchor_takes_them() -> None:
    assert groups(chain(Exp(), Neg(), Softmax(1), Relu())) == [("softmax", ["exp", "neg", "softmax", "relu"])]
    assert groups(chain(Exp(), LayerNorm(1), Relu())) == [
        ("layer_norm", ["exp", "layer_norm"]),
        ("elementwise", ["relu"]),
    ]


def test_a_reconverging_epilogue_joins_as_a_whole() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (2, 3)))
    y = b(Matmul(transpose_b=True), x, x)
    swish = b(Mul(), y, b(Sigmoid(), y))
    assert groups(b.finish({"y": b(Relu(), swish)})) == [("matmul", ["matmul", "sigmoid", "mul", "relu"])]


def test_an_epilogue_stops_before_a_result_that_is_needed_outside() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (3, 3)))
    y = b(Relu(), b(Matmul(), x, x))
    z = b(Exp(), y)
    graph = b.finish({"z": z, "y": y})
    assert groups(graph) == [("matmul", ["matmul", "relu"]), ("elementwise", ["exp"])]
    two = GroupPolicy(anchors=POLICY.anchors, outputs=2)
    assert groups(graph, two) == [("matmul", ["matmul", "relu", "exp"])]


def test_a_residual_edge_round_an_anchor_makes_no_cycle() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (3, 3)))
    first = b(Relu(), b(Matmul(), x, x))
    second = b(Add(), b(Matmul(), first, x), first)
    graph = b.finish({"y": b(Tanh(), second)})
    assert groups(graph) == [("matmul", ["matmul", "relu"]), ("matmul", ["matmul", "add", "tanh"])]


def test_elementwise_nodes_on_both_sides_of_an_anchor_do_not_form_a_cycle() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (3, 3)))
    e = b(Exp(), x)
    m = b(Matmul(), e, e)
    top = b.multi(TopK(3, 1), m)[0]
    graph = b.finish({"y": b(Add(), e, top)})
    for outputs in (1, 3):
        policy = GroupPolicy(anchors=POLICY.anchors, outputs=outputs)
        kinds = [kind for kind, _ in groups(graph, policy)]
        assert kinds == ["elementwise", "matmul", "top_k", "elementwise"]


def test_other_branches_join_an_elementwise_group() -> None:
    b = Builder()
    x, y = (b.input(n, TensorType(F32, (3, 3))) for n in "xy")
    total = b(Add(), b(Exp(), x), b(Neg(), b(Tanh(), y)))
    assert groups(b.finish({"y": total})) == [("elementwise", ["exp", "tanh", "neg", "add"])]


@pytest.mark.parametrize(
    ("shape", "joins"),
    [((3, 4), True), ((), True), ((4,), True), ((1, 4), True), ((3, 1), False), ((1, 1), True)],
)
def test_an_epilogue_operand_is_whole_a_scalar_or_a_vector(shape: tuple[int, ...], joins: bool) -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (3, 4)))
    other = b.input("other", TensorType(F32, shape))
    y = b(Mul(), b(Matmul(), x, b.input("w", TensorType(F32, (4, 4)))), other)
    policy = GroupPolicy(anchors=POLICY.anchors, shapes=frozenset({"same", "scalar", "last"}))
    expected = (
        [("matmul", ["matmul", "mul"])] if joins else [("matmul", ["matmul"]), ("elementwise", ["mul"])]
    )
    assert groups(b.finish({"y": y}), policy) == expected


def test_an_epilogue_that_broadcasts_the_anchor_stays_outside() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (3, 3)))
    wide = b.input("wide", TensorType(F32, (2, 3, 3)))
    graph = b.finish({"y": b(Add(), b(Matmul(), x, x), wide)})
    assert groups(graph) == [("matmul", ["matmul"]), ("elementwise", ["add"])]


def test_a_policy_limits_nodes_operands_and_ops() -> None:
    graph = chain(Exp(), Neg(), Tanh(), Relu(), Exp())
    assert [len(n) for _, n in groups(graph, GroupPolicy(nodes=2))] == [2, 2, 1]
    only = GroupPolicy(elementwise=frozenset({Exp, Neg}))
    assert groups(graph, only) == [
        ("elementwise", ["exp", "neg"]),
        ("tanh", []),
        ("relu", []),
        ("elementwise", ["exp"]),
    ]
    assert groups(chain(Exp(), Softmax(1)), GroupPolicy(singles=False)) == [("exp", []), ("softmax", [])]
    b = Builder()
    x = [b.input(f"x{i}", TensorType(F32, (2,))) for i in range(6)]
    total = x[0]
    for v in x[1:]:
        total = b(Add(), total, v)
    assert [len(n) for _, n in groups(b.finish({"y": total}), GroupPolicy(operands=3))] == [2, 2, 1]


def test_a_policy_has_the_last_word() -> None:
    policy = GroupPolicy(anchors=POLICY.anchors, accept=lambda anchor, member: member.op != Relu())
    b = Builder()
    x = b.input("x", TensorType(F32, (3, 3)))
    graph = b.finish({"y": b(Relu(), b(Exp(), b(Matmul(), x, x)))})
    assert groups(graph, policy) == [("matmul", ["matmul", "exp"]), ("elementwise", ["relu"])]


def test_requantization_joins_an_integer_convolution() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.u8, (1, 4, 4, 2)))
    w = b.constant(torch.ones(3, 2, 1, 1, dtype=torch.int8))
    y = b(IntegerConv((1, 1), ((0, 0), (0, 0)), (1, 1), layout="channels_last"), x, w)
    scale, zeros = b.constant(torch.tensor([0.1, 0.2, 0.3])), b.constant(torch.zeros(3, dtype=torch.int8))
    graph = b.finish({"y": b(Requantize(DType.i8, axis=3), y, scale, zeros)})
    policy = GroupPolicy(anchors={IntegerConv: Anchor("integer_conv")})
    assert groups(graph, policy) == [("integer_conv", ["integer_conv", "requantize"])]
