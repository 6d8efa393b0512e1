"""Whole models as dataflow accelerators: from a module to C++ that computes the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import hardy
from hardy.compiler.artifact import Artifact
from hardy.compiler.errors import TargetError, UnsupportedError
from hardy.compiler.interpret import evaluate
from hardy.compiler.pipeline import random_inputs
from hardy.targets.target import find_target

TARGET = "fpga:dataflow:pynq-z1"


class Net(nn.Module):
    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=2)
        self.pool = nn.MaxPool2d(2)
        self.activation = activation()
        self.head = nn.Linear(36, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.activation(self.first(x))).flatten(1)).softmax(-1)


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 14, 14, generator=torch.Generator().manual_seed(0))


def compiled(module: nn.Module, out: Path | None = None) -> Artifact:
    return hardy.compile(
        module.eval(),
        (images(1),),
        target=TARGET,
        preset="int8",
        calibration=images(8).numpy(),
        out=out,
        keep_graph_weights=True,
    )


def test_a_network_becomes_one_accelerator_whose_artifact_computes_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    compiled(Net(), tmp_path / "net")
    artifact = hardy.load(tmp_path / "net")
    package = artifact.manifest["target"]["package"]
    assert [s["device"].partition(":")[0] for s in package["stages"]] == ["cpu", "dataflow", "cpu"]
    assert package["macs_share"]["dataflow:pynq-z1"] == 1.0
    assert package["stages"][1]["package"]["estimate"]["frames_per_second"] > 0
    for _ in range(2):
        inputs = random_inputs(artifact.inputs)
        expected = evaluate(artifact.graph, list(inputs.values()))
        for ours, reference in zip(artifact.run(inputs).values(), expected, strict=True):
            torch.testing.assert_close(ours, reference)


def test_a_network_that_falls_apart_is_refused_where_it_does() -> None:
    torch.manual_seed(0)
    with pytest.raises(UnsupportedError, match="it reads quantize, which the accelerator does not compute"):
        compiled(Net(nn.GELU))


def test_a_float_network_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="dataflow accelerator"):
        hardy.compile(Net().eval(), (images(1),), target=TARGET)


def test_names_make_the_same_target_again_and_unknown_boards_are_listed() -> None:
    for name in ("fpga:dataflow", TARGET, "fpga:dataflow:zcu104+cpu:portable"):
        target = find_target(name)
        assert find_target(target.name) == target
    with pytest.raises(TargetError, match="nexys") as raised:
        find_target("fpga:dataflow:nexys")
    assert "pynq-z1" in raised.value.hint
