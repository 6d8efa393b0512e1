"""Boards and memory models."""

from __future__ import annotations

import pytest

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.board import BOARDS, MEMORIES, Memory, find_board, find_memory
from hardy.targets.fpga.config import find_config


def test_names_that_do_not_exist_are_answered_with_those_that_do() -> None:
    with pytest.raises(TargetError) as caught:
        find_board("pynq")
    assert all(name in caught.value.hint for name in BOARDS)
    with pytest.raises(TargetError) as caught:
        find_memory("ddr")
    assert all(name in caught.value.hint for name in MEMORIES)


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_has_a_configuration_and_a_memory_as_wide_as_its_port(name: str) -> None:
    board = find_board(name)
    assert find_config(board.config).name == name
    assert board.memory.bytes_per_cycle * 8 == board.axi_bits
    assert board.seconds(board.clock_mhz * 1_000_000) == 1.0


def test_the_slow_memory_is_slower_in_every_way() -> None:
    slow, fast = find_memory("slow"), find_memory("axi64")
    assert slow.latency > fast.latency
    assert slow.outstanding < fast.outstanding
    assert slow.bytes_per_cycle <= fast.bytes_per_cycle


def test_a_memory_without_bandwidth_is_refused() -> None:
    with pytest.raises(TargetError, match="bytes_per_cycle is at least 1"):
        Memory("none", bytes_per_cycle=0)


def test_bytes_fill_whole_beats() -> None:
    assert [find_memory("axi64").beats(n) for n in (0, 1, 8, 9)] == [0, 1, 1, 2]
