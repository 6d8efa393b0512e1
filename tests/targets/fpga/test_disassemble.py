"""Programs as text."""

from __future__ import annotations

import pytest
from hypothesis import given

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.disassemble import assemble, disassemble, line
from hardy.targets.fpga.isa import Buffer, Instruction, Load, ProgramError, Tokens
from tests.targets.fpga.test_isa import GOLDEN, programs


def test_a_program_is_one_instruction_a_line() -> None:
    assert disassemble([i for i, _ in GOLDEN]).splitlines() == [
        "     0: load.uop sram=0 dram=6144 size=1x3",
        "     1: load.acc sram=5 dram=256 size=1x1",
        "     2: load.inp sram=0 dram=512 size=1x2",
        "     3: load.wgt sram=0 dram=48 size=1x2 push_next",
        "     4: gemm uops=0,2 pop_prev",
        "     5: alu.shr uops=2,3 imm=6",
        "     6: alu.max uops=2,3 imm=-128",
        "     7: alu.min uops=2,3 imm=127 push_next",
        "     8: store sram=5 dram=1280 size=1x1 pop_prev push_prev",
        "     9: finish pop_next",
    ]


def test_windows_show_stride_and_pads() -> None:
    i = Load(Buffer.INP, 3, 7, 14, 5, 56, (1, 0), (1, 2), Tokens(pop_next=True, push_next=True))
    assert line(i) == "load.inp sram=3 dram=7 size=5x14 stride=56 pad=1,0,1,2 pop_next push_next"


@given(programs())
def test_text_reads_back(drawn: tuple[Config, list[Instruction]]) -> None:
    assert list(assemble(disassemble(drawn[1]))) == drawn[1]


def test_comments_and_empty_lines_are_ignored() -> None:
    assert assemble("# nothing\n\nfinish # the end\n 3: finish\n") == assemble("finish\nfinish")


@pytest.mark.parametrize(
    "text",
    [
        "jump",
        "load.dram sram=0 dram=0 size=1x1",
        "load.inp sram=0",
        "gemm uops=1",
        "finish now",
        "store size=2",
    ],
)
def test_a_line_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ProgramError) as caught:
        assemble(f"finish\n{text}\n")
    assert text in caught.value.message
    assert caught.value.where == "line 2"
