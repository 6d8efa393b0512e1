"""Losses: the formulas that they name, for labels, teachers, hidden states and attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardy.compiler.calibration import Samples
from hardy.compiler.errors import InputError, UsageError
from hardy.compiler.ir import Builder, Graph, Value
from hardy.compiler.models import trace
from hardy.compiler.training import (
    CrossEntropy,
    GraphModule,
    Loss,
    MatchAttention,
    MatchHidden,
    MatchOutputs,
    Seen,
    SoftTargets,
    Taught,
    Weighted,
)
from hardy.compiler.training.distill import distill, named_value, teaching
from hardy.compiler.training.losses import Remembered, remember
from hardy.compiler.types import DType, TensorType
from tests.training.nets import classes, perceptron


def outputs(ours: Tensor, theirs: Tensor, **feed: Tensor) -> Seen:
    return Seen(feed, {"y": ours}, teacher=Seen(feed, {"y": theirs}))


def test_cross_entropy_is_torchs_over_all_rows() -> None:
    logits, label = torch.randn(4, 2, 5), torch.randint(0, 5, (4, 2))
    seen = Seen({"label": label}, {"y": logits})
    expected = F.cross_entropy(logits.reshape(8, 5), label.reshape(8), label_smoothing=0.1)
    assert torch.equal(CrossEntropy(smoothing=0.1)(seen), expected)


def test_soft_targets_are_the_divergence_at_a_temperature() -> None:
    ours, theirs = torch.randn(6, 1, 3), torch.randn(6, 1, 3)
    p, q = (theirs / 3).softmax(-1), (ours / 3).softmax(-1)
    expected = 9 * (p * (p.log() - q.log())).sum(-1).mean()
    torch.testing.assert_close(SoftTargets(3.0)(outputs(ours, theirs)), expected)
    assert float(SoftTargets(3.0)(outputs(theirs, theirs))) == pytest.approx(0, abs=1e-6)


def test_matching_outputs_is_the_mean_squared_error() -> None:
    ours, theirs = torch.randn(6, 3), torch.randn(6, 3)
    torch.testing.assert_close(MatchOutputs()(outputs(ours, theirs)), (ours - theirs).square().mean())


def test_a_sum_weighs_its_losses() -> None:
    ours, theirs = torch.randn(6, 1, 3), torch.randn(6, 1, 3)
    seen = outputs(ours, theirs, label=torch.zeros(6, 1, dtype=torch.long))
    loss = teaching("label", 0.25, 2.0)(seen)
    torch.testing.assert_close(loss, 0.25 * CrossEntropy()(seen) + 0.75 * SoftTargets(2.0)(seen))


def value(*shape: int) -> Value:
    return Builder().input("x", TensorType(DType.f32, shape))


@pytest.mark.parametrize(("shape", "axis"), [((1, 4, 6), -1), ((1, 6, 2, 2), 2)])
def test_hidden_states_of_one_width_are_compared_as_they_are(shape: tuple[int, ...], axis: int) -> None:
    ours, theirs = value(*shape), value(*shape)
    a, b = torch.randn(3, *shape), torch.randn(3, *shape)
    seen = Seen({}, {}, {ours: a}, Seen({}, {}, {theirs: b}))
    torch.testing.assert_close(MatchHidden([(ours, theirs)])(seen), F.mse_loss(a, b))
    cosine = MatchHidden([(ours, theirs)], "cosine")(seen)
    torch.testing.assert_close(cosine, 1 - F.cosine_similarity(a, b, dim=axis).mean())


def test_hidden_states_of_other_widths_are_projected_and_the_projection_learns() -> None:
    ours, theirs = value(1, 4, 2, 2), value(1, 6, 2, 2)
    loss = MatchHidden([(ours, theirs)])
    (weight,) = loss.parameters()
    assert weight.shape == (6, 4)
    a, b = torch.randn(3, 1, 4, 2, 2), torch.randn(3, 1, 6, 2, 2)
    result = loss(Seen({}, {}, {ours: a}, Seen({}, {}, {theirs: b})))
    torch.testing.assert_close(result, F.mse_loss(torch.einsum("oc,nbchw->nbohw", weight, a), b))
    result.backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_hidden_states_of_other_positions_are_refused() -> None:
    with pytest.raises(UsageError, match="differ in more than their channels"):
        MatchHidden([(value(1, 4, 6), value(1, 5, 6))])


class Attends(nn.Module):
    """Layers of attention over five positions, with a causal mask."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.inside = nn.Linear(4, width)
        self.layers = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.out = nn.Linear(width, 3)

    def forward(self, input: Tensor) -> Tensor:
        x = self.inside(input)
        for layer in self.layers:
            q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in layer(x).chunk(3, -1))
            x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.out(x)


