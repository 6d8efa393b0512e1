"""Pretrained networks from packages: the graph agrees with PyTorch and does the network's job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from examples.models import crepe, efficientnet_lite0, minilm, smollm2
from hardy.compiler.frontends.selftest import check_torch
from hardy.compiler.frontends.torch import trace
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph

Load = Callable[[], tuple[torch.nn.Module, Any]]


def loaded(load: Load) -> tuple[torch.nn.Module, Any]:
    try:
        return load()
    except ImportError as error:
        pytest.skip(str(error))


def checked(load: Load) -> Graph:
    module, inputs = loaded(load)
    graph = trace(module, inputs)
    assert check_torch(module, inputs, graph).passed
    return graph


def test_minilm_agrees_and_keeps_its_attention_whole() -> None:
    graph = checked(minilm.load)
    ops = [n.op.name for n in graph.nodes]
    assert ops.count("attention") == 6
    assert ops.count("gelu") == 6
    assert ops.count("layer_norm") == 13


def test_efficientnet_lite0_agrees() -> None:
    checked(efficientnet_lite0.load)


@pytest.mark.parametrize("hertz", [110.0, 220.0, 440.0, 660.0])
def test_crepe_tells_the_pitch_of_a_tone(hertz: float) -> None:
    module, _ = loaded(crepe.load)
    tone = crepe.tone(hertz)
    graph = trace(module, (tone,))
    found = crepe.hertz(run(graph, {"samples": tone})["output"])
    assert found == pytest.approx(hertz, rel=0.012)


@pytest.mark.slow
@pytest.mark.parametrize("load", [crepe.load_full, smollm2.load])
def test_large_network_agrees(load: Load) -> None:
    checked(load)
