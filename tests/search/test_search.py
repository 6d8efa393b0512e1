"""The search: what is within the budget and better is chosen, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hardy.compiler.calibration import Samples
from hardy.compiler.errors import HardyError, UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.models import trace
from hardy.compiler.search import RECIPES, Goal, Recipe, Search, find_metric
from hardy.compiler.search.interval import paired_drop
from hardy.compiler.search.recipes import OBJECTIVES, QUANTIZED
from hardy.compiler.timing import Timing
from hardy.compiler.types import DType
from hardy.passes import DEFAULT, PruneChannels, Quantize
from hardy.passes.layers import layers
from hardy.targets.target import find_target

DATA = torch.randn(40, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> Graph:
    """A classifier of which half of the hidden channels do nothing."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    ).eval()
    with torch.no_grad():
        for i in (0, 2):
            module[i].weight[8:] = 0
            module[i].bias[8:] = 0
    return trace(module, (torch.zeros(1, 1, 8, 8),))


def dense_network() -> Graph:
    """A classifier of random weights, most of them in one matrix."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 5)).eval()
    return trace(module, (torch.zeros(1, 1, 8, 8),))


def labelled(graph: Graph) -> Samples:
    feeds = [{"input": x, "label": run(graph, {"input": x})["output"].argmax(-1)} for x in DATA]
    return Samples(lambda: feeds)


def search(graph: Graph, recipes: Sequence[Recipe], goal: Goal, metric: str = "accuracy") -> Search:
    return Search(
        graph,
        find_target("reference"),
        labelled(graph),
        find_metric(metric),
        goal,
        calibration=8,
        recipes=recipes,
        seconds=0.05,
    )


def narrow(macs: float) -> Recipe:
    return Recipe(f"narrow {macs}", lambda skip: (*DEFAULT, PruneChannels(macs=macs, multiple=1), ...))


def random_weights() -> Recipe:
    """Keeps hardly anything of what the network does."""
    return Recipe("ruin", lambda skip: (*DEFAULT, PruneChannels(ratio=0.9, multiple=1, least=0.0), ...))


def test_the_smallest_candidate_within_the_budget_is_chosen() -> None:
    found = search(network(), (narrow(0.8), narrow(0.4), random_weights()), Goal("macs", 0.1))
    trials = list(found.run())
    assert [t.within for t in trials] == [True, True, False]
    assert found.chosen is trials[1]
    assert found.best is not None
    assert found.refusal() == ""
    feed = {"input": DATA[0]}
    torch.testing.assert_close(found.best.run(feed)["output"], run(network(), feed)["output"])
    assert trials[1].macs is not None
    assert trials[1].macs <= 0.4
    assert [t.name for t in found.front()] == ["ruin", "narrow 0.4"]


def test_the_original_is_kept_where_nothing_is_within_the_budget() -> None:
    graph = network()
    found = search(graph, (random_weights(),), Goal("macs", 0.01))
    list(found.run())
    assert found.chosen is None
    assert "no candidate is within the budget" in found.refusal()
    assert found.best is not None
    feed = {"input": DATA[0]}
    assert torch.equal(found.best.run(feed)["output"], run(graph, feed)["output"])


def test_the_original_is_kept_where_nothing_is_better() -> None:
    found = search(network(), (Recipe("nothing", lambda skip: (...,)),), Goal("macs", 0.5))
    list(found.run())
    assert found.chosen is None
    assert "is better in macs" in found.refusal()


def test_layers_that_hurt_most_are_spared_until_the_budget_holds() -> None:
    def build(skip: Sequence[str]) -> tuple[Any, ...]:
        quantize = Quantize(weights=DType.i4, method="min_max", skip=tuple(skip), least_macs=0)
        return (*DEFAULT, quantize, ...)

    found = search(network(), (Recipe("mixed", build, QUANTIZED),), Goal("size", 1e-3), "cosine")
    trials = list(found.run())
    assert not trials[0].spared
    assert not trials[0].within
    assert [len(t.spared) for t in trials] == [0, 1, 2][: len(trials)]
    names = {layer.name for layer in layers(network())}
    assert set(trials[-1].spared) < names


def test_a_candidate_that_cannot_be_built_is_reported_and_the_search_goes_on() -> None:
    broken = Recipe("broken", lambda skip: (*DEFAULT, PruneChannels(macs=0.0), ...))
    found = search(network(), (broken, narrow(0.5)), Goal("macs", 0.1))
    trials = list(found.run())
    assert "of the MACs can be removed" in trials[0].error
    assert found.chosen is trials[1]


def test_a_search_that_is_stopped_has_the_best_so_far() -> None:
    found = search(network(), (narrow(0.6), narrow(0.4)), Goal("macs", 0.1))
    first = next(iter(found.run()))
    assert found.chosen is first
    late = search(network(), (narrow(0.6),), Goal("macs", 0.1))
    assert list(late.run(deadline=time.monotonic() - 1)) == []
    assert late.best is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": Samples(lambda: DATA[:8])}, "all for calibration"),
        ({"samples": Samples(list)}, "holds no samples"),
        ({"samples": Samples(lambda: DATA)}, "the data has no 'label'"),
        ({"metric": lambda o, f, e: "good"}, "not a finite number"),
        ({"metric": lambda o, f, e: float("nan")}, "not a finite number"),
        ({"goal": Goal("macs", -1.0)}, "must not be negative"),
    ],
)
def test_what_cannot_be_searched_is_refused(change: dict[str, Any], message: str) -> None:
    found = search(network(), (narrow(0.5),), Goal("macs", 0.1))
    for name, value in change.items():
        setattr(found, name, value)
    with pytest.raises(HardyError, match=message):
        list(found.run())


def test_a_metric_that_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match="no metric 'bleu'"):
        find_metric("bleu")


def test_the_interval_holds_the_drop_and_narrows_with_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    before = (torch.rand(400, generator=generator) < 0.9).double()
    after = (torch.rand(400, generator=generator) < 0.8).double()
    many, few = paired_drop(before, after), paired_drop(before[:40], after[:40])
    assert many.low < float((before - after).mean()) == many.mean < many.high
    assert many.high - many.low < few.high - few.low
    assert paired_drop(before, after) == many


def test_no_mistake_seen_is_not_none_possible() -> None:
    right = torch.ones(100).double()
    assert paired_drop(right, right).high == pytest.approx(0.03)


def test_size_is_that_of_coded_weights_and_the_smallest_form_within_the_budget_is_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The cosine stays high with few values a layer, and not with nine of ten weights gone."""
    even = Timing(1e-3, 1e-3, 1e-3, 5)
    monkeypatch.setattr(
        "hardy.compiler.search.search.time_in_turn", lambda calls, seconds: dict.fromkeys(calls, even)
    )
    names = (
        "coded",
        "int4 weights in 64s",
        "shared at 26 dB",
        "shared at 20 dB",
        "zeros 90 %, shared at 20 dB",
    )
    recipes = [replace(r, spares=None) for r in RECIPES if r.name in names]
    found = search(dense_network(), recipes, Goal("size", 0.02), "cosine")
    trials = {t.name: t for t in found.run()}
    assert [t.error for t in trials.values()] == [""] * len(names)
    weights = {name: t.weights for name, t in trials.items()}
    assert trials["coded"].metric == 1.0
    assert 0.7 < weights["coded"] < 1
    assert weights["int4 weights in 64s"] < 0.2
    assert weights["shared at 20 dB"] < weights["shared at 26 dB"] < 0.25
    assert weights["zeros 90 %, shared at 20 dB"] < 0.5 * weights["shared at 20 dB"]
    assert not trials["zeros 90 %, shared at 20 dB"].within
    within = [t for t in trials.values() if t.within]
    assert found.chosen is min(within, key=lambda t: t.size)
    assert found.best is not None
    found.best.save(tmp_path / "best")
    saved = sum(f.stat().st_size for f in (tmp_path / "best").rglob("*") if f.is_file())
    assert found.chosen.size == saved / found.bytes
    assert "shared" in found.chosen.name or "int4" in found.chosen.name


def test_recipes_that_cannot_serve_the_objective_are_not_tried() -> None:
    found = search(network(), (replace(narrow(0.5), serves=("size",)), narrow(0.4)), Goal("macs", 0.1))
    assert [t.name for t in found.run()] == ["narrow 0.4"]
    for objective in OBJECTIVES:
        assert any(objective in r.serves for r in RECIPES)


def test_what_is_slower_each_time_it_is_timed_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = iter([1.5, 1.1, 1.0, 1.5, 1.4, 1.3])

    def timed(calls: Any, seconds: float) -> dict[str, Timing]:
        return {name: Timing(1.0 if name == "original" else next(ratios), 0, 0, 5) for name in calls}

    monkeypatch.setattr("hardy.compiler.search.search.time_in_turn", timed)
    found = search(network(), (narrow(0.6), narrow(0.4)), Goal("macs", 0.1))
    disturbed, slow = found.run()
    assert (disturbed.latency, slow.latency) == (1.0, 1.3)
    assert found.chosen is disturbed
