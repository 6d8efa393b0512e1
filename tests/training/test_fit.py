"""The training loop: it learns, it repeats, and it refuses what it cannot do."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hardy.compiler.calibration import Samples
from hardy.compiler.errors import HardyError, InputError, UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.text import print_graph
from hardy.compiler.training import CrossEntropy, GraphModule, fit
from hardy.compiler.training.batches import Batches, Shard
from hardy.compiler.training.fit import rate_factor
from tests.training.nets import classes, perceptron


def fitted(graph: Graph, samples: Samples, **options: object) -> tuple[Graph, list[float]]:
    module = GraphModule(graph)
    history = fit(module, samples, CrossEntropy(), **({"epochs": 2, "rate": 0.01, "batch": 8} | options))
    return module.to_graph(), history.losses


def test_training_lowers_the_loss_and_leaves_the_graph_alone() -> None:
    graph = perceptron()
    before = print_graph(graph)
    trained, losses = fitted(graph, classes(), epochs=10)
    assert losses[-1] < 0.3 * losses[0]
    assert print_graph(graph) == before
    assert print_graph(trained) != before


def test_the_first_steps_are_those_of_torch() -> None:
    graph, samples = perceptron(), classes(20)
    _, losses = fitted(graph, samples, epochs=1, rate=0.1, optimizer="sgd", schedule="constant", seed=3)
    module = GraphModule(graph)
    weights = [p.detach().clone().requires_grad_() for p in module.parameters()]
    descent = torch.optim.SGD(weights, 0.1, momentum=0.9)
    by_shape = {tuple(w.shape): w for w in weights}
    expected = []
    for batch in Batches(samples, graph.input_types(), 8, seed=3).epoch(0):
        first = by_shape[(16, 8)] if (16, 8) in by_shape else by_shape[(8, 16)].T
        second = by_shape[(3, 16)] if (3, 16) in by_shape else by_shape[(16, 3)].T
        hidden = F.relu(batch["input"][:, 0] @ first.T + by_shape[(16,)])
        loss = F.cross_entropy(hidden @ second.T + by_shape[(3,)], batch["label"][:, 0])
        descent.zero_grad()
        loss.backward()
        descent.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    graph, samples = perceptron(), classes()
    first, again, other = (print_graph(fitted(graph, samples, seed=s)[0]) for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_feeds_one_by_one_train_as_those_together_do() -> None:
    graph, samples = perceptron(), classes(12)
    _, together = fitted(graph, samples)
    _, single = fitted(graph, samples, vectorize=False)
    assert together == pytest.approx(single, rel=1e-5)


def test_data_that_outgrows_memory_is_read_again_and_shuffled_in_windows() -> None:
    samples, types = classes(21), perceptron().input_types()
    whole = Batches(samples, types, 4)
    windowed = Batches(samples, types, 4, window=9 * (8 * 4 + 8))
    assert windowed.kept is None
    assert whole.per_epoch == windowed.per_epoch == 6
    sizes = [len(b["label"]) for b in windowed.epoch(0)]
    assert sizes == [4, 4, 4, 4, 4, 1]

    def seen(batches: Batches, epoch: int) -> list[list[float]]:
        return [row for b in batches.epoch(epoch) for row in b["input"][:, 0].tolist()]

    assert sorted(seen(windowed, 0)) == sorted(seen(whole, 0))
    assert seen(windowed, 0) == seen(windowed, 0)
    assert seen(windowed, 0) != seen(windowed, 1)


@pytest.mark.parametrize("window", [1 << 20, 9 * 40])
def test_skipped_batches_are_those_that_came_first(window: int) -> None:
    batches = Batches(classes(21), perceptron().input_types(), 4, window=window)
    full = [b["input"] for b in batches.epoch(1)]
    for skip in (0, 1, 3, 6):
        rest = [b["input"] for b in batches.epoch(1, skip)]
        assert len(rest) == 6 - skip
        assert all(torch.equal(a, b) for a, b in zip(rest, full[skip:], strict=True))


def test_shards_share_out_every_row() -> None:
    batch = {"x": torch.arange(7)}
    parts = [Shard(rank, 3)(batch) for rank in range(3)]
    assert torch.equal(torch.cat([part["x"] for part, _ in parts]), batch["x"])
    assert sum(share for _, share in parts) == pytest.approx(1)
    rows, share = Shard(0, 9)(batch)
    assert len(rows["x"]) == 1
    assert share == 0


def test_schedules_start_and_end_where_they_say() -> None:
    assert [rate_factor("constant", s, 9) for s in (0, 8)] == [1, 1]
    assert rate_factor("cosine", 0, 100) == 1
    assert rate_factor("cosine", 99, 100) < 1e-3
    assert rate_factor("one_cycle", 0, 101) == pytest.approx(1 / 25)
    assert rate_factor("one_cycle", 30, 101) == pytest.approx(1)
    assert rate_factor("one_cycle", 100, 101) < 1e-5


def test_the_norm_of_the_gradients_is_bounded() -> None:
    graph, samples = perceptron(), classes(8)
    options = {"epochs": 1, "optimizer": "sgd", "schedule": "constant", "rate": 1.0, "clip_norm": 1e-3}
    before = GraphModule(graph)
    after = GraphModule(fitted(graph, samples, **options)[0])
    moved = [a - b for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    norm = math.sqrt(sum(float(m.detach().square().sum()) for m in moved))
    assert norm == pytest.approx(1e-3, rel=1e-2)


def test_a_loss_that_explodes_is_an_error() -> None:
    with pytest.raises(HardyError, match=r"the loss is (nan|inf) in step"):
        fitted(perceptron(), classes(), optimizer="sgd", rate=1e30, epochs=5)


def test_labels_that_are_missing_or_too_many_are_refused() -> None:
    graph, samples = perceptron(), classes(8)
    unlabelled = Samples(lambda: [{"input": feed["input"]} for feed in samples])
    with pytest.raises(InputError, match="no 'label'"):
        fitted(graph, unlabelled)
    twice = Samples(lambda: [{"input": f["input"], "label": f["label"].repeat(2)} for f in samples])
    with pytest.raises(InputError, match="16 labels 'label' for 8 rows"):
        fitted(graph, twice)


def test_samples_of_different_shapes_are_refused() -> None:
    samples = classes(4)
    ragged = Samples(lambda: [{**f, "label": f["label"].repeat(i + 1)} for i, f in enumerate(samples)])
    with pytest.raises(InputError, match="differ in the shape or type of 'label'"):
        fitted(perceptron(), ragged)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"rate": 0.0}, {"batch": 0}, {"optimizer": "adam"}])
def test_options_that_train_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        fitted(perceptron(), classes(8), **options)
