"""Programs that the simulator refuses, each with the instruction and the reason."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from hardy.targets.fpga import simulate
from hardy.targets.fpga.config import find_config
from hardy.targets.fpga.disassemble import line
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
    Uop,
    encode,
    encode_uops,
)
from hardy.targets.fpga.queues import COMMAND_DEPTH, TOKEN_DEPTH, Queue
from hardy.targets.fpga.schedule import PRIORITY

SMALL = find_config("1x4")
UOPS = [Uop(0, 0, 0), Uop(1, 1, 1), Uop(250, 0, 0), Uop(0, 2, 0)]
# The micro-ops; ACC elements 0 to 3 with a value; INP and WGT elements 0 and 1, known to whoever pops the
# token.
START: tuple[Instruction, ...] = (
    Load(Buffer.UOP, 0, 0, len(UOPS)),
    Load(Buffer.ACC, 0, 4, 4),
    Load(Buffer.INP, 0, 16, 2),
    Load(Buffer.WGT, 0, 4, 2, tokens=Tokens(push_next=True)),
)
# ACC element 2 has a 16.
SUMS = np.array([*range(11), 16, *range(4, 8)], np.int32)
AFTER_LOAD = Tokens(pop_prev=True)
NOTHING = Load(Buffer.UOP, 0, 0, 0)
NOTHING_LOADED = Load(Buffer.INP, 0, 0, 0)
NOTHING_STORED = Store(0, 0, 0)


def run(program: Sequence[Instruction], priority: Sequence[Queue] = PRIORITY) -> None:
    dram = np.zeros(1024, np.uint8)
    dram[:16] = np.frombuffer(encode_uops(UOPS, SMALL), np.uint8)
    dram[64:128] = SUMS.view(np.uint8)
    simulate(encode(program, SMALL), dram, SMALL, priority=priority)


def refused(program: Sequence[Instruction], said: str, where: str = "") -> None:
    with pytest.raises(ProgramError) as caught:
        run(program)
    assert said in caught.value.message
    assert where in caught.value.where


def races(program: Sequence[Instruction]) -> set[str]:
    """The reasons for which the program is refused, whichever of the racing instructions comes first."""
    reasons = set()
    for priority in itertools.permutations(Queue):
        with pytest.raises(ProgramError, match="no token orders them") as caught:
            run(program, priority)
        reasons.add(f"{caught.value.where}: {caught.value.message}")
    return reasons


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        (Load(Buffer.ACC_8BIT, 0, 0, 1), "functional simulator loads ACC from 8-bit"),
        (Load(Buffer.INP, 0, 0, 0, x_pad=(1, 0)), "pads around no elements"),
        (Load(Buffer.WGT, 0, 0, 1, y_pad=(0, 1)), "WGT is loaded without pads"),
        (Load(Buffer.UOP, 0, 0, 1, x_pad=(0, 1)), "UOP is loaded without pads"),
        (Load(Buffer.UOP, 0, 0, 2, 2), "micro-ops are loaded in one row, not 2"),
        (Load(Buffer.INP, 255, 0, 1, x_pad=(0, 1)), "INP elements 255 to 256 of a buffer of 256"),
        (Load(Buffer.ACC, 0, 62, 3), "DRAM bytes 992 to 1039 of a memory of 1024"),
        (Load(Buffer.INP, 0, 0, 2, 3, 128), "DRAM bytes 0 to 1031 of a memory of 1024"),
        (Store(200, 0, 100), "OUT elements 200 to 299 of a buffer of 256"),
        (Store(0, 255, 2), "DRAM bytes 1020 to 1027 of a memory of 1024"),
        (Gemm((0, 1), loops=(0, 1)), "a loop of none"),
        (Gemm((1, 1)), "micro-ops 1 to 1: there is none between"),
        (Gemm((200, 300)), "micro-ops 200 to 299 of a buffer of 256"),
        (Alu(AluOpcode.MUL, (0, 1), imm=2), "multiplies in the ALU"),
        (Alu(AluOpcode.SHR, (0, 1), imm=16), "a shift by 16; all implementations agree from -16 to 15"),
        (Alu(AluOpcode.SHR, (0, 1), imm=-17), "a shift by -17"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_fields_outside_the_portable_subset_are_refused(instruction: Instruction, said: str) -> None:
    refused([NOTHING, instruction, Finish()], said, "instruction 1, ")


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        (Gemm((0, 5)), "micro-op 4 was never loaded"),
        (Gemm((2, 3), loops=(7, 1), dst=(1, 0)), "ACC element 256 of a buffer of 256"),
        (Gemm((0, 1), loops=(3, 2), src=(127, 3)), "INP element 257 of a buffer of 256"),
        (Gemm((0, 1), loops=(3, 2), wgt=(63, 3)), "WGT element 129 of a buffer of 128"),
        (Gemm((0, 1), loops=(5, 1), dst=(1, 0)), "ACC element 4 was never written"),
        (Gemm((0, 1), loops=(1, 3), src=(0, 1)), "INP element 2 is not loaded by then"),
        (Gemm((1, 2), loops=(1, 2), wgt=(0, 1)), "WGT element 2 is not loaded by then"),
        (Alu(AluOpcode.ADD, (0, 1), loops=(5, 1), dst=(1, 0), imm=1), "ACC element 4 was never written"),
        (Alu(AluOpcode.ADD, (0, 1), loops=(5, 1), src=(1, 0)), "ACC element 4 was never written"),
        (Alu(AluOpcode.SHR, (3, 4), src=(0, 1)), "a shift by ACC element 2, which has values"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_elements_that_are_not_there_are_refused(instruction: Instruction, said: str) -> None:
    refused([*START, replace(instruction, tokens=AFTER_LOAD), Finish()], said, "instruction 4, ")


def test_a_shift_by_values_from_0_to_15_is_taken() -> None:
    run([*START, Alu(AluOpcode.SHR, (0, 2), tokens=AFTER_LOAD), Finish()])


@pytest.mark.parametrize("writer", [Load(Buffer.ACC, 0, 4, 1), Gemm((0, 1), reset=True)])
def test_a_store_of_an_untouched_element_is_refused(writer: Instruction) -> None:
    program = [
        *START,
        Gemm((0, 2), tokens=AFTER_LOAD),
        replace(writer, tokens=Tokens(push_next=True)),
        Store(0, 100, 2, tokens=Tokens(pop_prev=True, push_prev=True)),
        Finish(Tokens(pop_next=True)),
    ]
    refused(program, "the last writer of element 0", "instruction 6, store")
    touched = [*program[:5], replace(program[4], tokens=Tokens(push_next=True)), *program[6:]]
    run(touched)


@pytest.mark.parametrize(
    ("instruction", "queue"),
    [
        (replace(NOTHING_LOADED, tokens=Tokens(pop_prev=True)), "load queue has no previous"),
        (replace(NOTHING_LOADED, tokens=Tokens(push_prev=True)), "load queue has no previous"),
        (replace(NOTHING_STORED, tokens=Tokens(pop_next=True)), "store queue has no next"),
        (replace(NOTHING_STORED, tokens=Tokens(push_next=True)), "store queue has no next"),
    ],
)
def test_token_bits_without_a_channel_are_refused(instruction: Instruction, queue: str) -> None:
    refused([instruction, Finish()], queue, "instruction 0, ")


def test_a_deadlock_names_what_waits_for_what() -> None:
    program = [
        replace(NOTHING_LOADED, tokens=Tokens(pop_next=True, push_next=True)),
        replace(NOTHING, tokens=Tokens(pop_prev=True, push_prev=True)),
        replace(NOTHING_STORED, tokens=Tokens(pop_prev=True)),
        Finish(),
    ]
    with pytest.raises(ProgramError) as caught:
        run(program)
    for expected in (
        "load: instruction 0, load.inp sram=0 dram=0 size=1x0 pop_next push_next, "
        "waits for a token from compute to load",
        "compute: instruction 1,",
        "waits for a token from load to compute",
        "store: instruction 2,",
        "waits for a token from compute to store",
    ):
        assert expected in caught.value.message


def test_a_full_command_queue_holds_up_what_it_waits_for() -> None:
    waiting = [replace(NOTHING, tokens=AFTER_LOAD), *[NOTHING] * (COMMAND_DEPTH - 1)]
    pushing = replace(NOTHING_LOADED, tokens=Tokens(push_next=True))
    run([*waiting[:-1], pushing, Finish()])
    refused([*waiting, NOTHING, pushing, Finish()], f"is not fetched: {COMMAND_DEPTH} instructions wait")


def test_tokens_that_nobody_takes_are_refused() -> None:
    refused([replace(NOTHING, tokens=Tokens(push_next=True)), Finish()], "1 tokens from compute to store")


def test_more_tokens_than_are_counted_are_refused() -> None:
    def program(tokens: int) -> list[Instruction]:
        pushing = replace(NOTHING_LOADED, tokens=Tokens(push_next=True))
        return [*[pushing] * tokens, *[replace(NOTHING, tokens=AFTER_LOAD)] * tokens, Finish()]

    run(program(TOKEN_DEPTH))
    refused(program(TOKEN_DEPTH + 1), "up to 256 tokens from load to compute", "instruction 255, load.inp")


@pytest.mark.parametrize("program", [[], [NOTHING], [Finish(), NOTHING], [Finish(), Finish()]])
def test_a_program_ends_with_its_only_finish(program: list[Instruction]) -> None:
    refused(program, "ends with its only FINISH")


@pytest.mark.parametrize("running", [NOTHING_LOADED, NOTHING_STORED])
def test_finish_must_wait_for_every_queue(running: Instruction) -> None:
    refused([running, Finish()], "FINISH does not wait for instruction 0")


def test_a_product_that_does_not_wait_for_its_inputs_is_a_race() -> None:
    program = [*START, Gemm((0, 2)), Finish(AFTER_LOAD)]
    refused(program, "reads INP element 0 that instruction 2, load.inp", "instruction 4, gemm")
    with pytest.raises(ProgramError, match="INP element 0 is not loaded by then"):
        run(program, (Queue.COMPUTE, Queue.STORE, Queue.LOAD))


def test_a_load_that_does_not_wait_for_the_reader_is_a_race() -> None:
    again = Load(Buffer.WGT, 1, 4, 1, tokens=Tokens(push_next=True))
    races([*START, Gemm((0, 2), tokens=AFTER_LOAD), again, Finish(AFTER_LOAD)])
    freed = [
        *START,
        Gemm((0, 2), tokens=Tokens(pop_prev=True, push_prev=True)),
        replace(again, tokens=Tokens(pop_next=True, push_next=True)),
        Finish(AFTER_LOAD),
    ]
    run(freed)


@pytest.mark.parametrize(
    "writer",
    [
        Alu(AluOpcode.MAX, (1, 2), imm=0),
        Alu(AluOpcode.ADD, (1, 2)),
        Gemm((1, 2)),
        Gemm((1, 2), reset=True),
        Load(Buffer.ACC, 1, 4, 1),
    ],
    ids=lambda i: line(i),
)
def test_overwriting_what_is_being_stored_is_a_race(writer: Instruction) -> None:
    def program(wait: bool) -> list[Instruction]:
        return [
            *START,
            Gemm((0, 2), tokens=Tokens(pop_prev=True, push_next=True)),
            Store(0, 100, 2, tokens=Tokens(pop_prev=True, push_prev=True)),
            replace(writer, tokens=Tokens(pop_next=wait)),
            Finish(Tokens(pop_next=not wait)),
        ]

    found = races(program(wait=False))
    assert any("overwrites ACC element" in reason for reason in found)
    assert any("stores elements" in reason for reason in found)
    run(program(wait=True))


@pytest.mark.parametrize("load", [Load(Buffer.INP, 10, 41, 1), Load(Buffer.ACC, 9, 10, 1)], ids=line)
def test_loading_what_a_store_may_not_have_written_yet_is_a_race(load: Load) -> None:
    def program(wait: bool) -> list[Instruction]:
        middle: list[Instruction] = [replace(NOTHING, tokens=Tokens(pop_next=wait, push_prev=wait))]
        if load.buffer == Buffer.INP:
            middle.append(replace(load, tokens=Tokens(pop_next=wait, push_next=True)))
        else:
            middle += [replace(NOTHING_LOADED, tokens=Tokens(pop_next=wait, push_next=True)), load]
        return [
            *START,
            Gemm((0, 2), tokens=Tokens(pop_prev=True, push_next=True)),
            Store(0, 40, 2, tokens=Tokens(pop_prev=True, push_prev=True)),
            *middle,
            Finish(Tokens(pop_prev=True, pop_next=not wait)),
        ]

    run(program(wait=True))
    found = races(program(wait=False))
    assert any("reads DRAM" in reason for reason in found)
    assert any("overwrites DRAM" in reason for reason in found)
