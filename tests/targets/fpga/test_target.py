"""Whole models on a board with VTA: what runs where, and to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hardy
from hardy.compiler.artifact import Artifact
from hardy.compiler.errors import TargetError, UnsupportedError, UsageError
from hardy.compiler.interpret import evaluate
from hardy.compiler.ir import Builder
from hardy.compiler.literal import Literal
from hardy.compiler.ops.quant import Dequantize, IntegerMatmul, Quantize, RequantizeShift
from hardy.compiler.pipeline import random_inputs
from hardy.compiler.types import DType, TensorType
from hardy.targets.fpga import simulate
from hardy.targets.fpga.config import find_config
from hardy.targets.fpga.hls import simulate_hls
from hardy.targets.fpga.summary import summarize
from hardy.targets.target import find_target

SMALL = "fpga:pynq-z1/1x8"


class Net(nn.Module):
    """A small residual network with every kind of layer that VTA has."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.activation = activation()
        self.average = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.first(x).relu())
        y = (self.second(x) + x).relu()
        y = self.activation(self.depthwise(y))
        return self.head(self.average(y).flatten(1))


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 20, 20, generator=torch.Generator().manual_seed(0))


def compiled(module: nn.Module, out: Path | None = None, target: str = SMALL) -> Artifact:
    torch.manual_seed(0)
    return hardy.compile(
        module.eval(),
        (images(1),),
        target=target,
        preset="int8",
        calibration=images(8).numpy(),
        out=out,
        keep_graph_weights=True,
    )


def equals_the_reference(artifact: Artifact) -> None:
    inputs = random_inputs(artifact.inputs)
    ours = artifact.run(inputs)
    expected = evaluate(artifact.graph, list(inputs.values()))
    for result, reference in zip(ours.values(), expected, strict=True):
        assert torch.equal(result, reference)


def test_a_quantized_network_runs_on_the_accelerator_to_the_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    artifact = compiled(Net(), tmp_path / "net")
    stages = artifact.manifest["target"]["package"]["stages"]
    assert [s["device"].partition(":")[0] for s in stages] == ["cpu", "vta", "cpu"]
    assert artifact.manifest["target"]["package"]["macs_share"]["vta:1x8"] == 1.0
    equals_the_reference(artifact)
    equals_the_reference(hardy.load(tmp_path / "net"))


def test_what_the_accelerator_cannot_do_runs_on_the_host_between_its_stages() -> None:
    torch.manual_seed(0)
    artifact = compiled(Net(nn.GELU))
    stages = artifact.manifest["target"]["package"]["stages"]
    assert [s["device"].partition(":")[0] for s in stages] == ["cpu", "vta", "cpu", "vta", "cpu"]
    equals_the_reference(artifact)


def test_a_float_network_is_refused_with_the_step_that_is_missing() -> None:
    with pytest.raises(UnsupportedError, match="VTA computes with integers") as raised:
        hardy.compile(Net().eval(), (images(1),), target=SMALL)
    assert "--preset int8 --calibration" in raised.value.hint


def test_a_board_that_does_not_exist_is_an_error_that_lists_those_that_do() -> None:
    with pytest.raises(TargetError, match="nexys") as raised:
        find_target("fpga:nexys")
    assert "pynq-z1" in raised.value.hint


def test_a_configuration_that_does_not_exist_is_an_error_that_lists_those_that_do() -> None:
    with pytest.raises(TargetError, match="9x9") as raised:
        find_target("fpga:pynq-z1/9x9")
    assert "1x8" in str(raised.value.hint)


def test_a_host_that_does_not_exist_is_an_error_that_names_it() -> None:
    with pytest.raises(TargetError, match="abacus"):
        find_target("fpga:pynq-z1+abacus")


def no_layer(artifact: Artifact) -> list[dict[str, str]]:
    return [row for p in artifact.report["passes"] for row in p["notes"].get("no_layer", ())]


def test_a_layer_whose_smallest_tile_exceeds_a_buffer_runs_on_the_host_and_the_report_says_why() -> None:
    # One block of outputs takes 144 elements of weights and one of bias; the buffer of 1x4 has 128.
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 12), nn.ReLU())
    artifact = compiled(module, target="fpga:pynq-z1/1x4")
    (refusal,) = no_layer(artifact)
    assert refusal["where"].startswith("2 ")
    assert "needs 145 elements of the weight buffer" in refusal["why"]
    stages = artifact.manifest["target"]["package"]["stages"]
    assert [s["device"].partition(":")[0] for s in stages] == ["cpu", "vta", "cpu"]
    assert 0 < artifact.manifest["target"]["package"]["macs_share"]["vta:1x4"] < 1
    equals_the_reference(artifact)


