"""Mixed precision: the products that hurt are found and stay float, within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hardy.compiler.calibration import open_samples
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.pipeline import Pipeline, Record, decibels
from hardy.passes import Quantize
from hardy.passes.quantize_dequantize import Plan
from hardy.passes.spare_products import noise_alone
from tests.passes.test_quantize import is_integer, noise, products, traced

WIDTH = 16
# Each of the three layers has a third of the multiply-accumulates.
THIRD = 1 / 3


class Hurting(nn.Module):
    """Three layers, of which the second reads a channel that is as large as it is unimportant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(x)))
        assert isinstance(x, Tensor)
        return x


def hurting() -> Graph:
    module = Hurting()
    graph = traced(module, 8, WIDTH)
    with torch.no_grad():
        module.first.weight[3] *= 1000
        module.second.weight[:, 3] *= 1e-4
    return graph


def data(count: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(8, WIDTH, generator=generator) for _ in range(count)]


def quantized(graph: Graph, **options: Any) -> tuple[Graph, Record]:
    pass_ = Quantize(calibration=data(), least_macs=0, **options)
    result = Pipeline((pass_,)).run(graph)
    assert pass_.run(result.graph) is result.graph, "a second run finds more to do"
    return result.graph, result.records[0]


def integers(graph: Graph) -> list[bool]:
    return [is_integer(node.operands[1]) for node in products(graph)]


def spared_layers(record: Record) -> Sequence[str]:
    return [row["layer"] for row in record.notes["kept_float"] if "alone" in row["why"]]


def test_the_layer_that_hurts_is_found_and_stays_float() -> None:
    graph = hurting()
    after, record = quantized(graph, float_share=0.4)
    assert integers(after) == [True, False, True]
    assert spared_layers(record) == ["second.weight"]
    assert noise(graph, after) > noise(graph, quantized(graph)[0]) + 15
    assert record.notes["spared"]["macs"] == pytest.approx(THIRD)
    assert record.notes["integer_macs"] == pytest.approx(1 - THIRD)
    assert min(record.notes["sqnr_db"].values()) > record.notes["spared"]["sqnr_db_without"] + 15


def test_the_budget_is_kept_even_where_a_layer_hurts() -> None:
    after, record = quantized(hurting(), float_share=0.3)
    assert integers(after) == [True, True, True]
    assert spared_layers(record) == []


def test_no_layer_is_spared_where_the_outputs_are_good_enough() -> None:
    graph = hurting()
    reached = quantized(graph)[1].notes["sqnr_db"]["output"]
    assert integers(quantized(graph, sqnr_db=reached - 0.1)[0]) == [True, True, True]
    assert integers(quantized(graph, sqnr_db=reached + 0.1)[0]) == [True, False, True]
    assert integers(quantized(graph, float_share=0.0)[0]) == [True, True, True]


def test_layers_are_spared_until_the_outputs_are_good_enough() -> None:
    graph = hurting()
    within_reach, record = quantized(graph, sqnr_db=30.0)
    assert integers(within_reach) == [True, False, True]
    assert "not_reached" not in record.notes
    nothing_else, record = quantized(graph, sqnr_db=500.0)
    assert integers(nothing_else) == [False, False, False]
    assert "not_reached" not in record.notes


def test_a_target_beyond_the_budget_is_reported() -> None:
    _, record = quantized(hurting(), sqnr_db=90.0, float_share=0.4)
    assert spared_layers(record) == ["second.weight"]
    assert record.notes["not_reached"].startswith("90 dB within 40.0% of float products")


def test_the_noise_of_a_layer_alone_is_that_of_quantizing_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = hurting()
    plans: list[Plan] = []
    apply = Plan.apply

    def keep(plan: Plan) -> Graph:
        plans.append(plan)
        return apply(plan)

    monkeypatch.setattr(Plan, "apply", keep)
    quantized(graph, rounding="gptq")
    alone = noise_alone(plans[0], open_samples(data(), graph.input_types()))
    assert len(alone) == 3
    for node, product in plans[0].products.items():
        assert product.layer is not None
        _, record = quantized(graph, rounding="gptq", only=(product.layer.name,))
        assert decibels(1.0, alone[node]) == pytest.approx(record.notes["sqnr_db"]["output"], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"float_share": 1.5}, "lies between 0 and 1, got 1.5"),
        ({"rounding": "up"}, "no rounding is 'up'"),
    ],
)
def test_budgets_and_roundings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Quantize(calibration=data(), **options).run(hurting())
