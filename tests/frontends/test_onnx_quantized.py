"""Models that onnxruntime's quantizer wrote compute what onnxruntime computes, interpreted and compiled."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from torch import nn

import hardy
from hardy.compiler.driver import run_passes
from hardy.compiler.frontends.onnx import load
from hardy.targets.target import find_target

Feed = Mapping[str, np.ndarray[Any, Any]]


class Convolutions(nn.Module):
    """Strided, depthwise and pointwise convolutions, pools, a residual, a concatenation, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 24, 1)
        self.square = nn.Conv2d(24, 24, 3, padding=1)
        self.classify = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = nn.functional.max_pool2d(self.stem(x).relu(), 2)
        x = self.pointwise(nn.functional.relu6(self.depthwise(x))).sigmoid()
        y = self.square(x) + x
        z = torch.cat([y, nn.functional.leaky_relu(y)], 1)[:, 12:36]
        return self.classify(z.mean((2, 3))).softmax(-1), nn.functional.avg_pool2d(z, 2)


class Attention(nn.Module):
    """Projections, products of activations, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.query, self.key = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.down(self.up(x).relu()) + x
        weights = (self.query(h) @ self.key(h).transpose(1, 2) * 0.25).softmax(-1)
        return weights @ h


class Recurrent(nn.Module):
    """A bidirectional LSTM and a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True, bidirectional=True)
        self.out = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.out(self.lstm(x)[0])
        return y


NETWORKS = {
    "convolutions": (Convolutions, (2, 3, 32, 32)),
    "attention": (Attention, (2, 9, 16)),
    "recurrent": (Recurrent, (2, 7, 8)),
}


class Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no type stubs
    def __init__(self, feeds: list[Feed]) -> None:
        self._left: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._left, None)


def exported(name: str, folder: Path) -> tuple[Path, list[Feed]]:
    """A small network as an ONNX file, and inputs."""
    kind, shape = NETWORKS[name]
    torch.manual_seed(0)
    module, x = kind().eval(), torch.randn(shape)
    path = folder / "float.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger().setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), path, dynamo=True, verbose=False, external_data=False)
    model = onnx.load(path)
    # The quantizer transposes weights and trips over what the exporter noted about their shapes.
    del model.graph.value_info[:]
    onnx.save(model, path)
    label = model.graph.input[0].name
    return path, [{label: (x + 0.1 * i * torch.randn(shape)).numpy()} for i in range(3)]


def require_agreement(path: Path, feed: Feed, tolerance: float) -> None:
    """hardy's outputs beside onnxruntime's, relative to the largest; at most a step of the grid, rarely."""
    options = onnxruntime.SessionOptions()
    # Its optimizer fuses and moves quantizations, and so rounds elsewhere.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    expected = session.run(None, dict(feed))
    for target in ("reference", "cpu"):
        artifact = hardy.compile(path, target=target, self_test=False)
        actual = artifact.run({k: torch.from_numpy(v) for k, v in feed.items()})
        for e, a in zip(expected, actual.values(), strict=True):
            worst = abs(e - a.numpy()).max() / abs(e).max()
            assert worst <= tolerance, f"{target}: off by {worst:.2g} of the largest"


STATIC = [
    ("convolutions", "QDQ", "QInt8", True),
    ("attention", "QOperator", "QInt8", True),
    *(
        pytest.param(name, form, weight, per_channel, marks=pytest.mark.slow)
        for name in NETWORKS
        for form in ("QDQ", "QOperator")
        for weight in ("QInt8", "QUInt8")
        for per_channel in (False, True)
    ),
]


@pytest.mark.parametrize(("name", "form", "weight", "per_channel"), STATIC)
def test_statically_quantized_models_agree_with_onnxruntime(
    tmp_path: Path, name: str, form: str, weight: str, per_channel: bool
) -> None:
    path, feeds = exported(name, tmp_path)
    quantized = tmp_path / "int8.onnx"
    quantize_static(
        path,
        quantized,
        Batches(feeds),
        quant_format=getattr(QuantFormat, form),
        activation_type=QuantType.QUInt8,
        weight_type=getattr(QuantType, weight),
        per_channel=per_channel,
    )
    # One step of the grid where a number lies in the middle between two; with a zero point in the middle the
    # range is twice the largest magnitude.
    require_agreement(quantized, feeds[0], 2.01 / 255)


@pytest.mark.parametrize("weight", ["QInt8", pytest.param("QUInt8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param("convolutions", marks=pytest.mark.slow), "attention"])
def test_dynamically_quantized_models_agree_with_onnxruntime(tmp_path: Path, name: str, weight: str) -> None:
    path, feeds = exported(name, tmp_path)
    quantized = tmp_path / "int8.onnx"
    quantize_dynamic(
        path,
        quantized,
        weight_type=getattr(QuantType, weight),
        per_channel=weight == "QInt8",
        op_types_to_quantize=["Conv", "MatMul"],
    )
    require_agreement(quantized, feeds[0], 1e-5)


def test_a_dynamically_quantized_lstm_is_within_the_rounding_of_its_activations(tmp_path: Path) -> None:
    """onnxruntime also rounds x and the state to 8 bits, up to 1/510 of the range each."""
    path, feeds = exported("recurrent", tmp_path)
    quantized = tmp_path / "int8.onnx"
    quantize_dynamic(path, quantized, op_types_to_quantize=["MatMul", "LSTM"])
    assert "DynamicQuantizeLSTM" in {n.op_type for n in onnx.load(quantized).graph.node}
    require_agreement(quantized, feeds[0], 0.01)


def test_small_quantized_weights_stay_integers_on_import(tmp_path: Path) -> None:
    path, feeds = exported("convolutions", tmp_path)
    quantized = tmp_path / "int8.onnx"
    quantize_static(path, quantized, Batches(feeds), per_channel=True)
    after = run_passes(load(quantized), find_target("cpu").passes()).graph
    ops = {n.op.name for n in after.nodes} | {
        m.op.name
        for n in after.nodes
        if n.op.name == "group"
        for m in n.op.body.nodes  # type: ignore[attr-defined]
    }
    assert {"integer_conv", "integer_matmul"} <= ops
    assert not {"conv", "matmul"} & ops
