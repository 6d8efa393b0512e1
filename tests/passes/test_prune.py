"""Zeros by score and structure, clipped weights, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hardy.compiler.errors import HardyError, InputError, UsageError
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.models import trace
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.pipeline import Pipeline
from hardy.compiler.types import DType, TensorType
from hardy.passes import ClipWeights, Prune
from hardy.passes.layers import layers
from hardy.passes.scores import weight_scores
from hardy.passes.structures import Structure, keep, parse_structure


def network() -> Graph:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 12)
    )
    return trace(module.eval(), (torch.zeros(1, 4, 6, 6),), self_test=False)


def matrix(weight: Tensor) -> Graph:
    """x @ w, with outputs along the columns of w."""
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (3, weight.shape[0])))
    return b.finish({"y": b(Matmul(), x, b.constant(weight, name="w"))})


def only_weight(graph: Graph) -> Tensor:
    (layer,) = layers(graph)
    return layer.data


def zeros(graph: Graph) -> list[float]:
    return [float((layer.data == 0).float().mean()) for layer in layers(graph)]


def feeds(count: int = 3, **extra: Tensor) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"input": torch.randn(1, 4, 6, 6, generator=generator), **extra} for _ in range(count)]


def test_the_smallest_weights_of_each_layer_become_zero() -> None:
    graph = network()
    after = Prune(sparsity=0.75).run(graph)
    assert zeros(after) == [0.75, 0.75, 0.75]
    for old, new in zip(layers(graph), layers(after), strict=True):
        kept = new.data != 0
        assert torch.equal(new.data[kept], old.data[kept])
        assert float(old.data[~kept].abs().max()) <= float(old.data[kept].abs().min())
    assert zeros(graph) == [0, 0, 0]


def test_pruned_weights_are_zeros_without_a_sign() -> None:
    for layer in layers(Prune(sparsity=0.75).run(network())):
        assert not bool(layer.data[layer.data == 0].signbit().any())


def test_one_threshold_over_all_layers_takes_more_where_weights_are_small() -> None:
    graph = Prune(sparsity=0.5, scope="global").run(network())
    shares = zeros(graph)
    sizes = [layer.data.numel() for layer in layers(graph)]
    assert sum(s * n for s, n in zip(shares, sizes, strict=True)) == pytest.approx(sum(sizes) / 2, abs=1)
    assert len(set(shares)) == 3


def test_a_global_threshold_leaves_no_layer_empty() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (1, 4)))
    small = b(Matmul(), x, b.constant(torch.full((4, 4), 1e-3), name="small"))
    graph = b.finish({"y": b(Matmul(), small, b.constant(torch.randn(4, 4), name="large"))})
    assert zeros(Prune(sparsity=0.5, scope="global").run(graph)) == [15 / 16, 1 / 16]
    assert zeros(Prune(sparsity=1.0, scope="global").run(graph)) == [1, 1]


def test_n_of_m_keeps_the_best_along_the_input_channels() -> None:
    weight = torch.tensor([[1.0, -2.0], [3.0, 0.5], [-4.0, 1.0], [2.0, -3.0]])
    after = only_weight(Prune(structure="2:4").run(matrix(weight)))
    assert after.tolist() == [[0, -2.0], [3.0, 0], [-4.0, 0], [0, -3.0]]
    after = only_weight(Prune(structure="1:2").run(matrix(weight)))
    assert after.tolist() == [[0, -2.0], [3.0, 0], [-4.0, 0], [0, -3.0]]


def test_n_of_m_of_a_convolution_runs_along_channels_at_each_kernel_position() -> None:
    after = Prune(structure="1:4").run(network())
    first, grouped, _ = (layer.data for layer in layers(after))
    assert torch.equal((first != 0).sum(1), torch.ones(8, 3, 3).long())
    assert torch.equal((grouped != 0).sum(1), torch.ones(8, 3, 3).long())


def test_blocks_are_zero_together() -> None:
    weight = torch.arange(1.0, 49).reshape(6, 8)  # 8 outputs of 6 inputs
    after = only_weight(Prune(sparsity=0.5, structure="4x2").run(matrix(weight)))
    blocks = after.reshape(3, 2, 2, 4).permute(0, 2, 1, 3).flatten(2)
    gone = (blocks == 0).all(2)
    assert torch.equal(gone, (blocks == 0).any(2))
    assert gone.tolist() == [[True, True], [True, False], [False, False]]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
    block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_zeros_are_whole_blocks_in_the_share_asked_for(
    shape: tuple[int, int, int], block: tuple[int, int], sparsity: float, seed: int
) -> None:
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    (mask,) = keep([scores], Structure(*block), sparsity)
    kept = []
    for i in range(0, shape[0], block[0]):
        for j in range(0, shape[1], block[1]):
            for k in range(shape[2]):
                part = mask[i : i + block[0], j : j + block[1], k]
                assert part.all() or not part.any()
                kept.append(bool(part.all()))
    wanted = int(sparsity * len(kept) + 1e-9)
    assert kept.count(False) == (min(wanted, len(kept) - 1) if sparsity < 1 else len(kept))


def test_wanda_keeps_small_weights_of_strong_inputs() -> None:
    graph = matrix(torch.tensor([[1.0, 1.0], [0.1, 0.1]]))
    strong = [{"x": torch.tensor([[0.01, 5.0]] * 3)}]
    by_size = only_weight(Prune(sparsity=0.5).run(graph))
    by_effect = only_weight(Prune(sparsity=0.5, score="wanda", calibration=strong).run(graph))
    assert (by_size != 0).tolist() == [[True, True], [False, False]]
    assert (by_effect != 0).tolist() == [[False, False], [True, True]]


def test_wanda_scores_are_weights_times_the_norm_of_what_they_multiply() -> None:
    graph, data = network(), feeds()
    first, grouped, last = layers(graph)
    scores = weight_scores(graph, [first, grouped, last], "wanda", data)
    x = torch.cat([f["input"] for f in data])
    expected = first.data.abs() * x.square().mean((0, 2, 3)).sqrt().reshape(1, 4, 1, 1)
    torch.testing.assert_close(scores[first.weight], expected)
    torch.manual_seed(0)
    y = torch.relu(torch.nn.functional.conv2d(x, first.data, first.node.operands[2].literal.tensor))
    rms = y.square().mean((0, 2, 3)).sqrt().reshape(2, 4).repeat_interleave(4, 0).reshape(8, 4, 1, 1)
    torch.testing.assert_close(scores[grouped.weight], grouped.data.abs() * rms)


@pytest.mark.parametrize("labelled", [False, True])
def test_first_order_scores_are_what_the_loss_would_lose(labelled: bool) -> None:
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    graph = matrix(weight)
    (layer,) = layers(graph)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([1, 4, 0])
    feed = {"x": x, "label": label} if labelled else {"x": x}
    scores = weight_scores(graph, [layer], "first_order", [feed])[layer.weight]
    w = weight.clone().requires_grad_()
    y = x @ w
    loss = torch.nn.functional.cross_entropy(y, label) if labelled else y.square().sum() / 2
    loss.backward()
    assert w.grad is not None
    torch.testing.assert_close(scores, (weight * w.grad).abs())


def test_layers_that_cannot_have_the_structure_are_named_in_the_report() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)).eval()
    graph = trace(module, (torch.zeros(1, 3, 2, 2),), self_test=False)
    (record,) = Pipeline((Prune(structure="2:4", target="cpu"),)).run(graph).records
    assert record.notes["structure"] == "2:4"
    assert record.notes["refused"] == [
        {"layer": "0.weight", "reason": "its 3 input channels are no multiple of 4"}
    ]
    assert record.notes["layers"] == [{"layer": "1.weight", "zeros": 0.5, "MACs": 256, "without zeros": 128}]
    rows = {row["expected"]: row["share"] for row in record.notes["expected"]}
    assert rows["MACs"] == 1
    assert rows["MACs without zeros"] == pytest.approx((96 + 128) / (96 + 256))
    # The cpu target multiplies zeros like any other number.
    assert [share for name, share in rows.items() if name.startswith("seconds")] == [1]


def test_the_structure_is_what_the_target_runs_fastest() -> None:
    graph = network()
    smaller = Prune(sparsity=0.4, target="cpu:portable").run(graph)
    assert [layer.weight.type for layer in layers(smaller)] != [layer.weight.type for layer in layers(graph)]
    (record,) = Pipeline((Prune(sparsity=0.4),)).run(graph).records
    assert record.notes["structure"] == "element"


def test_selected_layers_alone_change() -> None:
    assert zeros(Prune(sparsity=0.5, only=("2.*",)).run(network())) == [0, 0.5, 0]
    assert zeros(Prune(sparsity=0.5, skip=("2.*", "4.*")).run(network())) == [0.5, 0, 0]
    with pytest.raises(UsageError, match="no layer matches 'typo'"):
        Prune(only=("typo",)).run(network())


@pytest.mark.parametrize("structure", ["element", "2:4", "2x2"])
def test_a_second_run_finds_nothing_to_do(structure: str) -> None:
    once = Prune(structure=structure).run(network())
    assert Prune(structure=structure).run(once) is once
    assert Prune(sparsity=0.0).run(once) is once


def test_a_weight_that_two_layers_share_stays_one() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (1, 4)))
    w = b.constant(torch.randn(4, 4), name="w")
    graph = b.finish({"y": b(Matmul(), b(Matmul(), x, w), w)})
    first, second = layers(Prune(sparsity=0.5).run(graph))
    assert first.weight == second.weight
    assert int((first.data == 0).sum()) == 8


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, math.nan])
def test_a_sparsity_outside_of_0_to_1_is_refused(sparsity: float) -> None:
    with pytest.raises(UsageError, match=r"must lie in 0\.\.1"):
        Prune(sparsity=sparsity)


@pytest.mark.parametrize("structure", ["4:2", "0:4", "x4", "dense", "2:4:8"])
def test_a_structure_that_does_not_exist_is_refused(structure: str) -> None:
    with pytest.raises(UsageError, match="no structure") as caught:
        Prune(structure=structure)
    assert "2:4" in caught.value.hint


def test_a_sparsity_that_contradicts_the_structure_is_refused() -> None:
    assert parse_structure("1:4").sparsity == 0.75
    with pytest.raises(UsageError, match=r"has a sparsity of 0\.5"):
        Prune(sparsity=0.9, structure="2:4")


def test_scores_from_data_need_data_that_fits() -> None:
    with pytest.raises(UsageError, match="needs calibration data"):
        Prune(score="wanda").run(network())
    with pytest.raises(UsageError, match="no score 'typo'"):
        Prune(score="typo").run(network())
    with pytest.raises(InputError, match="holds no samples"):
        Prune(score="wanda", calibration=[]).run(network())
    with pytest.raises(InputError, match="NaN or infinity"):
        Prune(score="wanda", calibration=[{"input": torch.full((1, 4, 6, 6), math.nan)}]).run(network())
    wrong = feeds(1, label=torch.tensor([1, 2]))
    with pytest.raises(InputError, match="2 classes 'label' for outputs"):
        Prune(score="first_order", calibration=wrong).run(network())


def test_an_all_zero_layer_is_pruned_without_fault() -> None:
    graph = matrix(torch.zeros(4, 4))
    for score in ("magnitude", "wanda", "first_order"):
        assert Prune(score=score, calibration=[{"x": torch.ones(3, 4)}]).run(graph) is graph


def test_weights_are_clipped_to_a_threshold() -> None:
    graph = matrix(torch.tensor([[0.5, -3.0], [2.0, 1.0]]))
    (record,) = (result := Pipeline((ClipWeights(threshold=1.5),)).run(graph)).records
    assert only_weight(result.graph).tolist() == [[0.5, -1.5], [1.5, 1.0]]
    assert record.notes["layers"] == [{"layer": "w", "limit": 1.5, "clipped": 0.5}]
    assert ClipWeights(threshold=1.5).run(result.graph) is result.graph


def test_weights_are_clipped_to_a_percentile_of_each_layer() -> None:
    graph = network()
    after = ClipWeights(percentile=90.0).run(graph)
    for old, new in zip(layers(graph), layers(after), strict=True):
        ordered = old.data.abs().reshape(-1).sort().values
        limit = ordered[math.ceil(0.9 * len(ordered)) - 1]
        assert torch.equal(new.data, old.data.clamp(-limit, limit))
    assert ClipWeights(percentile=100.0).run(graph) is graph


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 1.0, "percentile": 99.0},
        {"threshold": 0.0},
        {"threshold": math.inf},
        {"percentile": 0.0},
        {"percentile": 101.0},
    ],
)
def test_clipping_needs_one_limit_that_makes_sense(options: dict[str, float]) -> None:
    with pytest.raises(HardyError):
        ClipWeights(**options)


def test_clipping_without_a_limit_is_refused_when_it_runs() -> None:
    module = torch.nn.Linear(4, 4).eval()
    graph = trace(module, (torch.zeros(1, 4),))
    with pytest.raises(HardyError, match="needs a threshold or a percentile"):
        ClipWeights().run(graph)


def test_integer_layers_are_no_layers_to_prune() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.i32, (1, 2, 4, 4)))
    conv = Conv((1, 1), ((0, 0), (0, 0)), (1, 1))
    graph = b.finish({"y": b(conv, x, b.constant(torch.ones(2, 2, 1, 1, dtype=torch.int32)))})
    assert Prune(sparsity=0.5).run(graph) is graph
