"""FIFO depths: no deadlock, by the model and by the C++ itself, and none deeper than it must be for that."""

from __future__ import annotations

import pytest
import torch

from hardy.compiler.ops.elementwise import Add
from hardy.targets.fpga.dataflow import Design, generate
from hardy.targets.fpga.dataflow.depths import DeadlockError, simulate
from tests.targets.fpga.dataflow import networks
from tests.targets.fpga.dataflow.networks import Net


@pytest.fixture(scope="module")
def design() -> Design:
    return generate(networks.residual(), "pynq-z1")


def with_depths(design: Design, depths: dict[str, int]) -> Design:
    pipeline = design.pipeline.with_depths(depths)
    return Design(
        design.graph,
        design.parts,
        design.traffic,
        pipeline,
        design.depths,
        design.report,
        design.options,
        design.board,
    )


def test_every_skip_connection_gets_a_fifo_that_waits_for_the_other_path(design: Design) -> None:
    joined = [f.name for f in design.report.fifos if f.least]
    assert len(joined) == 2
    assert all(design.pipeline.fifos[n].depth >= design.depths.least[n] > 2 for n in joined)


def test_the_model_runs_with_the_least_depths_and_deadlocks_with_one_less(design: Design) -> None:
    usual = dict.fromkeys(design.pipeline.fifos, 2)
    least = {**usual, **design.depths.least}
    simulate(design.pipeline.with_depths(least))
    for name, depth in design.depths.least.items():
        with pytest.raises(DeadlockError, match=f"waits for {name}, which is full"):
            simulate(design.pipeline.with_depths({**least, name: depth - 1}))


def test_the_generated_code_agrees_with_the_model_about_the_least_depths(design: Design) -> None:
    inputs = {"x": torch.randint(-128, 128, (1, 4, 8, 8), dtype=torch.int8)}
    least = {**dict.fromkeys(design.pipeline.fifos, 2), **design.depths.least}
    with_depths(design, least).simulate_frames([inputs, inputs])
    name, depth = next(iter(design.depths.least.items()))
    with pytest.raises(DeadlockError, match=f"waits for {name}, which is full"):
        with_depths(design, {**least, name: depth - 1}).simulate_frames([inputs, inputs])


def test_chosen_depths_keep_the_pace_of_the_slowest_stage(design: Design) -> None:
    slowest = max(layer.cycles for layer in design.report.layers)
    timing = simulate(design.pipeline)
    assert slowest <= timing.interval <= 1.02 * slowest
    assert timing.interval == design.report.interval
    assert timing.latency == design.report.latency


def test_a_chain_of_layers_never_deadlocks_at_the_usual_depth() -> None:
    design = generate(networks.cnn(12), "pynq-z1")
    assert design.depths.least == {}
    simulate(design.pipeline.with_depths(dict.fromkeys(design.pipeline.fifos, 1)))


def test_a_longer_path_needs_a_deeper_fifo_beside_it() -> None:
    def depth(convolutions: int) -> int:
        net = Net((2, 6, 6))
        y = net.x
        for _ in range(convolutions):
            y = net.requantize(net.conv(y, 2))
        total = net.b(Add(), net.wide(y), net.wide(net.x))
        made = generate(net.finish(net.requantize(total, 2)), "zcu104")
        (least,) = made.depths.least.values()
        return least

    assert depth(1) < depth(2) < depth(3)
