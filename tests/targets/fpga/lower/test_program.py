"""Programs of several layers: exact, ordered by their tokens, and refused where a tile does not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.board import find_memory
from hardy.targets.fpga.config import find_config
from hardy.targets.fpga.cycles import estimate, layers
from hardy.targets.fpga.isa import ProgramError, Store
from hardy.targets.fpga.lower.constants import constants
from hardy.targets.fpga.lower.layer import Layer, MaxPool, average_pool, dense, max_pool
from hardy.targets.fpga.lower.plan import Plan, Tiling
from hardy.targets.fpga.lower.program import Call, Network, Program, alone, assemble, compile_layers
from hardy.targets.fpga.lower.search import plain, work
from hardy.targets.fpga.lower.tokens import check_tokens
from hardy.targets.fpga.queues import queue_of
from tests.targets.fpga.lower.strategies import assert_exact


def conv(name: str, shape: tuple[int, int, int, int], outputs: int, kernel: int = 3, **rest: object) -> Layer:
    rng = np.random.default_rng(len(name))
    weights = rng.integers(-30, 31, (outputs, shape[1], kernel, kernel)).astype(np.int8)
    pad = kernel // 2
    fields = {"padding": ((pad, pad), (pad, pad)), "shift": 8, **rest}
    bias = rng.integers(-500, 500, outputs).astype(np.int32)
    return Layer(name, shape, weights, bias=bias, **fields)  # type: ignore[arg-type] # fields of any type


def small_resnet() -> Network:
    """A first layer with a pool, a residual block with a strided branch, a mean and a classifier."""
    pool = MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)))
    weights = np.random.default_rng(1).integers(-30, 31, (10, 24)).astype(np.int8)
    return Network(
        {"image": (1, 6, 12, 12)},
        (
            Call(conv("first", (1, 6, 12, 12), 12, low=0, pool=pool), ("image",), "a"),
            Call(conv("up", (1, 12, 6, 6), 24, stride=(2, 2), low=0), ("a",), "b"),
            Call(conv("side", (1, 12, 6, 6), 24, 1, stride=(2, 2)), ("a",), "c"),
            Call(conv("out", (1, 24, 3, 3), 24, residuals=(5,), low=0), ("b", "c"), "d"),
            Call(average_pool("mean", (1, 24, 3, 3), (3, 3), (1, 1), 57, 9), ("d",), "e"),
            Call(dense("fc", 1, weights, shift=6), ("e",), "f"),
        ),
        ("d", "f"),
    )


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_layers(small_resnet(), "1x8")


@pytest.mark.parametrize("config", ["1x4", "1x8", "2x8", "pynq-z1"])
@pytest.mark.parametrize("memory", ["axi64", "slow"])
def test_a_network_with_searched_tiles_is_exact(config: str, memory: str) -> None:
    program = compile_layers(small_resnet(), config, memory)
    check_tokens(program.instructions, program.dram, program.config)
    for seed in (0, 1):
        assert_exact(program, seed)


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_network_in_any_tiles_is_exact(data: st.DataObject) -> None:
    tilings = [
        Tiling(
            data.draw(st.integers(1, call.layer.out_shape[2])),
            data.draw(st.integers(1, call.layer.out_shape[3])),
            data.draw(st.integers(1, 2)),
            data.draw(st.integers(1, 3)),
            data.draw(st.booleans()),
        )
        for call in small_resnet().calls
    ]
    program = compile_layers(small_resnet(), "2x8", tilings=tilings)
    check_tokens(program.instructions, program.dram, program.config)
    assert_exact(program)


@pytest.mark.parametrize("config", ["1x4", "pynq-z1"])
@pytest.mark.parametrize("tiling", [Tiling(1, 2, 1, 1, True, True), Tiling(2, 5, 2, 1, True, True)])
def test_rows_that_two_pools_share_are_computed_once(config: str, tiling: Tiling) -> None:
    layer = conv("pool", (2, 5, 9, 9), 20, pool=MaxPool((3, 3), (2, 2), ((1, 1), (1, 1))))
    program = compile_layers(alone(layer), config, tilings=[tiling])
    check_tokens(program.instructions, program.dram, program.config)
    assert_exact(program)
    (plan,) = program.plans
    rows = sum(w.rows.size for w in plan.windows if w.columns.start == 0)
    assert rows == 2 * layer.conv_shape[2]


@pytest.mark.parametrize("kernel", [(3, 1, 1), (5, 1, 2), (3, 2, 1), (2, 2, 0), (3, 2, 0), (3, 3, 0)])
@pytest.mark.parametrize("tiling", [Tiling(2, 3, 1, 1), Tiling(1, 1, 1, 1), Tiling(2, 4, 2, 1)])
def test_max_pools_of_common_shapes_are_exact(kernel: tuple[int, int, int], tiling: Tiling) -> None:
    k, s, p = kernel
    layer = max_pool("pool", (1, 20, 9, 11), MaxPool((k, k), (s, s), ((p, p), (p, p))))
    assert_exact(compile_layers(alone(layer), "1x8", tilings=[tiling]))


def test_a_plain_schedule_gives_the_same_results_later(program: Program) -> None:
    config, memory = program.config, find_memory("axi64")
    plans = [plain(plan.layer, plan.constants, config) for plan in program.plans]
    slow = assemble(program.network, plans, config, memory, overlap=False)
    check_tokens(slow.instructions, slow.dram, config)
    assert_exact(slow)
    fast = estimate(program.instructions, config, memory).cycles
    assert estimate(slow.instructions, config, memory).cycles > fast


def test_every_token_is_needed(program: Program) -> None:
    """Without any one token, that is its push and its pop, the checker finds a race."""
    names = {"push_next": "pop_prev", "push_prev": "pop_next"}
    removed = 0
    for push, pop in names.items():
        for sender, receiver in ((0, 1), (1, 0), (1, 2), (2, 1)):
            if (receiver > sender) != (push == "push_next"):
                continue
            pushes, pops = (
                [
                    n
                    for n, i in enumerate(program.instructions)
                    if getattr(i.tokens, flag) and queue_of(i) == queue
                ]
                for flag, queue in ((push, sender), (pop, receiver))
            )
            assert len(pushes) == len(pops)
            for a, b in list(zip(pushes, pops, strict=True)):
                changed = list(program.instructions)
                for n, flag in ((a, push), (b, pop)):
                    tokens = replace(changed[n].tokens, **{flag: False})
                    changed[n] = replace(changed[n], tokens=tokens)
                with pytest.raises(ProgramError, match=r"before|FINISH"):
                    check_tokens(changed, program.dram, program.config)
                removed += 1
    assert removed > 10


def test_a_missing_push_is_a_deadlock(program: Program) -> None:
    changed = list(program.instructions)
    n = next(n for n, i in enumerate(changed) if isinstance(i, Store) and i.tokens.push_prev)
    changed[n] = replace(changed[n], tokens=replace(changed[n].tokens, push_prev=False))
    with pytest.raises(ProgramError, match="nothing can run"):
        check_tokens(changed, program.dram, program.config)


@pytest.mark.parametrize(
    ("buffer", "tiling"),
    [
        ("input", Tiling(8, 8, 1, 8)),
        ("weight", Tiling(1, 1, 8, 8)),
        ("accumulator", Tiling(8, 8, 8, 1)),
    ],
)
def test_a_given_tile_that_does_not_fit_is_refused(buffer: str, tiling: Tiling) -> None:
    layer = conv("wide", (1, 32, 8, 8), 32)
    with pytest.raises(TargetError, match=f"elements of the {buffer} buffer"):
        compile_layers(alone(layer), "1x4", tilings=[tiling])


def test_a_layer_whose_smallest_tile_exceeds_a_buffer_is_refused() -> None:
    layer = conv("huge", (1, 4, 13, 13), 4, 13)
    with pytest.raises(TargetError) as refusal:
        compile_layers(alone(layer), "1x4")
    message = str(refusal.value)
    assert "needs 170 elements of the weight buffer" in message
    assert "configuration 1x4 has 128" in message
    assert "larger weight buffer" in message
    assert "huge" in message


def test_a_max_pool_that_cannot_be_done_in_place_is_refused() -> None:
    layer = max_pool("pool", (1, 4, 8, 8), MaxPool((4, 4), (1, 1), ((1, 1), (1, 1))))
    with pytest.raises(TargetError, match="overwrites what its next window reads"):
        compile_layers(alone(layer), "1x8")


def test_tensors_that_do_not_match_are_refused() -> None:
    layer = conv("layer", (1, 4, 5, 5), 4)
    with pytest.raises(TargetError, match="and 'x' is"):
        compile_layers(Network({"x": (1, 4, 6, 6)}, (Call(layer, ("x",), "y"),), ("y",)))
    with pytest.raises(TargetError, match="gives 'z'"):
        compile_layers(Network({"x": (1, 4, 5, 5)}, (Call(layer, ("z",), "y"),), ("y",)))
    with pytest.raises(TargetError, match="result of no layer"):
        compile_layers(Network({"x": (1, 4, 5, 5)}, (Call(layer, ("x",), "y"),), ("x",)))


def test_marks_cover_the_program_and_their_cycles_add_up(program: Program) -> None:
    marks = program.marks()
    assert [mark.name for mark in marks] == [call.layer.name for call in program.network.calls]
    timing = estimate(program.instructions, program.config, find_memory("axi64"))
    parts = layers(timing, program.instructions, marks)
    assert sum(part.cycles for part in parts) == timing.cycles


def test_the_same_layers_give_the_same_bytes(program: Program) -> None:
    again = compile_layers(small_resnet(), "1x8")
    assert again.code == program.code
    np.testing.assert_array_equal(again.dram, program.dram)


@pytest.mark.parametrize("memory", ["axi64", "slow"])
def test_no_program_is_faster_than_the_bound(memory: str) -> None:
    config = find_config("pynq-z1")
    for layer in (conv("a", (1, 32, 14, 14), 32, low=0), conv("b", (1, 64, 7, 7), 16, residuals=(3,))):
        values = constants(layer, config)
        program = compile_layers(alone(layer), config, memory)
        cycles = estimate(program.instructions, config, find_memory(memory)).cycles
        assert cycles >= work(layer, values, config).bound(find_memory(memory))
        assert isinstance(program.plans[0], Plan)


def test_layers_with_few_accumulators_are_named_and_run_on_the_published_bitstream() -> None:
    weights = np.random.default_rng(0).integers(-30, 31, (8, 40)).astype(np.int8)
    program = compile_layers(alone(dense("narrow", 1, weights, shift=7)), "1x8")
    assert program.spread == ("narrow",)
    assert_exact(program)  # refused by the simulator if micro-ops were too close
    assert compile_layers(alone(conv("wide", (1, 8, 9, 9), 8)), "1x8").spread == ()


def test_many_small_weights_leave_no_more_tokens_waiting_than_are_counted() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-30, 31, (480, 480, 1, 1)).astype(np.int8)
    layer = Layer("pointwise", (1, 480, 2, 2), weights, shift=8)
    program = compile_layers(alone(layer), "pynq-z1", tilings=[Tiling(2, 2, 1, 1)])
    check_tokens(program.instructions, program.dram, program.config)
    assert_exact(program)


def test_a_convolution_of_resnet_stays_within_a_tenth_of_its_bound() -> None:
    layer, config, memory = (
        conv("conv", (1, 128, 14, 14), 128, low=0),
        find_config("pynq-z1"),
        find_memory("axi64"),
    )
    cycles = estimate(compile_layers(alone(layer), config, memory).instructions, config, memory).cycles
    assert cycles <= 1.1 * work(layer, constants(layer, config), config).bound(memory)
