"""Removal of channels: how many, which, and what is refused."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hardy.compiler.cost import estimate_seconds, statistics
from hardy.compiler.errors import UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.models import trace
from hardy.compiler.pipeline import Pipeline, random_inputs
from hardy.compiler.types import DType
from hardy.compiler.verify import verify
from hardy.passes import PruneChannels
from hardy.passes.channel_groups import channel_groups
from hardy.passes.channel_scores import unit_scores
from hardy.passes.layers import layers
from hardy.targets.target import Device, Memory
from tests.pruning import architecture


class Block(nn.Module):
    """A residual block between a stem and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 24, 3, padding=1)
        self.second = nn.Conv2d(24, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.second(torch.relu(self.first(x)))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


@functools.cache
def block() -> Graph:
    torch.manual_seed(0)
    return trace(Block().eval(), (torch.zeros(1, 3, 8, 8),), self_test=False)


def widths(graph: Graph) -> dict[str, int]:
    return {layer.name: layer.weight.type.shape[layer.out_axis] for layer in layers(graph)}


def two_layers(first: Tensor, second: Tensor) -> Graph:
    module = nn.Sequential(nn.Linear(*first.T.shape), nn.ReLU(), nn.Linear(*second.T.shape)).eval()
    with torch.no_grad():
        module[0].weight.copy_(first)
        module[2].weight.copy_(second)
    return trace(module, (torch.zeros(1, first.shape[1]),), self_test=False)


@pytest.mark.parametrize("score", ["magnitude", "wanda", "first_order"])
@settings(max_examples=8, deadline=None)
@given(macs=st.floats(0.25, 1.0), multiple=st.sampled_from([1, 4, 8]))
def test_no_more_macs_are_left_than_asked_for(score: str, macs: float, multiple: int) -> None:
    graph = block()
    data = [random_inputs(graph.input_types(), i) for i in range(2)]
    after = PruneChannels(macs=macs, score=score, multiple=multiple, least=0.0, calibration=data).run(graph)
    verify(after)
    assert statistics(after).macs <= macs * statistics(graph).macs
    assert after.input_types() == graph.input_types()
    assert after.output_types() == graph.output_types()
    left = widths(after)
    assert left["stem.weight"] == left["second.weight"]
    assert left["head.weight"] == 5
    for name in ("stem.weight", "first.weight"):
        assert left[name] % multiple == 0
        assert left[name] > 0


def test_no_channel_goes_that_need_not_go() -> None:
    """Putting any step back would break the budget."""
    graph = block()
    after = PruneChannels(macs=0.6, multiple=8).run(graph)
    assert widths(after) == {"stem.weight": 16, "first.weight": 8, "second.weight": 16, "head.weight": 5}


def test_a_ratio_takes_the_same_share_of_every_group() -> None:
    assert widths(PruneChannels(ratio=0.5).run(block())) == {
        "stem.weight": 8,
        "first.weight": 12,
        "second.weight": 8,
        "head.weight": 5,
    }
    only = PruneChannels(ratio=0.5, only=("first*",)).run(block())
    assert widths(only)["stem.weight"] == 16
    assert widths(only)["first.weight"] == 12
    assert widths(PruneChannels(ratio=1.0, least=0.0).run(block()))["first.weight"] == 1
    assert widths(PruneChannels(ratio=1.0, least=0.25).run(block()))["first.weight"] == 6


def test_all_macs_or_no_ratio_leaves_the_graph_alone() -> None:
    graph = block()
    assert PruneChannels(macs=1.0).run(graph) is graph
    assert PruneChannels(ratio=0.0).run(graph) is graph


def test_the_weakest_neurons_go() -> None:
    first = torch.tensor([[1.0, 1.0], [5.0, 5.0], [0.1, 0.1], [3.0, 3.0]])
    graph = two_layers(first, torch.ones(2, 4))
    after = PruneChannels(ratio=0.5).run(graph)
    assert torch.equal(next(layers(after)).data, first[[1, 3]])


def test_activations_decide_with_wanda() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    graph = two_layers(first, torch.ones(2, 2))
    quiet = [{"input": torch.tensor([[4.0, 0.1]])}]
    by_size = PruneChannels(ratio=0.5).run(graph)
    by_effect = PruneChannels(ratio=0.5, score="wanda", calibration=quiet).run(graph)
    assert torch.equal(next(layers(by_size)).data, first[[1]])
    assert torch.equal(next(layers(by_effect)).data, first[[0]])


def test_first_order_scores_of_units_are_the_change_of_the_loss() -> None:
    first, second = torch.randn(3, 2), torch.randn(2, 3)
    graph = two_layers(first, second)
    data = [{"input": torch.randn(1, 2)} for _ in range(3)]
    channels = channel_groups(graph)
    (scores,) = unit_scores(channels, channels.groups, "first_order", data, "label")
    expected = torch.zeros(3)
    biases = [node.op.literal.tensor for node in graph.nodes if node.name.endswith("bias")]
    for feed in data:
        w = first.clone().requires_grad_()
        y = torch.relu(feed["input"] @ w.T + biases[0]) @ second.T + biases[1]
        (y.square().sum() / 2).backward()
        assert w.grad is not None
        expected += (w.detach() * w.grad).sum(1).square() / 3
    torch.testing.assert_close(torch.from_numpy(scores).float(), expected)


def test_channels_fill_the_vectors_of_the_target() -> None:
    after = widths(PruneChannels(macs=0.6, target="cpu:avx2").run(block()))
    assert all(n % 8 == 0 for name, n in after.items() if name != "head.weight")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "vit_b16", "gpt2")]


