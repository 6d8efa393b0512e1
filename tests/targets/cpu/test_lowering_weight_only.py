"""Weights of 8 and 4 bits in compiled programs: read as they are stored where rows are few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import hardy
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.literal import Literal
from hardy.compiler.ops.activation import Relu
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.pipeline import random_inputs
from hardy.compiler.tolerance import require_close
from hardy.compiler.types import DType, TensorType
from hardy.passes import QuantizeWeights
from hardy.targets.cpu.isa import by_name, missing_on_host


def layer(rows: int, dtype: DType, zero: bool) -> Graph:
    """relu(x w^T + bias + x) with blocks of 32."""
    generator = torch.Generator().manual_seed(0)
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (rows, 96)))
    low, high = dtype.range
    integers = torch.randint(low, high + 1, (96, 96), generator=generator).to(dtype.torch)
    parameters = [b.constant(torch.rand(96, 3, generator=generator) / high)]
    if zero:
        zeros = torch.randint(low, high + 1, (96, 3), generator=generator).to(dtype.torch)
        parameters.append(b.constant(Literal(zeros, dtype)))
    w = b(Dequantize(1, 32), b.constant(Literal(integers, dtype)), *parameters)
    y = b(Add(), b(Matmul(transpose_b=True), x, w), b.constant(torch.randn(96, generator=generator)))
    return b.finish({"y": b(Relu(), b(Add(), y, x))})


@pytest.mark.parametrize("target", ["cpu:avx512", "cpu:avx2", "cpu:portable"])
@pytest.mark.parametrize(
    ("dtype", "zero"), [(DType.i8, False), (DType.u8, False), (DType.i4, True), (DType.u4, True)]
)
def test_a_layer_of_few_rows_is_one_kernel(target: str, dtype: DType, zero: bool) -> None:
    if missing := missing_on_host(by_name(target.partition(":")[2])):
        pytest.skip(f"this processor lacks {', '.join(missing)}")
    graph = layer(2, dtype, zero)
    artifact = hardy.compile(graph, target=target)
    (step,) = artifact.manifest["target"]["package"]["steps"]
    assert step.startswith("dequantize_matmul")
    given = random_inputs(graph.input_types())
    require_close("y", run(graph, given)["y"], artifact.run(given)["y"], scaled=True)


def test_the_artifact_holds_packed_weights(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (1, 256)))
    w = torch.from_numpy(np.random.default_rng(0).standard_normal((512, 256), dtype=np.float32))
    graph = b.finish({"y": b(Matmul(transpose_b=True), x, b.constant(w))})
    sizes = {}
    for bits, dtype in ((8, DType.i8), (4, DType.i4)):
        artifact = hardy.compile(graph, passes=[QuantizeWeights(dtype, block=32), ...])
        artifact.save(tmp_path / f"{bits}.hardy")
        sizes[bits] = (tmp_path / f"{bits}.hardy" / "weights.safetensors").stat().st_size
    assert sizes[8] < 512 * 256 * (1 + 4 / 32) + 4096
    assert sizes[4] < 512 * 256 * (1 / 2 + 4 / 32) + 4096


def test_many_rows_multiply_by_the_unpacked_weight() -> None:
    graph = layer(20, DType.i4, True)
    artifact = hardy.compile(graph)
    (step,) = artifact.manifest["target"]["package"]["steps"]
    assert step.startswith("matmul")
    given = random_inputs(graph.input_types())
    require_close("y", run(graph, given)["y"], artifact.run(given)["y"], scaled=True)
