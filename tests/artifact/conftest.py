from __future__ import annotations

from pathlib import Path

import pytest
import torch

import hardy
from hardy.compiler.artifact import Artifact
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.literal import Literal
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.types import DType, TensorType


@pytest.fixture
def graph() -> Graph:
    """x @ w + b, beside constants of types that only hardy tells apart and an input passed through."""
    rng = torch.Generator().manual_seed(3)
    b = Builder("affine")
    x = b.input("x", TensorType(DType.f32, (2, 16)))
    weight = b.constant(torch.randn(16, 9, generator=rng), name="weight", source="model.py:3")
    bias = b.constant(torch.randn(9, generator=rng), name="bias")
    packed = torch.randint(-8, 8, (3, 7), dtype=torch.int8, generator=rng)
    narrow = b.constant(Literal(packed, DType.i4), name="narrow")
    half = b.constant(torch.randn(5, 3, generator=rng).bfloat16(), name="half")
    y = b(Add(), b(Matmul(), x, weight), bias)
    return b.finish({"y": y, "narrow": narrow, "half": half, "same": x})


@pytest.fixture
def artifact(graph: Graph) -> Artifact:
    return hardy.compile(graph, target="reference")


@pytest.fixture
def saved(artifact: Artifact, tmp_path: Path) -> Path:
    path = tmp_path / "model.hardy"
    artifact.save(path)
    return path


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 16, generator=torch.Generator().manual_seed(5))
