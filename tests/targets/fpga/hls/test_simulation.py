"""The generated C++ in C simulation: confirmed results, the functional simulator, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from hardy.compiler.errors import TargetError
from hardy.targets.fpga import simulate
from hardy.targets.fpga.board import find_board
from hardy.targets.fpga.config import Config, find_config
from hardy.targets.fpga.hls import csim, simulate_hls
from hardy.targets.fpga.isa import (
    NO_TOKENS,
    Alu,
    AluOpcode,
    Buffer,
    Finish,
    Gemm,
    Instruction,
    Load,
    ProgramError,
    encode,
)
from tests.targets.fpga.hls.vectors import VECTORS, product, read_vector
from tests.targets.fpga.random_programs import Case, cases

PYNQ, SMALL, BATCH = (find_config(name) for name in ("pynq-z1", "1x4", "2x8"))


@pytest.mark.parametrize("path", VECTORS, ids=lambda p: p.stem)
def test_programs_give_the_confirmed_images(path: Path) -> None:
    program, before, after = read_vector(path)
    given = before.copy()
    np.testing.assert_array_equal(simulate_hls(program, given), after)
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize("path", VECTORS[::8], ids=lambda p: p.stem)
def test_programs_give_the_confirmed_images_with_the_integers_of_synthesis(path: Path) -> None:
    program, before, after = read_vector(path)
    np.testing.assert_array_equal(simulate_hls(program, before, ap_types=True), after)


@given(cases(configs=(PYNQ, SMALL, BATCH)))
@settings(max_examples=40, deadline=None)
def test_random_programs_agree_with_the_functional_simulator(case: Case) -> None:
    code = encode(case.program, case.config)
    expected = simulate(code, case.dram, case.config)
    np.testing.assert_array_equal(simulate_hls(code, case.dram, case.config), expected)


@pytest.mark.slow
@given(cases(configs=(PYNQ, SMALL, BATCH)))
@settings(max_examples=100, deadline=None)
def test_random_programs_agree_with_the_integers_of_synthesis(case: Case) -> None:
    code = encode(case.program, case.config)
    expected = simulate(code, case.dram, case.config)
    np.testing.assert_array_equal(simulate_hls(code, case.dram, case.config, ap_types=True), expected)


@pytest.mark.slow
def test_a_wide_port_and_a_multiplier_for_each_product_give_the_same() -> None:
    for path in VECTORS:
        program, before, after = read_vector(path)
        np.testing.assert_array_equal(simulate_hls(program, before, board=find_board("ultra96")), after)


@pytest.mark.parametrize("gemm", [{"dst": (0, 0), "loops": (5, 3)}, {"uops": (3, 4), "loops": (7, 1)}])
def test_a_reduction_into_one_accumulator_after_another_is_exact(gemm: dict[str, object]) -> None:
    program, image = product(SMALL, **gemm)
    code = encode(program, SMALL)
    np.testing.assert_array_equal(simulate_hls(code, image, SMALL), simulate(code, image, SMALL))


def test_the_other_indices_of_a_reset_mean_nothing() -> None:
    program, image = product(SMALL, reset=True, src=(SMALL.inp_depth - 1, 1), loops=(9, 1), wgt=(127, 0))
    code = encode(program, SMALL)
    after = simulate_hls(code, image, SMALL)
    np.testing.assert_array_equal(after[1 << 15 :][: 8 * SMALL.out_bytes], 0)


def test_a_reset_leaves_the_output_buffer_alone() -> None:
    program, image = product(SMALL)
    alu = program[5]
    assert isinstance(alu, Alu)
    reset = Gemm((0, 8), reset=True, tokens=alu.tokens)
    both = [*program[:5], replace(alu, tokens=NO_TOKENS), reset, *program[6:]]
    expected = simulate(encode(program, SMALL), image, SMALL)
    np.testing.assert_array_equal(simulate_hls(encode(both, SMALL), image, SMALL), expected)


@pytest.mark.parametrize("ap_types", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("by", [-16, -15, -1, 0, 1, 14, 15])
def test_shifts_go_both_ways_over_the_whole_range(by: int, ap_types: bool) -> None:
    program, image = product(SMALL)
    program[4:6] = [
        replace(i, tokens=t)
        for i, t in zip(
            [Alu(AluOpcode.SHR, (0, 8), imm=by), Alu(AluOpcode.SHR, (0, 8), imm=12)],
            (program[4].tokens, program[5].tokens),
            strict=True,
        )
    ]
    sums = image.view(np.int32)[8 * 4 : 16 * 4]
    shifted = sums >> by if by >= 0 else (sums.astype(np.int64) << -by).astype(np.int32)
    after = simulate_hls(encode(program, SMALL), image, SMALL, ap_types=ap_types)
    np.testing.assert_array_equal(after[1 << 15 :].view(np.int8)[:32], (shifted >> 12).astype(np.int8))


def test_an_accumulator_that_was_only_loaded_is_not_stored() -> None:
    program, image = product(SMALL)
    loaded = [i for i in program if not isinstance(i, Gemm | Alu)]
    loaded[1:1] = [Load(Buffer.UOP, 0, 0, 0, tokens=program[5].tokens)]
    loaded[4] = replace(loaded[4], tokens=replace(loaded[4].tokens, push_next=False))
    after = simulate_hls(encode(loaded, SMALL), image, SMALL)
    stored = after[1 << 15 :][: 8 * SMALL.out_bytes]
    np.testing.assert_array_equal(stored, 0)


Change = Callable[[list[Instruction]], list[Instruction]]
REFUSED: dict[str, tuple[str, Change]] = {
    "a token that nobody sends": (
        "deadlock.*vta_compute waits for load_to_compute.*compute queue: at instruction 4"
        ".*at: instruction 4, gemm uops=0,8 pop_prev",
        lambda p: [
            replace(i, tokens=replace(i.tokens, push_next=False)) if n == 3 else i for n, i in enumerate(p)
        ],
    ),
    "a token that nobody takes": (
        "1 tokens are left in load_to_compute",
        lambda p: [replace(p[2], tokens=p[3].tokens) if n == 2 else i for n, i in enumerate(p)],
    ),
    "a FINISH that does not wait": (
        "1 tokens are left in store_to_compute|FINISH ran before the other queues were over",
        lambda p: [*p[:-1], Finish()],
    ),
    "no FINISH": ("FINISH must be the last instruction", lambda p: p[:-1]),
    "an accumulator beyond the buffer": (
        "GEMM reaches accumulator 263 of 256",
        lambda p: [replace(i, dst=(0, 128), loops=(1, 3)) if isinstance(i, Gemm) else i for i in p],
    ),
    "an input beyond the buffer": (
        "GEMM reaches input 259 of 256",
        lambda p: [replace(i, src=(252, 0), loops=(2, 1)) if isinstance(i, Gemm) else i for i in p],
    ),
    "a load beyond the buffer": (
        "a load ends at element 260 of 256",
        lambda p: [replace(i, sram=244) if isinstance(i, Load) and i.buffer == Buffer.INP else i for i in p],
    ),
    "a load beyond DRAM": (
        "a load ends at byte 65600 of 65536 of DRAM",
        lambda p: [
            replace(i, dram=16384) if isinstance(i, Load) and i.buffer == Buffer.INP else i for i in p
        ],
    ),
    "a multiplication by the ALU": (
        "the ALU has no operation 4",
        lambda p: [replace(i, opcode=AluOpcode.MUL) if isinstance(i, Alu) else i for i in p],
    ),
    "8-bit accumulators": (
        "the compute queue cannot load buffer 5",
        lambda p: [replace(i, buffer=Buffer.ACC_8BIT) if n == 1 else i for n, i in enumerate(p)],  # type: ignore[call-arg]
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_accelerator_would_get_wrong_is_refused(what: str) -> None:
    message, change = REFUSED[what]
    program, image = product(SMALL)
    with pytest.raises(ProgramError, match=f"(?s){message}"):
        simulate_hls(encode(change(program), SMALL), image, SMALL)


def test_a_command_queue_that_fills_before_its_tokens_come_is_a_deadlock() -> None:
    program, image = product(SMALL)
    waits = replace(program[2], tokens=replace(program[4].tokens, pop_next=True, pop_prev=False))
    sends = Load(Buffer.UOP, 0, 0, 0, tokens=replace(program[4].tokens, push_prev=True, pop_prev=False))
    for count, completes in ((500, True), (600, False)):
        code = encode([*[waits] * count, *[sends] * count, *program], SMALL)
        if completes:
            simulate_hls(code, image, SMALL)
        else:
            with pytest.raises(ProgramError, match="vta_fetch waits for load_queue, which is full"):
                simulate_hls(code, image, SMALL)


def test_dram_is_a_line_of_bytes() -> None:
    with pytest.raises(ProgramError, match=r"line of bytes \(uint8\), not float64\[4\]"):
        simulate_hls(b"", np.zeros(4), SMALL)


def test_the_compiler_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDY_CXX", "no-such-compiler")
    with pytest.raises(TargetError, match="no-such-compiler was not found"):
        simulate_hls(b"", b"", SMALL)


def test_one_executable_serves_all_programs_of_a_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = Config("tiny", 0, 2, log_uop_buffer=6, log_inp_buffer=6, log_wgt_buffer=8, log_acc_buffer=8)
    monkeypatch.setattr(csim, "cache_folder", lambda: tmp_path)
    program, image = product(tiny)
    for shift in (1, 2):
        changed = [replace(i, imm=shift) if isinstance(i, Alu) else i for i in program]
        code = encode(changed, tiny)
        np.testing.assert_array_equal(simulate_hls(code, image, tiny), simulate(code, image, tiny))
    assert len(list(tmp_path.iterdir())) == 1
