"""Graphs as torch modules: same outputs, same gradients, and what is kept stays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hardy.compiler.conformance import Case, all_cases
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph, Op
from hardy.compiler.models import trace
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.pool import MaxPool
from hardy.compiler.ops.quant import Dequantize, Quantize
from hardy.compiler.tolerance import require_close
from hardy.compiler.training import GraphModule
from hardy.compiler.types import DType, TensorType
from hardy.passes.layers import layers, replace_weights


def small() -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    ).eval()
    return module, trace(module, (torch.zeros(1, 1, 8, 8),))


def test_a_batch_of_feeds_has_the_gradients_of_the_module() -> None:
    module, graph = small()
    trained = GraphModule(graph)
    x, y = torch.randn(6, 1, 1, 8, 8), torch.arange(6) % 5
    outputs, _ = trained.batch({"input": x})
    F.cross_entropy(outputs["output"][:, 0], y).backward()
    F.cross_entropy(module(x[:, 0]), y).backward()
    assert len(list(trained.parameters())) == 4
    expected = {name: p.grad for name, p in module.named_parameters()}
    for value, weight in zip(trained.trained, trained.weights, strict=True):
        torch.testing.assert_close(weight.data.grad, expected[value.node.name])


@pytest.mark.parametrize("case", [c for c in all_cases() if isinstance(c.op, MaxPool)], ids=lambda c: c.name)
def test_training_pools_as_the_reference_does(case: Case) -> None:
    outputs, _ = GraphModule(case.graph)(case.inputs)
    assert all(torch.equal(outputs[name], y) for name, y in case.expected().items())


def test_steps_change_the_graph_and_leave_the_old_one_alone() -> None:
    _, graph = small()
    trained = GraphModule(graph)
    x = torch.randn(1, 1, 8, 8)
    before = run(graph, {"input": x})["output"]
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    outputs, _ = trained({"input": x})
    outputs["output"].sum().backward()
    optimizer.step()
    outputs, _ = trained({"input": x})
    after = run(trained.to_graph(), {"input": x})["output"]
    torch.testing.assert_close(after, outputs["output"].detach())
    assert not torch.equal(before, after)
    assert torch.equal(before, run(graph, {"input": x})["output"])


def test_zeros_stay_zero() -> None:
    _, graph = small()
    (conv, _) = layers(graph)
    mask = torch.rand(conv.data.shape) < 0.5
    graph = replace_weights(graph, {conv.weight: conv.data * mask})
    trained = GraphModule(graph, keep="zeros")
    trained({"input": torch.randn(1, 1, 8, 8)})[0]["output"].sum().backward()
    torch.optim.Adam(trained.parameters(), lr=0.1).step()
    (after, _) = layers(trained.to_graph())
    assert torch.equal(after.data == 0, ~mask)
    assert not torch.equal(after.data, conv.data * mask)


def test_ties_stay_equal_and_get_the_sum_of_their_gradients() -> None:
    _, graph = small()
    (conv, _) = layers(graph)
    shared = torch.tensor([-0.5, 0.0, 0.25])[torch.randint(0, 3, conv.data.shape)]
    graph = replace_weights(graph, {conv.weight: shared})
    trained = GraphModule(graph, train=[next(layers(graph)).weight], keep="ties")
    x = torch.randn(1, 1, 8, 8)
    trained({"input": x})[0]["output"].sum().backward()
    free = GraphModule(graph, train=trained.trained)
    free({"input": x})[0]["output"].sum().backward()
    full, tied = free.weights[0].data.grad, trained.weights[0].data.grad
    torch.testing.assert_close(
        tied, torch.stack([full[shared == -0.5].sum(), tied[1] * 0, full[shared == 0.25].sum()])
    )
    torch.optim.SGD(trained.parameters(), lr=0.1).step()
    after = next(layers(trained.to_graph())).data
    assert len(after.unique()) == 3
    assert torch.equal(after == 0, shared == 0)


def test_a_quantized_weight_learns_through_its_rounding() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (1, 2)))
    weight = b.constant(torch.tensor([[0.3, 5.0], [0.1, -0.2]]), name="w")
    scale = b.scalar(0.03, DType.f32)
    rounded = b(Dequantize(), b(Quantize(DType.i8), weight, scale), scale)
    graph = b.finish({"y": b(Matmul(), x, rounded)})
    trained = GraphModule(graph)
    given = torch.tensor([[1.0, 2.0]])
    outputs, _ = trained({"x": given})
    assert torch.equal(outputs["y"], run(graph, {"x": given})["y"])
    outputs["y"].sum().backward()
    # 5.0 saturates at 127 * 0.03, so it gets no gradient.
    (weight_of,) = trained.weights
    torch.testing.assert_close(weight_of.data.grad, torch.tensor([[1.0, 0.0], [2.0, 2.0]]))


@pytest.mark.parametrize("kind", sorted({type(case.op) for case in all_cases()}, key=lambda op: op.name))
def test_every_op_runs_on_many_feeds_at_once(kind: type[Op]) -> None:
    for case in all_cases():
        if type(case.op) is not kind or not case.inputs:
            continue
        module = GraphModule(case.graph, train=())
        (expected, _), (actual, _) = (
            module.stacked({n: torch.stack([t, t]) for n, t in case.inputs.items()}, vectorize=vectorize)
            for vectorize in (False, True)
        )
        for name, tensor in expected.items():
            require_close(f"{case.name}, output {name}", tensor, actual[name], scaled=True)
