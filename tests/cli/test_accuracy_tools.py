"""`hardy compare` and `hardy bisect` from the shell's side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Hardy

METRIC = "def first(outputs, feed):\n    return float(next(iter(outputs.values())).mean())\n"
QUANTIZE = "fold_constants, quantize(least_macs=0, weights=i4)"


@pytest.fixture
def data() -> str:
    rng = np.random.default_rng(0)
    np.savez("data.npz", x=rng.normal(size=(6, 16)).astype(np.float32), scale=np.ones(6, np.float32))
    return "data.npz"


def test_compare_shows_where_a_quantized_artifact_parts_from_its_model(
    hardy: Hardy, data: str, onnx_file: Path
) -> None:
    bound = ("--dim", "batch=2")
    compiled = hardy(
        *("compile", onnx_file, "-t", "reference", "-o", "q", "--passes", QUANTIZE, "--calibration", data),
        *bound,
    )
    assert compiled.code == 0, compiled.err
    done = hardy("compare", onnx_file, "q", "--data", data, *bound, "--json")
    assert done.code == 0, done.err
    assert done.json["samples"] == 3
    worst = done.json["values"][0]
    assert worst["op"] == "matmul"
    assert 10 < worst["local"]["sqnr_db"] < 40
    # JSON has no infinite numbers.
    assert {v["local"]["sqnr_db"] for v in done.json["values"][1:]} == {"inf"}
    shown = hardy("compare", onnx_file, "q", "--data", data, *bound)
    assert "Where error arises" in shown.out
    assert f"{worst['local']['sqnr_db']:.1f}" in shown.out


def test_compare_refuses_an_artifact_without_its_graph(hardy: Hardy, data: str, onnx_file: Path) -> None:
    bound = ("--dim", "batch=2")
    assert hardy("compile", onnx_file, "-t", "cpu", "-o", "c", *bound).code == 0
    done = hardy("compare", onnx_file, "c", "--data", data, *bound, "--json")
    assert done.code == 3
    assert "does not hold the weights" in done.error["error"]


def test_bisect_names_the_pass_and_the_layer(hardy: Hardy, data: str, onnx_file: Path) -> None:
    options = ("bisect", onnx_file, "--data", data, "--dim", "batch=2", "-t", "reference")
    done = hardy(*options, "--passes", QUANTIZE, "--least-sqnr", 60, "--json")
    assert done.code == 0, done.err
    culprit = done.json["culprit"]
    assert culprit["pass"] == "quantize"
    assert [layer["layer"] for layer in culprit["layers"]] == ["w"]
    shown = hardy(*options, "--passes", QUANTIZE, "--least-sqnr", 60)
    assert "quantize brings the score below 60" in shown.out
    fine = hardy(*options, "--passes", QUANTIZE, "--least-sqnr", 5, "--json")
    assert fine.json["culprit"] is None


def test_bisect_judges_by_a_metric_and_names_mistakes(hardy: Hardy, data: str, onnx_file: Path) -> None:
    Path("metrics.py").write_text(METRIC)
    options = ("bisect", onnx_file, "--data", data, "--dim", "batch=2", "-t", "reference")
    done = hardy(*options, "--metric", "metrics:first", "--max-drop", 100, "--passes", QUANTIZE, "--json")
    assert done.code == 0, done.err
    assert done.json["culprit"] is None
    both = hardy(*options, "--passes", QUANTIZE, "--preset", "int8", "--json")
    assert both.code == 2
    assert "one or the other" in both.error["error"]
