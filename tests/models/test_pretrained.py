"""Pretrained networks from packages: `reference` and `cpu` agree with PyTorch, and do the network's job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import hardy
from examples.models import crepe, efficientnet_lite0, minilm, smollm2
from hardy.compiler.frontends.torch import trace
from hardy.compiler.ir import Graph
from hardy.compiler.tolerance import require_close

Load = Callable[[], tuple[torch.nn.Module, Any]]


def loaded(load: Load) -> tuple[torch.nn.Module, Any]:
    try:
        return load()
    except ImportError as error:
        pytest.skip(str(error))


TARGETS = ("reference", "cpu")


def checked(load: Load, targets: Sequence[str] = TARGETS) -> Graph:
    """The graph of a network, after all targets gave what PyTorch gives on the example inputs."""
    module, inputs = loaded(load)
    graph = trace(module, inputs)
    given = dict(zip(graph.input_names, pytree.tree_leaves(inputs), strict=True))
    with torch.no_grad():
        result = module(**inputs) if isinstance(inputs, dict) else module(*inputs)
    tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    expected = dict(zip(graph.output_names, tensors, strict=True))
    for target in targets:
        results = hardy.compile(graph, target=target).run(given)
        for output, tensor in expected.items():
            require_close(f"{output} on {target}", tensor, results[output], scaled=True)
    return graph


def test_minilm_agrees_and_keeps_its_attention_whole() -> None:
    graph = checked(minilm.load)
    ops = [n.op.name for n in graph.nodes]
    assert ops.count("attention") == 6
    assert ops.count("gelu") == 6
    assert ops.count("layer_norm") == 13


@pytest.mark.parametrize("target", ["reference", pytest.param("cpu", marks=pytest.mark.slow)])
def test_efficientnet_lite0_agrees(target: str) -> None:
    checked(efficientnet_lite0.load, [target])


def test_crepe_agrees() -> None:
    checked(crepe.load)


def test_crepe_tells_the_pitch_of_a_tone() -> None:
    graph = trace(*loaded(crepe.load))
    artifacts = [hardy.compile(graph, target=target) for target in TARGETS]
    for hertz in (110.0, 220.0, 440.0, 660.0):
        for artifact in artifacts:
            activation = artifact.run(samples=crepe.tone(hertz))["output"]
            assert crepe.hertz(activation) == pytest.approx(hertz, rel=0.012)


@pytest.mark.slow
@pytest.mark.parametrize("load", [crepe.load_full, smollm2.load])
def test_large_network_agrees(load: Load) -> None:
    checked(load)
