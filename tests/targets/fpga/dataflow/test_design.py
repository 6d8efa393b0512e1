"""Accelerators in C simulation: the C++ that ships computes what the reference does, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from hardy.compiler.driver import compile
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.models import trace
from hardy.compiler.ops.elementwise import Add, Max, Min
from hardy.compiler.ops.quant import Dequantize, IntegerConv, Quantize
from hardy.compiler.types import DType, TensorType
from hardy.passes import LowerBinary
from hardy.targets.fpga.dataflow import Design, Options, generate
from tests.shift_device import ShiftTarget
from tests.targets.fpga.dataflow import networks
from tests.targets.fpga.dataflow.networks import Net


def frames_of(graph: Graph, count: int) -> list[dict[str, torch.Tensor]]:
    """Random inputs of the full range, the extremes first."""
    torch.manual_seed(1)
    types = graph.input_types()
    extremes = [
        {n: torch.full(t.shape, v, dtype=t.dtype.torch) for n, t in types.items()} for v in (-128, 127)
    ]
    random = [
        {n: torch.randint(-128, 128, t.shape, dtype=t.dtype.torch) for n, t in types.items()}
        for _ in range(count)
    ]
    return [*extremes, *random][:count]


def expect_exact(design: Design, frames: list[dict[str, torch.Tensor]], plain: bool = True) -> None:
    made = design.simulate_frames(frames, plain_integers=plain)
    for inputs, outputs in zip(frames, made, strict=True):
        for name, expected in run(design.graph, inputs).items():
            assert torch.equal(outputs[name], expected), name


@pytest.mark.parametrize(
    ("build", "board"),
    [(networks.cnn, "pynq-z1"), (networks.residual, "pynq-z1"), (networks.depthwise, "zcu104")],
)
def test_convolutional_networks_are_exact(build: Callable[[], Graph], board: str) -> None:
    graph = build()
    expect_exact(generate(graph, board), frames_of(graph, 4))


def test_a_multilayer_perceptron_is_exact() -> None:
    graph = networks.mlp()
    expect_exact(generate(graph, "pynq-z1"), frames_of(graph, 4))


def test_a_slow_accelerator_is_exact_too() -> None:
    graph = networks.cnn(14)
    design = generate(graph, "pynq-z1", Options(frames_per_second=2000))
    assert all(fold.simd == fold.pe == 1 for fold in design.pipeline.folds[-2:])
    expect_exact(design, frames_of(graph, 3))


def test_ternary_weights_take_two_bits_and_no_multiplier() -> None:
    graph = networks.ternary()
    design = generate(graph, "pynq-z1")
    assert [layer.weight_bits for layer in design.report.layers if layer.macs] == [2, 2]
    assert design.report.total.dsp == 0
    expect_exact(design, frames_of(graph, 3))


def test_a_binary_network_is_exact() -> None:
    graph = networks.binary()
    design = generate(graph, "pynq-z1")
    assert [layer.weight_bits for layer in design.report.layers] == [6 + 1, 1, 1, 1]
    expect_exact(design, frames_of(graph, 4))


@pytest.mark.parametrize("build", [networks.ternary, lambda: networks.mlp((12, 8, 4))])
def test_the_types_of_arbitrary_width_give_the_same_as_plain_integers(build: Callable[[], Graph]) -> None:
    graph = build()
    expect_exact(generate(graph, "pynq-z1"), frames_of(graph, 3), plain=False)


class Signs(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x >= 0, 1.0, -1.0)


def test_what_lower_binary_gives_runs_with_float_normalizations_as_thresholds() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        *(Signs(), nn.Conv2d(5, 12, 3, 1, 1), nn.BatchNorm2d(12)),
        *(Signs(), nn.Flatten(), nn.Linear(12 * 16, 10, bias=False), nn.BatchNorm1d(10)),
        *(Signs(), nn.Linear(10, 4)),
    )
    with torch.no_grad():
        for part in module:
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.weight.copy_(torch.where(part.weight >= 0, 1.0, -1.0))
            if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
                part.weight.normal_()
                part.running_mean.normal_(0, 3)
                part.running_var.uniform_(0.5, 20)
    graph = LowerBinary().run(trace(module.eval(), (torch.zeros(1, 5, 4, 4),)))
    assert "batch_norm" in str(graph)
    design = generate(graph, "pynq-z1")
    assert "batch_norm" not in design.parts.on_host
    expect_exact(design, [{"input": torch.randn(1, 5, 4, 4)} for _ in range(4)])


def test_the_host_quantizes_before_and_dequantizes_after() -> None:
    net = Net((6,))
    b = net.b
    b._nodes.clear()
    b._inputs.clear()
    scale = b.constant(torch.tensor(0.25))
    x = b(Quantize(DType.i8), b.input("x", TensorType(DType.f32, (1, 6))), scale)
    y = b(Dequantize(), net.dense(net.requantize(net.dense(x, 5), 7), 3), scale)
    graph = net.finish(y)
    design = generate(graph, "pynq-z1")
    assert design.parts.on_host == ["quantize", "dequantize"]
    expect_exact(design, [{"x": torch.randn(1, 6) * 10} for _ in range(3)])


class Block(nn.Module):
    """A skip connection, a stride, a pool and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c, self.d = nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(x + self.b(x))
        x = torch.max_pool2d(torch.relu(self.c(x)), 2)
        return self.d(x.mean((2, 3)))


