"""Passes that train: they know the graph before the lossy passes, and keep what those did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.pass_list import resolve_passes
from hardy.compiler.pipeline import Pass, Pipeline
from hardy.passes import EliminateDeadCode, Finetune, Recover
from hardy.passes.layers import layers
from tests.training.nets import classes, perceptron
from tests.training.test_recover import network, points, pruned, quantized, signal_to_noise


@dataclass(frozen=True)
class DropHalf(Pass):
    """Set the smaller half of each weight to zero."""

    exact: ClassVar[bool] = False

    def run(self, graph: Graph) -> Graph:
        return pruned(graph)


@dataclass(frozen=True)
class FourBits(Pass):
    """Store weights in four bits."""

    exact: ClassVar[bool] = False

    def run(self, graph: Graph) -> Graph:
        return quantized(graph)


def test_recover_gets_the_graph_before_the_first_lossy_pass_from_the_pipeline() -> None:
    graph = network()
    lossy = Pipeline((EliminateDeadCode(), DropHalf(), FourBits())).run(graph).graph
    passes = (EliminateDeadCode(), DropHalf(), FourBits(), Recover(calibration=points(), rate=1e-2))
    result = Pipeline(passes).run(graph)
    assert signal_to_noise(graph, result.graph) > signal_to_noise(graph, lossy) + 2
    blocks = result.records[-1].notes["blocks"]
    assert len(blocks) == 4
    assert all(block["after"] < block["before"] for block in blocks if block["kept"])
    assert "original" not in result.records[-1].options


def test_finetune_learns_from_the_outputs_before_the_lossy_passes_and_keeps_zeros() -> None:
    graph = network()
    lossy = pruned(graph)
    tuned = Pipeline((DropHalf(), Finetune(calibration=points(), epochs=5, rate=1e-2))).run(graph).graph
    assert signal_to_noise(graph, tuned) > signal_to_noise(graph, lossy) + 2
    for before, after in zip(layers(lossy), layers(tuned), strict=True):
        assert torch.equal(before.data == 0, after.data == 0)


def test_finetune_learns_from_labels() -> None:
    graph = perceptron()
    passes = resolve_passes("finetune(label='label', epochs=8, rate=0.02, batch=8)", ())
    result = Pipeline((Finetune(**vars(passes[0]) | {"calibration": classes()}),)).run(graph)
    losses = list(result.records[0].notes["loss"].values())
    assert losses[-1] < 0.5 * losses[0]


def test_finetune_that_does_harm_changes_nothing_and_says_so() -> None:
    harm = Finetune(calibration=points(16), epochs=1, rate=10.0)
    result = Pipeline((DropHalf(), harm)).run(network())
    assert not result.records[-1].changed
    notes = result.records[-1].notes
    assert notes["after"] > notes["before"]
    assert notes["kept"] is False


def test_finetune_leaves_a_graph_alone_that_nothing_was_done_to() -> None:
    graph = network()
    assert Pipeline((Finetune(calibration=points(8)),)).run(graph).graph is graph


def test_recover_leaves_a_graph_alone_that_nothing_was_done_to() -> None:
    graph = network()
    assert Pipeline((Recover(calibration=points(8)),)).run(graph).graph is graph


@pytest.mark.parametrize("kind", [Recover, Finetune])
def test_passes_that_train_say_what_they_lack(kind: type[Recover | Finetune]) -> None:
    with pytest.raises(UsageError, match="needs data"):
        Pipeline((DropHalf(), kind())).run(network())
    with pytest.raises(UsageError, match="original graph"):
        kind(calibration=points(8)).run(network())
