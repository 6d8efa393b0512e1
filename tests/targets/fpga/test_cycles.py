"""The cycle model: small programs worked out by hand, and what must hold for any."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.compiler.errors import UsageError
from hardy.targets.fpga.board import Memory, find_memory
from hardy.targets.fpga.config import find_config
from hardy.targets.fpga.cycles import CHISEL, HLS, Costs, Mark, Timing, Wait, estimate, layers, table
from hardy.targets.fpga.cycles.timeline import draw
from hardy.targets.fpga.isa import (
    Alu,
    AluOpcode,
    Buffer,
    Finish,
    Gemm,
    Instruction,
    Load,
    ProgramError,
    Store,
    Tokens,
)
from hardy.targets.fpga.queues import COMMAND_DEPTH, Queue, links
from tests.targets.fpga.random_programs import Case, cases

PYNQ = find_config("pynq-z1")
AXI64, SLOW = find_memory("axi64"), find_memory("slow")
NOTHING = Load(Buffer.UOP, 0, 0, 0)
PUSH, POP = Tokens(push_next=True), Tokens(pop_prev=True)

# The first instruction is asked for at cycle 0, answered at 20 and in its queue at 22, the next ones every 2.
FIRST = 22


def run(program: Sequence[Instruction], memory: Memory = AXI64, costs: Costs = HLS) -> Timing:
    return estimate(program, PYNQ, memory, costs)


def busy(program: Sequence[Instruction], memory: Memory = AXI64) -> tuple[int, int]:
    """When the first instruction begins and ends."""
    timing = run(program, memory)
    return int(timing.begin[0]), int(timing.end[0])


def test_finish_alone_is_fetched_and_decoded() -> None:
    timing = run([Finish()])
    assert timing.busy(Queue.COMPUTE) == [(0, FIRST, FIRST + 3)]
    assert timing.cycles == 25
    assert (timing.fetch_bytes, timing.beats) == (16, 2)


def test_gemm_takes_a_cycle_a_microop_and_the_pipeline() -> None:
    timing = run([Gemm((0, 10), (5, 2)), Finish()])
    assert timing.busy(Queue.COMPUTE) == [(0, 22, 22 + 3 + 100 + 6), (1, 131, 134)]
    assert (timing.gemm_cycles, timing.alu_cycles) == (100, 0)


@pytest.mark.parametrize(("imm", "costs", "cycles"), [(1, HLS, 200), (None, HLS, 200), (1, CHISEL, 100)])
def test_alu_takes_its_interval_a_microop(imm: int | None, costs: Costs, cycles: int) -> None:
    timing = run([Alu(AluOpcode.ADD, (0, 10), (5, 2), imm=imm), Finish()], costs=costs)
    assert int(timing.end[0] - timing.begin[0]) == 3 + cycles + 6
    assert timing.alu_cycles == cycles


def test_a_load_takes_the_latency_and_a_beat_a_word() -> None:
    program = [Load(Buffer.INP, 0, 0, 64, tokens=PUSH), Finish(POP)]
    assert busy(program) == (FIRST, FIRST + 3 + 20 + 64 * 2)
    timing = run(program)
    assert timing.cycles == 173 + 3
    assert timing.bytes[Buffer.INP] == 1024
    assert timing.stalls() == {Wait.FETCH: 0, Wait.LOAD: 173, Wait.STORE: 0}


def test_bursts_follow_one_another_where_two_are_on_their_way() -> None:
    program = [Load(Buffer.INP, 0, 0, 1024, tokens=PUSH), Finish(POP)]
    assert busy(program) == (FIRST, 25 + 20 + 2048)
    assert busy(program, replace(AXI64, outstanding=1)) == (FIRST, 25 + 8 * (20 + 256))
    assert busy(program, SLOW)[1] - busy(program, SLOW)[0] == 3 + 8 * (100 + 256)


def test_rows_apart_are_bursts_of_their_own() -> None:
    rows = [Load(Buffer.INP, 0, 0, 2, 4, 8, tokens=PUSH), Finish(POP)]
    # Asked at 25, 26, 49, 53; moved at 45, 49, 69, 73; 4 beats each.
    assert busy(rows) == (FIRST, 77)
    together = [Load(Buffer.INP, 0, 0, 2, 4, 2, tokens=PUSH), Finish(POP)]
    assert busy(together) == (FIRST, 45 + 16)


def test_pads_take_a_cycle_a_word() -> None:
    plain = Load(Buffer.INP, 0, 0, 4, 4, 4, tokens=PUSH)
    padded = replace(plain, y_pad=(1, 0), x_pad=(0, 1))
    assert busy([padded, Finish(POP)])[1] - busy([plain, Finish(POP)])[1] == (5 * 5 - 4 * 4) * 2


def test_two_queues_share_the_beats() -> None:
    program = [
        Load(Buffer.ACC, 0, 0, 64),
        Load(Buffer.INP, 0, 0, 64, tokens=PUSH),
        Finish(POP),
    ]
    timing = run(program)
    # ACC's bursts are asked for at 25 and 26 and moved from 45 to 557; INP's, asked for at 27, follows.
    assert timing.busy(Queue.COMPUTE)[0] == (0, 22, 557)
    assert timing.busy(Queue.LOAD) == [(1, 24, 557 + 128)]
    assert timing.beats == 512 + 128 + 6


def tiles(count: int, buffers: int) -> list[Instruction]:
    """Loads of 128 beats and products of 300 cycles that share `buffers` tiles of the input buffer."""
    program: list[Instruction] = []
    for n in range(count):
        freed = n >= buffers
        program.append(
            Load(Buffer.INP, 64 * (n % buffers), 0, 64, tokens=Tokens(pop_next=freed, push_next=True))
        )
        frees = n + buffers < count
        program.append(Gemm((0, 300), tokens=Tokens(pop_prev=True, push_prev=frees)))
    return [*program, Finish()]


def test_two_buffers_hide_the_loads_behind_the_products() -> None:
    load, product = 3 + 20 + 128, 3 + 300 + 6
    one, two = run(tiles(10, 1)), run(tiles(10, 2))
    # The first load is answered while the instructions still come in, two beats each.
    start = 20 + 21 * 2 + 128
    assert one.cycles == start + product + 9 * (load + product) + 3
    assert two.cycles == start + 10 * product + 3
    assert one.stalls()[Wait.LOAD] - two.stalls()[Wait.LOAD] == 9 * load
    assert two.gemm_use > one.gemm_use


def test_a_store_waits_for_its_product_and_finish_for_the_store() -> None:
    program = [
        Gemm((0, 100), tokens=PUSH),
        Store(0, 0, 32, tokens=Tokens(pop_prev=True, push_prev=True)),
        Finish(Tokens(pop_next=True)),
    ]
    timing = run(program)
    assert timing.busy(Queue.STORE) == [(1, 131, 131 + 3 + 20 + 64)]
    assert timing.cycles == 218 + 3
    assert timing.stalls()[Wait.STORE] == 218 - 131
    assert timing.stalls(Queue.STORE)[Wait.COMPUTE] == 131
    assert timing.bytes[Buffer.OUT] == 512


def test_a_full_command_queue_stops_the_fetching() -> None:
    waits = [Gemm((0, 5000)), *[NOTHING] * (2 * COMMAND_DEPTH)]
    load = Load(Buffer.INP, 0, 0, 1, tokens=PUSH)
    timing = run([*waits, load, Finish(POP)])
    assert timing.begin[-2] > timing.begin[COMMAND_DEPTH]
    assert run([load, *waits, Finish(POP)]).begin[0] == FIRST


def test_a_program_that_cannot_end_is_refused() -> None:
    with pytest.raises(ProgramError, match="waits for a token from load to compute"):
        run([Finish(POP)])
    with pytest.raises(ProgramError, match="ends with FINISH"):
        run([NOTHING])


def test_layers_add_up_and_name_their_limit() -> None:
    program = [
        *tiles(4, 2)[:-1],
        Alu(AluOpcode.MAX, (0, 1000), imm=0),
        Load(Buffer.ACC, 0, 0, 1024, tokens=PUSH),
        Store(0, 0, 2000, tokens=Tokens(pop_prev=True, push_prev=True)),
        replace(NOTHING, tokens=Tokens(pop_next=True)),
        Finish(),
    ]
    timing = run(program)
    marks = [Mark("conv", 0, 8), Mark("relu", 8, 9), Mark("bias", 9, 10), Mark("out", 10, 13)]
    found = layers(timing, program, marks)
    assert [layer.limit for layer in found] == ["gemm", "alu", "transfers", "store"]
    assert sum(layer.cycles for layer in found) == timing.cycles
    assert found[0].bytes[Buffer.INP] == 4 * 1024
    assert found[0].parts["gemm"] == 4 * 300
    assert found[1].alu_share == 2000 / (2000 + 9)
    assert table(found).splitlines()[1].split()[0] == "conv"
    with pytest.raises(UsageError, match="covers instructions 0 to 99 of 13"):
        layers(timing, program, [Mark("far", 0, 100)])


@given(cases())
@settings(max_examples=60, deadline=None)
def test_queues_run_one_instruction_at_a_time_and_tokens_order_them(case: Case) -> None:
    timing = estimate(case.program, case.config, AXI64)
    for queue in Queue:
        intervals = timing.busy(queue)
        assert all(a[2] <= b[1] for a, b in itertools.pairwise(intervals))
        assert timing.busy_cycles(queue) <= timing.cycles
    sent: dict[int, list[int]] = {}
    for number, i in enumerate(case.program):
        for channel in links(number, i).pushes:
            sent.setdefault(channel, []).append(number)
    for number, i in enumerate(case.program):
        for channel in links(number, i).pops:
            assert timing.begin[number] >= timing.end[sent[channel].pop(0)]
    assert timing.beats <= timing.cycles
    np.testing.assert_array_equal(timing.begin >= timing.waited, True)


memories = st.builds(
    Memory,
    name=st.just("drawn"),
    bytes_per_cycle=st.sampled_from((4, 8, 16)),
    latency=st.integers(0, 100),
    burst=st.sampled_from((4, 16, 256)),
    outstanding=st.integers(1, 4),
)


@given(cases(), memories, st.data())
@settings(max_examples=80, deadline=None)
def test_a_slower_memory_never_takes_fewer_cycles(case: Case, memory: Memory, data: st.DataObject) -> None:
    """The instructions of these programs run one after another; side by side there can be anomalies."""
    slower = data.draw(
        st.sampled_from(
            (
                replace(memory, latency=memory.latency + 7),
                replace(memory, bytes_per_cycle=memory.bytes_per_cycle // 2),
                replace(memory, outstanding=max(1, memory.outstanding - 1)),
            )
        )
    )
    fast = estimate(case.program, case.config, memory)
    assert estimate(case.program, case.config, slower).cycles >= fast.cycles


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_timeline_is_a_picture_and_the_same_every_time(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs hardy[plots]")
    program = tiles(4, 2)
    timing = run(program)
    paths = [tmp_path / f"{n}.{ending}" for n in range(2)]
    for path in paths:
        draw(timing, program, path, marks=[Mark("conv", 0, len(program))])
    data = paths[0].read_bytes()
    assert data == paths[1].read_bytes()
    assert data.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    if ending == "svg":
        assert b"conv" in data
        assert b"load input" in data
    with pytest.raises(UsageError, match=r"drawn as \.svg or \.png, not \.pdf"):
        draw(timing, program, tmp_path / "timeline.pdf")
