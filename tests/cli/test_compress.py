"""`hardy compress` from the shell's side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import hardy as api
from tests.cli.conftest import Hardy

MODEL = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(),
                           nn.Linear(256, 5)).eval()
    with torch.no_grad():
        for i in (0, 2):
            module[i].weight[8:] = 0
            module[i].bias[8:] = 0
    return module, (torch.zeros(1, 1, 8, 8),)
"""


@pytest.fixture
def options() -> tuple[object, ...]:
    Path("nets.py").write_text(MODEL)
    x = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)
    np.savez("data.npz", input=x)
    return ("compress", "nets:net", "--data", "data.npz", "-t", "reference", "--calibration", 8)


def test_compress_leaves_the_best_artifact_and_every_trial(hardy: Hardy, options: tuple[object, ...]) -> None:
    done = hardy(
        *options, "--metric", "agreement", "--objective", "macs", "--max-drop", "0.2", "-o", "c", "--json"
    )
    assert done.code == 0, done.err
    assert done.json == json.loads(Path("c/trials.json").read_text())
    assert Path("c/trials.svg").read_text().startswith("<?xml")
    chosen = done.json["chosen"]
    assert chosen["within"]
    assert chosen["macs"] < 0.9
    assert chosen in done.json["trials"]
    x = np.load("data.npz")["input"][:1]
    assert api.load("c/best").run(input=x)["output"].shape == (1, 5)
    again = hardy(*options, "--metric", "cosine", "--max-drop", "0", "--minutes", "0", "-o", "c")
    assert again.code == 0, again.err
    assert "stopped after 0 minutes: the best so far" in again.out
    assert "the original is kept" in again.out


def test_compress_names_what_is_wrong(hardy: Hardy, options: tuple[object, ...]) -> None:
    for arguments, message in (
        (("--metric", "bleu"), "no metric 'bleu'"),
        (("--max-drop", "much"), "expected a number"),
        (("--max-drop", "-1"), "must not be negative"),
        (("--metric", "accuracy"), "no 'label'"),
        (("--metric", "agreement", "--calibration", 40), "all for calibration"),
    ):
        done = hardy(*options, *arguments, "-o", "c", "--json")
        assert done.code in (1, 2, 7), done.error
        assert message in done.error["error"]
        assert not Path("c").exists()
    Path("taken").mkdir()
    Path("taken/file").write_text("")
    done = hardy(*options, "-o", "taken", "--json")
    assert "is not of a search" in done.error["error"]
