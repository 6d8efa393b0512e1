"""What no accelerator is made of, with the reason."""

from __future__ import annotations

import pytest
import torch

from hardy.compiler.errors import HardyError, TargetError, UnsupportedError
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.ops.activation import Relu
from hardy.compiler.ops.elementwise import Add, Mul
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.quant import IntegerConv, IntegerMatmul, Requantize
from hardy.compiler.ops.shape import Transpose
from hardy.compiler.types import DType, TensorType
from hardy.targets.fpga.dataflow import Options, generate
from tests.targets.fpga.dataflow import networks
from tests.targets.fpga.dataflow.networks import NONE, Net


def refusal(graph: Graph, board: str = "pynq-z1", options: Options | None = None) -> str:
    with pytest.raises(HardyError) as caught:
        generate(graph, board, options)
    assert isinstance(caught.value, UnsupportedError | TargetError)
    return str(caught.value)


def test_requantization_by_a_float_says_how_to_quantize() -> None:
    net = Net((4,))
    y = net.dense(net.x, 3)
    zero = net.b.scalar(0, DType.i8)
    with net.b.at("model.py:7"):
        y = net.b(Requantize(DType.i8), y, net.b.constant(torch.tensor(0.1)), zero)
    text = refusal(net.finish(y))
    assert "requantize (model.py:7)" in text
    assert "power-of-two scales" in text


def test_a_network_too_large_for_the_board_says_what_would_help() -> None:
    text = refusal(networks.mlp((784, 1024, 1024, 10)))
    assert "does not fit pynq-z1" in text
    assert "block RAMs" in text
    assert "dense (" in text
    assert "weights of 1 bit:" in text


def test_a_rate_beyond_the_board_says_what_it_reaches() -> None:
    text = refusal(networks.cnn(), options=Options(frames_per_second=10_000_000))
    assert "does not reach 10,000,000 frames a second" in text
    assert "at most" in text


def test_a_product_of_floats_is_not_left_to_the_host() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (1, 4)))
    y = b(Relu(), b(Matmul(), x, b.constant(torch.ones(4, 3))))
    assert "matmul" in refusal(b.finish({"y": y}))


def test_values_that_could_wrap_are_refused_with_their_range() -> None:
    net = Net((200,), low=127, high=127)
    y = net.b(Mul(), net.dense(net.x, 3), net.i32(100_000))
    assert "would wrap" in refusal(net.finish(y))


def test_a_weight_that_is_computed_is_refused() -> None:
    b = Builder()
    x, w = (b.input(n, TensorType(DType.i8, (4, 4))) for n in "xw")
    assert "weights lie on chip" in refusal(b.finish({"y": b(IntegerMatmul(), x, w)}))


def test_a_shift_beyond_the_word_is_refused() -> None:
    net = Net((4,))
    assert "0..31" in refusal(net.finish(net.requantize(net.dense(net.x, 3), 32)))


def test_zero_points_are_refused() -> None:
    net = Net((2, 5, 5))
    zero = net.b.scalar(3, DType.i8)
    y = net.b(IntegerConv((1, 1), NONE, (1, 1)), net.x, net.random(2, 2, 3, 3), zero)
    assert "zero points must be 0" in refusal(net.finish(y))


def test_batches_are_refused_because_images_stream() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.i8, (2, 1, 5, 5)))
    w = b.constant(torch.ones(2, 1, 3, 3, dtype=torch.int8))
    assert "a batch of 1" in refusal(b.finish({"y": b(IntegerConv((1, 1), NONE, (1, 1)), x, w)}))


def test_an_image_in_another_order_is_refused() -> None:
    net = Net((2, 5, 5))
    y = net.requantize(net.conv(net.x, 3))
    turned = net.b(Transpose((0, 1, 3, 2)), y)
    assert "another order" in refusal(net.finish(net.conv(turned, 2)))


def test_a_bias_for_each_pixel_is_refused() -> None:
    net = Net((2, 5, 5))
    y = net.b(Add(), net.conv(net.x, 3), net.random(1, 3, 5, 5, dtype=torch.int32))
    assert "pixel to pixel" in refusal(net.finish(y))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"utilization": 1.5}, "above 0 and at most 1"),
        ({"name": "1st"}, "not a name in C"),
        ({"interface": "pcie"}, "memory or stream"),
        ({"clock_mhz": -1.0}, "must not be negative"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(TargetError, match=reason):
        Options(**options)  # type: ignore[arg-type]  # wrong on purpose


def test_an_unknown_board_lists_those_that_exist() -> None:
    assert "pynq-z1" in refusal(networks.mlp((4, 3)), "zybo")