@pytest.mark.parametrize("name", ["mobilenet_v3", "llama_small", *SLOW])
def test_well_known_networks_lose_four_tenths_of_their_macs(name: str) -> None:
    pytest.importorskip("transformers", reason="pip install 'hardy[models]'")
    graph = architecture(name, True)
    within = {"vit_b16": 0.6, "gpt2": 0.8, "llama_small": 0.8}.get(name, 0.6)
    after = PruneChannels(macs=within).run(graph)
    verify(after)
    assert 0.9 * within < statistics(after).macs / statistics(graph).macs <= within
    outputs = run(after, random_inputs(graph.input_types()))
    assert all(bool(y.isfinite().all()) for y in outputs.values())


def test_the_report_shows_groups_what_stays_and_what_to_expect() -> None:
    (record,) = Pipeline((PruneChannels(macs=0.6, target="cpu:avx2"),)).run(block()).records
    assert record.notes["refused"] == [{"layers": 1, "reason": "an output of the graph has it"}]
    assert record.notes["groups"] == [
        {"group": "stem.weight", "layers": 2, "units": 16, "kept": 16},
        {"group": "first.weight", "layers": 1, "units": 24, "kept": 8},
    ]
    macs, size, seconds = record.notes["expected"]
    assert (macs["before"], macs["after"]) == (record.before.macs, record.after.macs)
    assert (size["before"], size["after"]) == (record.before.bytes, record.after.bytes)
    assert seconds["expected"].startswith("seconds on one x86_64 core")
    assert seconds["after"] < seconds["before"]


def test_a_budget_that_cannot_be_met_is_refused_with_what_is_possible() -> None:
    graph = block()
    with pytest.raises(
        UsageError, match=r"no more than 9\d\.\d% of the MACs can be removed, 99.9%"
    ) as caught:
        PruneChannels(macs=0.001).run(graph)
    assert "an output of the graph has it" in caught.value.hint
    with pytest.raises(UsageError, match=r"no more than 0\.0% of the MACs"):
        PruneChannels(macs=0.5).run(two_layers(torch.ones(1, 2), torch.ones(2, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"macs": 0.5, "ratio": 0.5}, "either macs or ratio"),
        ({"macs": 1.5}, "macs must lie in"),
        ({"ratio": -0.5}, "ratio must lie in"),
        ({"macs": 0.5, "least": 2.0}, "least must lie in"),
        ({"macs": 0.5, "multiple": 0}, "multiple must be at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PruneChannels(**options)


def test_pruning_without_a_goal_is_refused_when_it_runs() -> None:
    with pytest.raises(UsageError, match="needs macs or ratio"):
        PruneChannels().run(block())


def test_a_target_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="must be a target or its name, got int"):
        PruneChannels(ratio=0.5, target=3).run(block())


def test_expected_time_is_the_roofline() -> None:
    graph = two_layers(torch.ones(4, 2), torch.ones(2, 4))
    slow = Device("slow", "test", peak={DType.f32: 2.0}, memories=(Memory("all", 1 << 20, 1e12),))
    # 8 and 8 multiply-adds are two operations each; the sums and the rectifier compute 4, 4 and 2 elements.
    assert estimate_seconds(graph, slow) == pytest.approx((16 + 16 + 4 + 4 + 2) / 2)
    narrow = Device("narrow", "test", peak={DType.f32: 1e12}, memories=(Memory("all", 1 << 20, 1.0),))
    moved = [(2 + 8 + 4), (4 + 4 + 4), (4 + 4), (4 + 8 + 2), (2 + 2 + 2)]
    assert estimate_seconds(graph, narrow) == pytest.approx(4 * sum(moved))
    assert estimate_seconds(graph, narrow, lambda node: 1.0) == len(graph.nodes)
    assert estimate_seconds(graph, Device("unknown", "test")) is None
