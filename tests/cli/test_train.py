"""`hardy finetune` and `hardy distill`: trained models as artifacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hardy.compiler.artifact import load
from tests.cli.conftest import Hardy

MODULE = """
import torch

def network(width):
    torch.manual_seed(width)
    layers = torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Linear(width, 3)
    return torch.nn.Sequential(*layers).eval(), (torch.zeros(1, 8),)

def student():
    return network(8)

def teacher():
    return network(32)

def other():
    return torch.nn.Linear(4, 3).eval(), (torch.zeros(1, 4),)
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    (tmp_path / "nets.py").write_text(MODULE)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 96)
    x = rng.normal(size=(3, 8))[label] + 0.3 * rng.normal(size=(96, 8))
    np.savez(tmp_path / "data.npz", input=x.astype(np.float32), label=label)


def right(artifact: str) -> float:
    """The share of samples that an artifact puts into their class."""
    model = load(artifact)
    with np.load("data.npz") as data:
        outputs = [model.run({"input": x[None]})["output"] for x in data["input"]]
        return float((torch.cat(outputs).argmax(1).numpy() == data["label"]).mean())


def test_finetune_trains_on_labels_and_distill_on_a_teacher(hardy: Hardy) -> None:
    common = ["--data", "data.npz", "--rate", "0.02", "--epochs", "6", "--json"]
    taught = hardy("finetune", "nets:teacher", "-o", "teacher", "--label", "label", *common)
    assert taught.code == 0, taught.err
    assert right("teacher") > 0.9
    (record,) = (p for p in taught.json["passes"] if p["name"] == "finetune")
    assert record["notes"]["loss"]["epoch 6"] < record["notes"]["loss"]["epoch 1"]
    options = ["--temperature", "2", "--hidden", "2=2", "--batch", "8", "--checkpoint", "run.safetensors"]
    done = hardy("distill", "nets:student", "--teacher", "teacher", "-o", "student", *options, *common)
    assert done.code == 0, done.err
    assert right("student") > 0.9
    assert Path("run.safetensors").is_file()
    again = hardy("compile", "student", "-t", "reference", "-o", "compiled")
    assert again.code == 0, again.err


def test_finetune_after_a_lossy_pass_learns_from_the_model_before_it(hardy: Hardy) -> None:
    command = ["finetune", "nets:student", "--data", "data.npz", "-o", "small", "--epochs", "4"]
    done = hardy(*command, "--rate", "0.001", "--passes", "quantize(weights=i4, least_macs=0)", "--json")
    assert done.code == 0, done.err
    (record,) = (p for p in done.json["passes"] if p["name"] == "finetune")
    assert record["notes"]["loss"]["epoch 4"] < record["notes"]["loss"]["epoch 1"]
    assert "i4[" in (Path("small") / "graph.ir").read_text()


def test_a_remembered_teacher_gives_the_same_student(hardy: Hardy) -> None:
    command = ["distill", "nets:student", "--teacher", "nets:teacher", "--data", "data.npz", "--epochs", "2"]
    losses = [
        hardy(*command, "-o", f"s{i}", "--json", *more).json["passes"][0]["notes"]["loss"]
        for i, more in enumerate(([], ["--remember"]))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--teacher", "nets:other"], "take different inputs"),
        (["--teacher", "nets:teacher", "--hidden", "9=2"], "nothing in Sequential is called '9'"),
        (["--teacher", "nets:teacher", "--label", "classes"], "hold no 'classes'"),
        (["--teacher", "nets:teacher", "--passes", "..."], "follow the training"),
        (["--teacher", "nets:teacher", "--schedule", "linear"], "schedule"),
        (["--teacher", "nets:teacher", "--temperature", "0"], "temperature must be above 0"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(hardy: Hardy, more: list[str], message: str) -> None:
    done = hardy("distill", "nets:student", "--data", "data.npz", "-o", "out", "--json", *more)
    assert done.code != 0
    assert message in done.error["error"]
    assert not Path("out").exists()


def test_an_artifact_without_its_weights_is_no_model(hardy: Hardy) -> None:
    assert hardy("compile", "nets:student", "-t", "cpu", "-o", "program").code == 0
    done = hardy("finetune", "program", "--data", "data.npz", "--label", "label", "-o", "out", "--json")
    assert "does not hold the weights" in done.error["error"]
