"""Which channels go together: what the analysis finds, and that removal is the same as zeros."""

from __future__ import annotations

import functools
from collections.abc import Callable

import expecttest
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hardy.compiler.cost import statistics
from hardy.compiler.errors import UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.models import trace
from hardy.compiler.pipeline import random_inputs
from hardy.compiler.verify import verify
from hardy.passes.channel_groups import Channels, channel_groups, choose
from hardy.passes.channel_rules import factor
from hardy.passes.shrink import shrink
from tests.models.zoo import ZOO
from tests.pruning import architecture, require_removal_is_zeroing, some_removed
from tests.rewriting import body, read
from tests.strategies import graphs


def listed(channels: Channels) -> str:
    """Groups with the number and width of their units, then what stays and why."""
    lines = [f"{g.name} {len(g.units)} x {g.width}: {', '.join(g.producers)}" for g in channels.groups]
    return "\n".join([*lines, *[f"{name} stays: {why}" for name, why in channels.refused.items()]])


@functools.cache
def residual() -> Graph:
    return traced(Residual(), torch.zeros(1, 3, 4, 4))


@functools.cache
def dense() -> Graph:
    return traced(Dense(), torch.zeros(1, 2, 5, 5))


@functools.cache
def index() -> Graph:
    return traced(Index(), torch.zeros(2, 4))


def traced(module: nn.Module, *inputs: Tensor) -> Graph:
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return trace(module.eval(), inputs, self_test=False)


class Residual(nn.Module):
    """A trunk of two convolutions that are added, one of them depthwise, into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 1)
        self.back = nn.Conv2d(5, 6, 1)
        self.depthwise = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.head = nn.Linear(12 * 4, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.back(torch.relu(self.inner(x)))
        return self.head(torch.flatten(torch.max_pool2d(self.depthwise(x), 2), 1))


class Dense(nn.Module):
    """Branches that are concatenated, normalized in groups, sliced and padded."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 1)
        self.b = nn.Conv2d(2, 8, 1)
        self.norm = nn.GroupNorm(6, 12)
        self.grouped = nn.Conv2d(12, 12, 3, groups=12)
        self.last = nn.Conv2d(14, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        y = torch.nn.functional.gelu(self.grouped(self.norm(y)))
        first, second = y[:, :4], y[:, 4:]
        return self.last(torch.nn.functional.pad(torch.cat([second, first], 1), (0, 0, 0, 0, 1, 1)))


class Summed(nn.Module):
    """Channels that are added up."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.first(x)).sum(1)


class Index(nn.Module):
    """Half of the channels, in another order, into one layer, and all of them into another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.some = nn.Linear(3, 2)
        self.all = nn.Linear(6, 2)
        self.register_buffer("order", torch.tensor([5, 1, 3]))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        return self.some(y.index_select(1, self.order)) + self.all(y)


class TestWhatIsFound(expecttest.TestCase):
    def test_a_residual_sum_a_depthwise_convolution_and_a_flattened_axis(self) -> None:
        channels = channel_groups(residual())
        self.assertExpectedInline(
            listed(channels),
            """\
stem.weight 6 x 1: stem.weight, back.weight, depthwise.weight
inner.weight 5 x 1: inner.weight
head.weight stays: an output of the graph has it""",
        )

    def test_concatenation_groups_slices_and_padding(self) -> None:
        channels = channel_groups(dense())
        self.assertExpectedInline(
            listed(channels),
            """\
a.weight 2 x 2: a.weight, grouped.weight
b.weight 4 x 2: b.weight, grouped.weight
last.weight stays: an output of the graph has it""",
        )

    def test_grouped_query_attention_and_gated_neurons(self) -> None:
        lines = listed(channel_groups(architecture("llama_small", True))).splitlines()
        first = [line.replace("model.model.layers.0.", "") for line in lines if "layers.0" in line]
        self.assertExpectedInline(
            "\n".join(first),
            """\
self_attn.q_proj.weight 4 x 16: self_attn.q_proj.weight, self_attn.k_proj.weight, self_attn.v_proj.weight
mlp.gate_proj.weight 128 x 1: mlp.gate_proj.weight, mlp.up_proj.weight
self_attn.o_proj.weight stays: rms_norm takes its statistics over it
mlp.down_proj.weight stays: rms_norm takes its statistics over it""",
        )

    def test_channels_that_a_sum_takes_all_of_stay(self) -> None:
        channels = channel_groups(traced(Summed(), torch.zeros(2, 4)))
        self.assertExpectedInline(listed(channels), """first.weight stays: reduce_sum takes all of it""")

    def test_a_graph_without_some_channels_is_written_anew(self) -> None:
        graph = read("""
            graph main(%x: f32[1,2]) {
              %w: f32[2,4] = constant([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
              %b: f32[4] = constant([0.1, 0.2, 0.3, 0.4])
              %v: f32[4,1] = constant([[1.0], [2.0], [3.0], [4.0]])
              %0: f32[1,4] = matmul(%x, %w)
              %1: f32[1,4] = add(%0, %b)
              %2: f32[1,2,2] = reshape(%1, shape=(1, 2, 2))
              %3: f32[2,1,2] = transpose(%2, permutation=(1, 0, 2))
              %4: f32[1,2,2] = transpose(%3, permutation=(1, 0, 2))
              %5: f32[1,4] = reshape(%4, shape=(1, 4))
              %6: f32[1,1] = matmul(%5, %v)
              return %6 as y
            }
        """)
        channels = channel_groups(graph)
        removed = channels.nothing()
        removed[channels.groups[0].units[0]] = True
        self.assertExpectedInline(
            body(shrink(channels, removed)),
            """\
%w: f32[2,2] = constant([[3.0, 4.0], [7.0, 8.0]])
%0: f32[1,2] = matmul(%x, %w)
%b: f32[2] = constant([0.30000001192092896, 0.4000000059604645])
%1: f32[1,2] = add(%0, %b)
%2: f32[1,1,2] = reshape(%1, shape=(1, 1, 2))
%3: f32[1,1,2] = transpose(%2, permutation=(1, 0, 2))
%4: f32[1,1,2] = transpose(%3, permutation=(1, 0, 2))
%5: f32[1,2] = reshape(%4, shape=(1, 2))
%v: f32[2,1] = constant([[3.0], [4.0]])
%6: f32[1,1] = matmul(%5, %v)
return %6 as y""",
        )


QUICK = ("resnet18", "mobilenet_v3", "swin_t", "llama_small")


@pytest.mark.parametrize(
    "clean", [pytest.param(False, marks=pytest.mark.slow), True], ids=["traced", "cleaned"]
)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ZOO]
)
def test_removal_is_zeroing_in_well_known_networks(name: str, clean: bool) -> None:
    pytest.importorskip("transformers", reason="pip install 'hardy[models]'")
    graph = architecture(name, clean)
    channels = channel_groups(graph)
    assert channels.groups
    small = require_removal_is_zeroing(channels, some_removed(channels, channels.groups, 1, 0.5))
    assert statistics(small).macs < 0.8 * statistics(graph).macs
    assert statistics(small).bytes < statistics(graph).bytes


