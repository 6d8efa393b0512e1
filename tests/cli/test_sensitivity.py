"""`hardy sensitivity` from the shell's side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.cli.conftest import Hardy

METRIC = "def largest(outputs, feed):\n    return float(next(iter(outputs.values())).max())\n"


def test_sensitivity_shows_each_layer_at_each_setting(hardy: Hardy, onnx_file: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez("data.npz", x=rng.normal(size=(6, 16)).astype(np.float32), scale=np.ones(6, np.float32))
    Path("metrics.py").write_text(METRIC)
    options = ("sensitivity", onnx_file, "--data", "data.npz", "--dim", "batch=2", "--at", "0.25,0.75")
    done = hardy(*options, "--metric", "metrics:largest", "--json")
    assert done.code == 0, done.err
    assert [(p["layer"], p["setting"]) for p in done.json["points"]] == [("w", 0.25), ("w", 0.75)]
    mild, hard = (p["sqnr_db"] for p in done.json["points"])
    assert mild > hard
    assert done.json["metric"] > 0
    shown = hardy(*options).out.split()
    assert f"{mild:.1f}" in shown
    assert f"{hard:.1f}" in shown


def test_sensitivity_takes_passes_with_options_and_says_what_is_wrong_with_them(
    hardy: Hardy, onnx_file: Path
) -> None:
    np.savez("data.npz", x=np.ones((2, 16), np.float32), scale=np.ones(2, np.float32))
    options = ("sensitivity", onnx_file, "--data", "data.npz", "--dim", "batch=2")
    wanda = hardy(*options, "--pass", "prune(structure='2x1', score='wanda')", "--at", "0.5", "--json")
    assert wanda.code == 0, wanda.err
    nm = hardy(*options, "--pass", "prune", "--option", "structure", "--at", "'2:4','1:4'", "--json")
    assert [p["setting"] for p in nm.json["points"]] == ["2:4", "1:4"]
    for wrong in (
        ("--pass", "typo"),
        ("--option", "typo"),
        ("--at", "0.5 0.7"),
        ("--at", "1.5"),
        ("--at", ""),
    ):
        done = hardy(*options, *wrong)
        assert done.code == 2, (wrong, done.err)