def test_products_with_weights_of_four_bits_run_on_the_host_and_the_report_says_why() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (2, 16)))
    scale = b.scalar(0.25, DType.f32)
    q = b(Quantize(DType.i8), x, scale)
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(-9, 10, (16, 16), generator=generator).to(torch.int8)
    hidden = b(RequantizeShift(DType.i8), b(IntegerMatmul(), q, b.constant(first)), b.scalar(6, DType.i32))
    narrow = torch.randint(-8, 8, (16, 8), generator=generator).to(torch.int8)
    weights = b.constant(Literal(narrow, DType.i4))
    total = b(IntegerMatmul(), hidden, weights)
    graph = b.finish({"y": b(Dequantize(), total, scale)})
    artifact = hardy.compile(graph, target=SMALL, keep_graph_weights=True)
    (refusal,) = no_layer(artifact)
    assert refusal["op"] == "integer_matmul"
    assert refusal["why"] == "it multiplies i8[2,16] with i4[16,8]; products are i8 with constant i8"
    assert 0 < artifact.manifest["target"]["package"]["macs_share"]["vta:1x8"] < 1
    equals_the_reference(artifact)


def test_the_summary_adds_up_the_estimates_of_all_stages() -> None:
    torch.manual_seed(0)
    artifact = compiled(Net(nn.GELU))
    summary = summarize(artifact)
    assert [d.partition(":")[0] for d in summary.devices] == ["cpu", "vta", "cpu", "vta", "cpu"]
    stages = artifact.manifest["target"]["package"]["stages"]
    assert summary.cycles == sum(s["package"]["estimate"]["cycles"] for s in (stages[1], stages[3]))
    assert summary.cycles == sum(row["cycles"] for row in summary.layers)
    assert summary.seconds == pytest.approx(summary.cycles / 100e6)
    assert 0 < summary.gemm_use < 1
    with pytest.raises(UsageError, match="for reference"):
        summarize(hardy.compile(Net().eval(), (images(1),), target="reference"))


def test_the_targets_name_makes_the_same_target_again() -> None:
    for name in ("fpga", "fpga:zcu104", SMALL, "fpga:ultra96+cpu:portable"):
        target = find_target(name)
        assert find_target(target.name) == target
    assert find_target("fpga:ultra96+cpu:portable").name == "fpga:ultra96+cpu:portable"


def test_the_files_of_a_stage_say_what_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    compiled(Net(), tmp_path / "net")
    folder = tmp_path / "net" / "target" / "stages" / "1-vta"
    code = (folder / "instructions.bin").read_bytes()
    readme = (folder / "README.md").read_text()
    assert f"{len(code) // 16} instructions" in readme
    assert (folder / "disassembly.txt").read_text().count("\n") == len(code) // 16


def test_the_accelerator_comes_with_the_program_as_hls_cpp(tmp_path: Path) -> None:
    torch.manual_seed(0)
    compiled(Net(), tmp_path / "net")
    device = tmp_path / "net" / "target" / "device"
    stage = tmp_path / "net" / "target" / "stages" / "1-vta"
    assert (device / "hls.tcl").exists()
    config = find_config("1x8")
    rng = np.random.default_rng(0)
    manifest = hardy.load(tmp_path / "net").manifest["target"]["package"]["stages"][1]["package"]
    dram = np.fromfile(stage / "dram.bin", np.uint8)
    for place in manifest["inputs"]:
        n, c, rows, columns = place["shape"]
        size = n * -(-c // config.block) * config.block * rows * columns
        dram[place["offset"] : place["offset"] + size] = rng.integers(0, 256, size)
    code = (stage / "instructions.bin").read_bytes()
    ours = simulate(code, dram, config)
    np.testing.assert_array_equal(simulate_hls(code, dram, config), ours)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net()
    first, second = (compiled(net, tmp_path / name) for name in "ab")
    assert first.manifest["digest"] == second.manifest["digest"]