@pytest.mark.parametrize("build", [residual, dense, index])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_removal_of_any_units_is_zeroing(build: Callable[[], Graph], data: st.DataObject) -> None:
    channels = channel_groups(build())
    removed = channels.nothing()
    for group in channels.groups:
        gone = data.draw(st.sets(st.sampled_from(group.units), max_size=len(group.units) - 1))
        removed[list(gone)] = True
    require_removal_is_zeroing(channels, removed)


@settings(max_examples=60, deadline=None)
@given(graph=graphs(steps=20), seed=st.integers(0, 100))
def test_random_graphs_stay_valid_and_compute_what_zeros_would(graph: Graph, seed: int) -> None:
    channels = channel_groups(graph)
    require_removal_is_zeroing(channels, some_removed(channels, channels.groups, seed, 0.5))


def test_nothing_removed_is_the_same_graph() -> None:
    graph = residual()
    channels = channel_groups(graph)
    assert shrink(channels, channels.nothing()) is graph


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("convnext_tiny", "vit_b16", "gpt2")]


@pytest.mark.parametrize("name", ["llama_small", *SLOW])
def test_channels_under_a_norm_go_on_demand_and_the_graph_is_valid(name: str) -> None:
    pytest.importorskip("transformers", reason="pip install 'hardy[models]'")
    graph = architecture(name, True)
    kept, all_of_them = channel_groups(graph), channel_groups(graph, through_norms=True)
    assert len(all_of_them.groups) > len(kept.groups)
    small = shrink(all_of_them, some_removed(all_of_them, all_of_them.groups, 1, 0.5))
    verify(small)
    assert small.input_types() == graph.input_types()
    assert small.output_types() == graph.output_types()
    outputs = run(small, random_inputs(small.input_types()))
    assert all(bool(y.isfinite().all()) for y in outputs.values())


def test_a_layer_that_is_tied_to_another_is_refused_with_it() -> None:
    channels = channel_groups(residual())
    (left,) = choose(channels, skip=("stem*",))
    assert left.name == "inner.weight"
    assert [g.name for g in choose(channels, only=("back*",))] == ["stem.weight"]
    with pytest.raises(UsageError, match="none of these layers has channels") as caught:
        choose(channels, only=("head*",))
    assert caught.value.hint == "head.weight: an output of the graph has it"


def test_a_reshape_falls_into_the_smallest_runs() -> None:
    assert factor((2, 3, 1, 20), (6, 4, 5)) == [([0, 1], [0]), ([3], [1, 2])]
    assert factor((6, 4), (4, 6)) == [([0, 1], [0, 1])]
    assert factor((1, 7), (7, 1, 1)) == [([1], [0])]
