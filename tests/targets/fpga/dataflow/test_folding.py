"""Folding: balanced stages within the board, and the resource estimates behind it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.targets.fpga.dataflow import Options, generate
from hardy.targets.fpga.dataflow.balance import balance, combine
from hardy.targets.fpga.dataflow.folding import Fold, Option, cycles, folds, layer_resources
from hardy.targets.fpga.dataflow.resources import KINDS, Resources, block_rams, fifo, multiplier
from hardy.targets.fpga.dataflow.schedule import schedule
from tests.targets.fpga.dataflow import networks


def test_a_larger_board_is_never_slower() -> None:
    graph = networks.cnn()
    small = generate(graph, "pynq-z1", Options(clock_mhz=100))
    large = generate(graph, "zcu104", Options(clock_mhz=100))
    assert large.report.interval <= small.report.interval


def test_what_is_generated_fits_the_part_of_the_board_it_may_take() -> None:
    for utilization in (0.3, 0.8):
        report = generate(networks.residual(), "pynq-z1", Options(utilization=utilization)).report
        assert report.total.fits(report.budget)
        assert report.budget.dsp == int(220 * utilization)
        summed = Resources()
        for layer in report.layers:
            summed += layer.resources
        assert summed + report.surroundings == report.total


def test_no_layer_could_keep_the_pace_with_less_of_everything() -> None:
    design = generate(networks.cnn(), "pynq-z1")
    slowest = max(layer.cycles for layer in design.report.layers)
    for layer, fold in zip(design.pipeline.network.layers, design.pipeline.folds, strict=True):
        taken = layer_resources(layer, fold)
        others = [layer_resources(layer, f) for f in folds(layer) if cycles(layer, f) <= slowest]
        assert not [r for r in others if r != taken and r.fits(taken)]


def test_a_rate_that_is_asked_for_is_met_by_less_hardware() -> None:
    graph = networks.cnn()
    fast = generate(graph, "pynq-z1")
    slow = generate(graph, "pynq-z1", Options(frames_per_second=3000))
    assert slow.report.frames_per_second >= 3000
    assert slow.report.total.lut + slow.report.total.dsp < fast.report.total.lut + fast.report.total.dsp


def test_the_cycles_of_a_stage_are_those_of_its_schedule() -> None:
    pipeline = generate(networks.depthwise(), "pynq-z1").pipeline
    for layer, fold in zip(pipeline.network.layers, pipeline.folds, strict=True):
        lengths = [
            schedule(pipeline, p, 3).length - schedule(pipeline, p, 2).length
            for p in pipeline.processes
            if p.layer is layer
        ]
        assert max(lengths) == cycles(layer, fold)


RESOURCES = st.builds(Resources, *[st.integers(0, 40) for _ in KINDS])
OPTIONS = st.builds(Option, st.just(Fold(1, 1)), st.integers(1, 12), RESOURCES)
LAYERS = st.lists(st.lists(OPTIONS, min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(LAYERS, RESOURCES)
def test_the_interval_found_is_the_least_of_all_combinations(
    layers: list[list[Option]], budget: Resources
) -> None:
    def total(chosen: tuple[Option, ...]) -> Resources:
        result = Resources()
        for option in chosen:
            result += option.resources
        return result

    fitting = [c for c in itertools.product(*layers) if total(c).fits(budget)]
    found = balance(layers, budget)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert total(found).fits(budget)
    best = min(max(o.cycles for o in c) for c in fitting)
    assert max(o.cycles for o in found) == best


def test_nothing_is_found_for_an_interval_that_no_option_keeps() -> None:
    assert combine([[Option(Fold(1, 1), 10, Resources())]], Resources(1, 1, 1, 1), 9) is None


@pytest.mark.parametrize(
    ("depth", "width", "blocks"),
    [(512, 36, 1), (512, 37, 2), (513, 36, 2), (1024, 18, 1), (16384, 1, 1), (100, 72, 2), (2048, 8, 1)],
)
def test_block_memories_take_their_best_shape(depth: int, width: int, blocks: int) -> None:
    assert block_rams(depth, width) == blocks


def test_estimates_grow_with_what_they_describe() -> None:
    assert fifo(64, 8).bram == 0 < fifo(1000, 8).bram
    assert multiplier(8, 8, "dsp") == Resources(dsp=1)
    assert multiplier(8, 2, "lut").lut < multiplier(8, 4, "lut").lut < multiplier(8, 8, "lut").lut