def attends(width: int, heads: int, layers: int, seed: int) -> Graph:
    torch.manual_seed(seed)
    return trace(Attends(width, heads, layers), (torch.zeros(1, 5, 4),))


def sequences(count: int = 32) -> Samples:
    x = torch.randn(count, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    return Samples(lambda: [{"input": each} for each in x])


@pytest.mark.parametrize("heads", [2, 4])
def test_a_student_learns_what_its_teacher_looks_at(heads: int) -> None:
    teacher, student = attends(8, 2, 2, seed=0), attends(8, heads, 1, seed=1)
    loss = MatchAttention(student, teacher)
    assert loss.pairs[0][1] is [n for n in teacher.nodes if n.op.name == "attention"][-1]
    _, history = distill(teacher, student, sequences(), loss, epochs=15, rate=3e-3, batch=16)
    assert history.epochs[-1] < 0.7 * history.epochs[0]


def test_attention_that_is_the_same_costs_nothing() -> None:
    teacher = attends(8, 2, 1, seed=0)
    loss = Taught(teacher, MatchAttention(teacher, teacher))
    module = GraphModule(teacher)
    feed = {"input": torch.randn(3, 1, 5, 4)}
    results, values = module.batch(feed, loss.watch)
    found = loss(Seen(feed, results, dict(zip(loss.watch, values, strict=True))))
    assert float(found.detach()) == pytest.approx(0, abs=1e-6)


def test_graphs_without_attention_are_refused() -> None:
    with pytest.raises(UsageError, match="0 attention ops in the student"):
        MatchAttention(perceptron(), attends(8, 2, 1, seed=0))


def test_remembered_outputs_give_the_losses_of_a_teacher_that_runs() -> None:
    teacher, student, samples = perceptron(32, seed=1), perceptron(4), classes(40)
    options: dict[str, Any] = {"epochs": 2, "rate": 0.01, "batch": 8}
    loss = teaching("label", 0.1, 2.0)
    _, running = distill(teacher, student, samples, loss, **options)
    _, held = distill(teacher, student, samples, loss, remembered=True, **options)
    assert running.losses == pytest.approx(held.losses, rel=1e-5)
    first = next(iter(remember(teacher, samples)))
    assert set(first) == {"input", "label", "teacher's output"}


def test_what_cannot_be_remembered_is_refused() -> None:
    graph = perceptron()
    relu = next(n.values[0] for n in graph.nodes if n.op.name == "relu")
    with pytest.raises(UsageError, match="hidden states of the teacher are not remembered"):
        Remembered(MatchHidden([(relu, relu)]))
    with pytest.raises(UsageError, match="changed inputs cannot be remembered"):
        distill(graph, graph, classes(4), remembered=True, augment=lambda f, g: f, epochs=1, rate=0.1)


@pytest.mark.parametrize("loss", [MatchOutputs(), SoftTargets()])
def test_losses_on_a_teacher_need_one(loss: Loss) -> None:
    with pytest.raises(UsageError, match="needs a teacher"):
        loss(Seen({}, {"y": torch.zeros(2, 1, 3)}))


def test_mistakes_in_losses_are_told() -> None:
    with pytest.raises(InputError, match="the samples hold no 'label'"):
        CrossEntropy()(Seen({"x": torch.zeros(1)}, {"y": torch.zeros(2, 1, 3)}))
    with pytest.raises(UsageError, match="the loss needs one output"):
        CrossEntropy()(Seen({"label": torch.zeros(1)}, {"y": torch.zeros(1), "z": torch.zeros(1)}))
    with pytest.raises(UsageError, match="temperature must be above 0"):
        SoftTargets(0.0)
    with pytest.raises(UsageError, match=r"must be in 0..1"):
        teaching("label", 1.5)
    with pytest.raises(UsageError, match="sum of no losses"):
        Weighted([])
    with pytest.raises(UsageError, match="differ in shape"):
        MatchOutputs()(outputs(torch.zeros(2, 3), torch.zeros(2, 4)))
    with pytest.raises(UsageError, match="nothing in Sequential is called 'head'"):
        named_value(perceptron(), "head")


def test_graphs_run_and_learn_on_another_device() -> None:
    """On `meta` nothing is computed, but a tensor left on the CPU is an error."""
    module = GraphModule(attends(8, 2, 1, seed=0)).to("meta")
    results, _ = module.batch({"input": torch.zeros(3, 1, 5, 4, device="meta")})
    results["output"].sum().backward()
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in module.parameters())