def test_a_torch_module_quantized_by_powers_of_two_is_exact_from_end_to_end() -> None:
    torch.manual_seed(0)
    data = [(torch.randn(1, 1, 12, 12),) for _ in range(4)]
    artifact = compile(Block().eval(), data[0], target=ShiftTarget(), preset="int8", calibration=data)
    design = generate(artifact.graph, "pynq-z1")
    assert design.parts.on_host == ["quantize", "dequantize"]
    (name,) = artifact.graph.input_names
    expect_exact(design, [{name: x} for (x,) in data])


def test_ports_can_be_streams() -> None:
    graph = networks.mlp((12, 8, 4))
    design = generate(graph, "pynq-z1", Options(interface="stream", name="mlp"))
    source = design.files["src/top.cpp"].decode()
    assert "interface axis port=in_x" in source
    assert "m_axi" not in source
    expect_exact(design, frames_of(graph, 3))


def test_files_are_the_same_when_made_twice() -> None:
    first, second = (generate(networks.cnn(12), "pynq-z1").files for _ in range(2))
    assert dict(first) == dict(second)


def test_limits_that_always_act_or_never_do_are_exact() -> None:
    net = Net((4,), low=-2, high=2)
    y = net.dense(net.x, 4)
    b = net.b
    y = b(Max(), y, b.constant(torch.tensor([-5000, 0, 5000, 7], dtype=torch.int32)))
    y = b(Min(), y, b.constant(torch.tensor([-4000, 5000, 6000, 9], dtype=torch.int32)))
    graph = net.finish(b(Add(), y, net.random(4, dtype=torch.int32)))
    expect_exact(generate(graph, "pynq-z1"), frames_of(graph, 4))


def test_one_input_for_several_folds_of_outputs_compiles_without_a_warning() -> None:
    net = Net((1, 3, 3), low=-1, high=1)
    signs = net.b.constant(torch.tensor([1, -1, 1], dtype=torch.int8).reshape(3, 1, 1, 1))
    graph = net.finish(net.b(IntegerConv((1, 1), networks.NONE, (1, 1)), net.x, signs))
    design = generate(graph, "pynq-z1", Options(frames_per_second=1000))
    assert design.pipeline.folds[0].pe == design.pipeline.folds[0].simd == 1
    expect_exact(design, frames_of(graph, 3))


def test_vectors_hold_what_the_testbench_is_to_find() -> None:
    graph = networks.mlp((12, 8, 4))
    design = generate(graph, "pynq-z1")
    frames = frames_of(graph, 3)
    vectors = design.vectors(frames)
    expected = torch.cat([run(graph, f)["y"] for f in frames])
    (port,) = [p for p in vectors if "out_" in p]
    stored = np.frombuffer(vectors[port], "int16").reshape(3, -1)
    assert np.array_equal(stored, expected.numpy())
