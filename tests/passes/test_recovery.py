"""What wins accuracy back after quantization: bias correction and learned rounding."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from hardy.compiler.calibration import Moments, Samples, observe
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.notes import taking_notes
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.pipeline import Pipeline
from hardy.compiler.types import DType
from hardy.passes import AdaRound, CorrectBias, Equalize, Quantize, QuantizeWeights
from tests.passes.quantized_nets import Gated, convolutions, correlated, output_error, traced
from tests.rewriting import ops


def positive(*shape: int, count: int = 4) -> Samples:
    """Feeds whose mean is not zero, so that weights' errors move the outputs' means."""
    generator = torch.Generator().manual_seed(0)
    feeds = [(torch.rand(shape, generator=generator) + 1,) for _ in range(count)]
    return Samples(lambda: feeds)


@functools.cache
def net() -> Graph:
    torch.manual_seed(0)
    return traced(convolutions(), torch.randn(2, 3, 8, 8))


SAMPLES = positive(2, 3, 8, 8)
REAL = {"weights": DType.u4, "block": 16, "zero_points": "real"}
COARSE = QuantizeWeights(DType.i4, least=1)


def mean_error(before: Graph, after: Graph) -> float:
    """The largest error of a mean of an output channel."""
    means = []
    for graph in (before, after):
        moments = Moments(1)
        observe(graph, SAMPLES, {graph.outputs[0]: [moments]})
        means.append(moments.mean)
    return float((means[0] - means[1]).abs().max())


def test_corrected_biases_restore_the_means_of_outputs() -> None:
    before = net()
    quantized = COARSE.run(before)
    after = CorrectBias(SAMPLES, original=before).run(quantized)
    assert ops(after) == ops(quantized)
    assert mean_error(before, quantized) > 5e-3
    assert mean_error(before, after) < 1e-5
    assert output_error(before, after, SAMPLES) < output_error(before, quantized, SAMPLES)


def test_layers_without_a_bias_get_one() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 6, bias=False)
    )
    before = traced(module, torch.randn(2, 3, 8, 8))
    quantized = COARSE.run(before)
    after = CorrectBias(SAMPLES, original=before).run(quantized)
    assert mean_error(before, after) < 1e-5 < mean_error(before, quantized)


def test_a_pipeline_remembers_the_graph_before_quantization() -> None:
    before = net()
    for own in (CorrectBias(SAMPLES), AdaRound(SAMPLES, steps=20)):
        passes = (Equalize(), COARSE, own)
        given = Pipeline((Equalize(),)).run(before).graph
        direct = type(own)(SAMPLES, original=given, **({"steps": 20} if own.name == "adaround" else {}))
        expected = direct.run(COARSE.run(given))
        actual = Pipeline(passes).run(before).graph
        assert [c.digest for c in actual.constants()] == [c.digest for c in expected.constants()]


def test_static_quantization_is_corrected_too() -> None:
    before = net()
    static = Quantize(calibration=SAMPLES, weights=DType.i4, least_macs=1).run(before)
    after = CorrectBias(SAMPLES, original=before).run(static)
    assert mean_error(before, after) < mean_error(before, static) / 4


@pytest.mark.parametrize("options", [{}, {"block": 16}, {"weights": DType.u4}, REAL])
def test_learned_rounding_is_better_than_to_nearest(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    before, samples = traced(Gated(), torch.randn(1, 7, 48)), correlated(1, 7, 48)
    quantized = QuantizeWeights(**{"weights": DType.i4, **options}).run(before)  # type: ignore[arg-type]
    with taking_notes() as notes:
        after = AdaRound(samples, original=before, steps=150).run(quantized)
    assert output_error(before, after, samples) < 0.7 * output_error(before, quantized, samples)
    assert all(row["error_left"] < 0.8 for row in notes["layers"])
    assert ops(after) == ops(quantized)
    stored = [[n for n in g.nodes if isinstance(n.op, Dequantize)] for g in (quantized, after)]
    for old, new in zip(*stored, strict=True):
        was, now = (n.operands[0].literal for n in (old, new))
        assert was.type == now.type
        assert (was.tensor.int() - now.tensor.int()).abs().max() <= 1
        assert [v.literal for v in old.operands[1:]] == [v.literal for v in new.operands[1:]]


def test_learned_rounding_takes_grouped_and_depthwise_convolutions() -> None:
    before = net()
    quantized = COARSE.run(before)
    after = AdaRound(SAMPLES, original=before, steps=60).run(quantized)
    assert output_error(before, after, SAMPLES) < output_error(before, quantized, SAMPLES)


@pytest.mark.parametrize("pass_", [CorrectBias, AdaRound])
def test_what_is_missing_is_said(pass_: type[CorrectBias] | type[AdaRound]) -> None:
    before = net()
    quantized = COARSE.run(before)
    with pytest.raises(UsageError, match="before quantization"):
        pass_(SAMPLES).run(quantized)
    with pytest.raises(UsageError, match="no calibration data"):
        pass_(original=before).run(quantized)
    assert pass_(SAMPLES, original=before).run(before) is before


def test_layers_of_the_same_name_with_other_weights_are_not_paired() -> None:
    before = net()
    other = traced(convolutions(), torch.randn(2, 3, 8, 8))
    quantized = COARSE.run(before)
    with taking_notes() as notes:
        assert CorrectBias(SAMPLES, original=other).run(quantized) is quantized
    assert len(notes["without_counterpart"]) == 4
