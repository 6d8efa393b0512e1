"""The comparison of an imported graph with its model: what it accepts, and what it must not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hardy.compiler.errors import MismatchError
from hardy.compiler.frontends.selftest import ImportCheck, compare_outputs
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.ops.activation import Relu
from hardy.compiler.ops.elementwise import Sign
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.types import DType, TensorType

ROWS, WIDTH = 64, 16


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(rectified: bool = False) -> Graph:
    """Two products, each of signs but the first; with `rectified`, zeros are among the signs' numbers."""
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (ROWS, WIDTH)))
    for seed in (1, 2):
        rounded = b(Sign(), b(Relu(), x) if rectified else x)
        x = b(Matmul(), rounded, b.constant(normal(WIDTH, WIDTH, seed=seed)))
    return b.finish({"y": x})


def check(graph: Graph, x: Tensor, other: Tensor) -> ImportCheck:
    """The graph on x against a model that computed what the graph does on `other`."""
    return compare_outputs("a model", run(graph, {"x": other}), graph, {"x": x})


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_signs_within_rounding_error_of_zero_may_be_the_models(count: int, rectified: bool) -> None:
    x = normal(ROWS, WIDTH)
    other = x.clone()
    for row in range(count):
        x[10 * row, row], other[10 * row, row] = 1e-7, -1e-7
    found = check(network(rectified), x, other)
    assert found.passed
    # A sign that changes no output need not be taken the other way.
    assert 0 < found.signs <= count
    assert found.to_json()["signs"] == found.signs
    assert "rounding decides" in found.summary()
    assert check(network(rectified), x, x).signs == 0


def test_a_sign_that_the_model_found_to_be_zero_is_accepted() -> None:
    x = normal(ROWS, WIDTH)
    other = x.clone()
    x[0, 0], other[0, 0] = -1e-7, 0.0
    assert check(network(), x, other).signs == 1


def test_a_sign_of_a_number_beyond_rounding_error_is_a_fault() -> None:
    x = normal(ROWS, WIDTH)
    other = x.clone()
    x[0, 0], other[0, 0] = 1e-3, -1e-3
    with pytest.raises(MismatchError, match=r"output 'y' at \[0, "):
        check(network(), x, other)


def test_undecided_signs_excuse_nothing_else() -> None:
    x = normal(ROWS, WIDTH)
    x[0, 0] = 1e-7
    graph = network()
    expected = run(graph, {"x": x})["y"].clone()
    expected[0, 3] += 0.1
    with pytest.raises(MismatchError, match="differs from a model"):
        compare_outputs("a model", {"y": expected}, graph, {"x": x})
    flipped = x.clone()
    flipped[0, 0] = -1e-7
    expected = run(graph, {"x": flipped})["y"].clone()
    expected[9, 3] += 0.1
    with pytest.raises(MismatchError, match="differs from a model"):
        compare_outputs("a model", {"y": expected}, graph, {"x": x})


def test_more_undecided_signs_than_can_be_tried_are_a_fault_not_a_pass() -> None:
    x = 1e-7 * normal(ROWS, WIDTH)
    with pytest.raises(MismatchError):
        check(network(), x, -x)
