"""Weight sharing, and the k-means of numbers that it stands on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.compiler import kmeans
from hardy.compiler.errors import GraphError, UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.literal import Literal
from hardy.compiler.notes import taking_notes
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.pass_list import resolve_passes
from hardy.compiler.pipeline import sqnr
from hardy.compiler.types import DType, TensorType
from hardy.compiler.verify import verify
from hardy.passes import Cluster
from hardy.passes.layers import layers
from hardy.passes.scores import weight_scores

NUMBERS = st.lists(st.integers(-50, 50), min_size=1, max_size=9)


def squared_error(x: np.ndarray, centres: np.ndarray, weights: np.ndarray | float = 1.0) -> float:
    return float((weights * (x - centres[kmeans.assign(x, centres)]) ** 2).sum())


def least_error(x: np.ndarray, weights: np.ndarray, k: int) -> float:
    """By trying every way to cut the sorted values into at most k intervals."""
    order = np.argsort(x, kind="stable")
    x, weights = x[order], weights[order]
    best = np.inf
    for cuts in itertools.combinations(range(1, len(x)), min(k, len(x)) - 1):
        parts = zip(np.split(x, cuts), np.split(weights, cuts), strict=True)
        best = min(best, sum(float((w * (p - np.average(p, weights=w)) ** 2).sum()) for p, w in parts))
    return best


@settings(max_examples=200, deadline=None)
@given(values=NUMBERS, k=st.integers(1, 5), seed=st.integers(0, 9))
def test_exact_clusters_have_the_least_error_of_all(values: list[int], k: int, seed: int) -> None:
    x = np.array(values, np.float64)
    weights = np.random.default_rng(seed).integers(1, 9, len(x)).astype(np.float64)
    centres = kmeans.codebook(x, k, weights)
    assert len(centres) <= k
    assert squared_error(x, centres, weights) == pytest.approx(least_error(x, weights, k), abs=1e-9)


@pytest.mark.parametrize("init", ["linear", "density", "random"])
def test_no_start_of_lloyds_iteration_beats_the_exact_clusters(init: kmeans.Init) -> None:
    x = np.random.default_rng(0).standard_t(3, 5000)
    exact = squared_error(x, kmeans.codebook(x, 16))
    other = kmeans.codebook(x, 16, init=init)
    assert len(other) == 16
    assert exact <= squared_error(x, other) <= 20 * exact


def test_many_values_are_clustered_within_a_thousandth_of_their_optimum() -> None:
    x = np.random.default_rng(1).normal(size=60_000)
    starts = kmeans._optimal(np.sort(x), np.ones(len(x)), 8)
    best = np.add.reduceat(np.sort(x), starts) / np.diff([*starts, len(x)])
    assert squared_error(x, kmeans.codebook(x, 8)) <= 1.001 * squared_error(x, best)


def layered(weight: torch.Tensor, dtype: DType = DType.f32) -> Graph:
    b = Builder()
    x = b.input("x", TensorType(dtype, (3, weight.shape[0])))
    w = b.constant(Literal(weight.to(dtype.torch), dtype), name="w", source="model.py:7")
    bias = b.constant(torch.arange(float(weight.shape[1])).to(dtype.torch), name="bias")
    return b.finish({"y": b(Add(), b(Matmul(), x, w), bias)})


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weight_of(graph: Graph) -> torch.Tensor:
    return next(iter(layers(graph))).data


@pytest.mark.parametrize("dtype", [DType.f32, DType.f64, DType.f16, DType.bf16])
def test_a_layer_takes_so_many_values_each_the_mean_of_its_weights(dtype: DType) -> None:
    before = layered(normal(64, 32), dtype)
    after = Cluster(bits=3).run(before)
    verify(after)
    old, new = weight_of(before), weight_of(after)
    values = new.unique()
    assert len(values) == 8
    for value in values:
        torch.testing.assert_close(value, old[new == value].double().mean().to(value.dtype))
    assert (new.double() - old.double()).square().mean() < 0.05 * old.double().square().mean()


def test_what_is_no_weight_of_a_layer_stays() -> None:
    before = layered(normal(64, 32))
    after = Cluster(bits=2).run(before)
    assert [c for c in before.constants() if c.type.rank == 1] == [
        c for c in after.constants() if c.type.rank == 1
    ]
    assert after.input_types() == before.input_types()
    assert next(iter(layers(after))).weight.node.source == "model.py:7"


def test_zeros_stay_zero_and_count_as_one_of_the_values() -> None:
    weight = normal(50, 40)
    weight[normal(50, 40, seed=1) > -1] = 0
    new = weight_of(Cluster(bits=2).run(layered(weight)))
    assert torch.equal(new == 0, weight == 0)
    assert len(new.unique()) == 4


def test_a_weight_of_few_values_is_left_alone_as_is_a_clustered_one() -> None:
    few = layered(torch.tensor([[0.0, 1.0, -1.0], [1.0, 0.0, 0.5]]))
    assert Cluster(bits=2).run(few) is few
    zeros = layered(torch.zeros(4, 4))
    assert Cluster(bits=1).run(zeros) is zeros
    for weight in (normal(30, 30), normal(30, 30).relu()):
        once = Cluster(clusters=5).run(layered(weight))
        assert Cluster(clusters=5).run(once) is once


@pytest.mark.parametrize("weight", [normal(60, 50), normal(60, 50).relu(), normal(60, 50) ** 3])
def test_a_layer_takes_the_fewest_values_that_keep_the_asked_signal_to_noise(weight: torch.Tensor) -> None:
    after = Cluster(sqnr_db=18.0).run(layered(weight))
    new = weight_of(after)
    count = len(new.unique())
    fewer = weight_of(Cluster(clusters=count - 1).run(layered(weight)))
    assert sqnr(weight, new) >= 18.0 > sqnr(weight, fewer)
    assert Cluster(sqnr_db=18.0).run(after) is after
    finer = weight_of(Cluster(sqnr_db=25.0).run(layered(weight)))
    assert len(finer.unique()) > count


def test_no_signal_to_noise_takes_more_than_256_values() -> None:
    assert len(weight_of(Cluster(sqnr_db=90.0).run(layered(normal(30, 30)))).unique()) == 256


def test_layers_are_chosen_by_name_and_source() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (3, 8)))
    first, second = (
        b.constant(normal(8, 8, seed=i), name=n, source=f"model.py:{i}") for i, n in enumerate("ab")
    )
    graph = b.finish({"y": b(Matmul(), b(Matmul(), x, first), second)})

    def counts(pass_: Cluster) -> list[int]:
        return [len(layer.data.unique()) for layer in layers(pass_.run(graph))]

    assert counts(Cluster(bits=2)) == [4, 4]
    assert counts(Cluster(bits=2, only=("a",))) == [4, 64]
    assert counts(Cluster(bits=2, skip=("a",))) == [64, 4]
    with pytest.raises(UsageError, match="no layer matches 'c'"):
        Cluster(only=("c",)).run(graph)


def test_other_constants_are_clustered_on_demand() -> None:
    graph = layered(normal(64, 32))
    after = Cluster(bits=2, others=32).run(graph)
    bias = next(c for c in after.constants() if c.type.rank == 1)
    assert len(bias.tensor.unique()) == 4
    assert torch.equal(weight_of(after), weight_of(Cluster(bits=2).run(graph)))


def test_a_weight_that_two_layers_share_is_clustered_once() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (3, 8)))
    w = b.constant(normal(8, 8), name="w")
    after = Cluster(bits=2).run(b.finish({"y": b(Matmul(), b(Matmul(), x, w), w)}))
    assert len([c for c in after.constants() if c.type.rank == 2]) == 1


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_importance_of_inputs_makes_the_output_of_a_convolution_better(groups: int, layout: str) -> None:
    scale = torch.logspace(-2, 1, 8)
    images = normal(4, 8, 6, 6) * scale[:, None, None]
    if layout == "channels_last":
        images = images.movedim(1, -1).contiguous()
    b = Builder()
    x = b.input("x", TensorType(DType.f32, tuple(images.shape)))
    w = b.constant(normal(6, 8 // groups, 3, 3), name="w")
    graph = b.finish({"y": b(Conv((1, 1), ((1, 1), (1, 1)), (1, 1), groups, layout), x, w)})
    expected = run(graph, {"x": images})["y"]

    def error(pass_: Cluster) -> float:
        return float((run(pass_.run(graph), {"x": images})["y"] - expected).square().mean())

    assert error(Cluster(bits=3, score="wanda", calibration=[images])) < 0.8 * error(Cluster(bits=3))


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("place", [0, 1])
def test_importance_of_inputs_makes_the_output_of_a_product_better(transpose_a: bool, place: int) -> None:
    scale = torch.logspace(-2, 1, 16)
    b = Builder()
    flowing = normal(5, 16) * scale
    if place == 1:
        op, given = Matmul(transpose_a=transpose_a), flowing.T if transpose_a else flowing
    else:
        op, given = Matmul(transpose_a=transpose_a), flowing.T
    x = b.input("x", TensorType(DType.f32, tuple(given.shape)))
    w = b.constant(normal(16, 16), name="w")
    graph = b.finish({"y": b(op, x, w) if place == 1 else b(op, w, x)})
    given = given.contiguous()
    expected = run(graph, {"x": given})["y"]

    def error(pass_: Cluster) -> float:
        return float((run(pass_.run(graph), {"x": given})["y"] - expected).square().mean())

    assert error(Cluster(bits=3, score="wanda", calibration=[given])) < 0.8 * error(Cluster(bits=3))


@pytest.mark.parametrize("score", ["wanda", "first_order"])
def test_scores_weigh_the_error_that_is_made_least(score: str) -> None:
    graph = layered(normal(16, 8))
    data = [{"x": normal(3, 16, seed=i) * torch.logspace(-2, 0, 16)} for i in range(20)]
    (scores,) = weight_scores(graph, list(layers(graph)), score, data).values()
    weight = weight_of(graph)

    def error(pass_: Cluster) -> float:
        return float(((weight_of(pass_.run(graph)) - weight) * scores / weight).square().sum())

    assert error(Cluster(bits=2, score=score, calibration=data)) < 0.9 * error(Cluster(bits=2))


def test_zeros_of_either_sign_become_one() -> None:
    weight = normal(20, 20)
    weight[:10] *= 0
    assert bool((weight[:10].signbit()).any())
    new = weight_of(Cluster(bits=2).run(layered(weight)))
    assert not bool(new[:10].signbit().any())


def test_the_report_says_what_each_layer_lost() -> None:
    with taking_notes() as notes:
        Cluster(bits=4).run(layered(normal(64, 32)))
    (row,) = notes["weights"]
    assert row["layer"] == "w"
    assert row["values"] == 16
    assert row["non-zero"] == 1.0
    assert 15 < row["sqnr_db"] < 25


def test_a_score_without_its_data_is_refused() -> None:
    with pytest.raises(UsageError, match="score wanda needs calibration data"):
        Cluster(score="wanda").run(layered(normal(8, 8)))


def test_options_come_from_text() -> None:
    assert resolve_passes("cluster(bits=3, init='linear', skip=('a',))", ()) == (
        Cluster(bits=3, init="linear", skip=("a",)),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "0 bits are not between 1 and 8"),
        ({"bits": 9}, "9 bits are not between 1 and 8"),
        ({"clusters": 1}, "1 clusters are not between 2 and 256"),
        ({"clusters": 257}, "257 clusters are not between 2 and 256"),
        ({"clusters": 8, "sqnr_db": 20.0}, "give one"),
        ({"sqnr_db": -1.0}, "-1.0 dB are no positive number"),
        ({"init": "best"}, "there is no init 'best'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Cluster(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(bad: float) -> None:
    weight = normal(8, 8)
    weight[2, 3] = bad
    with pytest.raises(GraphError, match="weight w holds NaN or infinity"):
        Cluster().run(layered(weight))
