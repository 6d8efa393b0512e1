"""The resource model: its parts against counts and synthesis, and what does not fit."""

from __future__ import annotations

import pytest

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.board import BOARDS, find_board
from hardy.targets.fpga.config import CONFIGS, Config, find_config
from hardy.targets.fpga.hls import estimate_resources, generate
from hardy.targets.fpga.hls.resources import matrix_unit, pairs_products

PYNQ_BOARD = find_board("pynq-z1")


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_holds_its_published_configuration(name: str) -> None:
    board = find_board(name)
    estimate = estimate_resources(find_config(board.config), board)
    assert estimate.total.fits(estimate.budget)


def test_the_published_buffers_take_120_block_memories() -> None:
    assert estimate_resources(find_config("pynq-z1"), PYNQ_BOARD).modules["buffers"].bram == 2 * 120


@pytest.mark.parametrize(
    ("block", "paired", "lut", "ff", "dsp"),
    [
        (8, True, 1696, 1315, 32),
        (16, True, 5137, 4035, 128),
        (8, False, 1055, 1059, 64),
        (16, False, 2560, 3011, 256),
    ],
)
def test_the_matrix_unit_is_within_8_percent_of_its_synthesis(
    block: int, paired: bool, lut: int, ff: int, dsp: int
) -> None:
    unit = matrix_unit(1, block, paired)
    assert unit.lut == pytest.approx(lut, rel=0.08)
    assert unit.ff == pytest.approx(ff, rel=0.08)
    assert unit.dsp == dsp


def test_multipliers_are_shared_only_where_the_part_has_too_few() -> None:
    assert pairs_products(find_config("pynq-z1"), PYNQ_BOARD)
    assert not pairs_products(find_config("1x8"), PYNQ_BOARD)
    assert not pairs_products(find_config("zcu104"), find_board("zcu104"))
    assert b"PAIR_PRODUCTS = true" in generate(find_config("pynq-z1"), PYNQ_BOARD)["src/vta_config.h"]


@pytest.mark.parametrize("name", CONFIGS)
def test_what_fits_one_board_fits_a_larger_one(name: str) -> None:
    assert estimate_resources(CONFIGS[name], PYNQ_BOARD).fits
    assert estimate_resources(CONFIGS[name], find_board("zcu104")).fits


def test_a_block_that_needs_too_many_multipliers_is_refused_with_one_that_fits() -> None:
    large = Config("1x32", log_block=5)
    with pytest.raises(TargetError, match=r"does not fit pynq-z1.*517 of 220 DSP slices") as refused:
        generate(large, PYNQ_BOARD)
    assert refused.value.hint == "a block of 16 with buffers as in 1x16_i8w8a32_15_15_18_17 would fit"


def test_buffers_that_are_too_large_are_refused_with_some_that_fit() -> None:
    deep = Config("deep", 1, 4, log_uop_buffer=15, log_inp_buffer=16, log_wgt_buffer=18, log_acc_buffer=18)
    with pytest.raises(TargetError, match=r"of 280 block RAMs of 18 Kbit") as refused:
        estimate_resources(deep, PYNQ_BOARD)
    assert "with buffers as in" in refused.value.hint
    named = Config("named", *_logs(refused.value.hint))
    assert estimate_resources(named, PYNQ_BOARD).fits


def _logs(hint: str) -> tuple[int, ...]:
    """The fields of a configuration from the name of its build."""
    name = next(word for word in hint.split() if "_i8w8a32_" in word)
    size, _, *buffers = name.split("_")
    batch, block = size.split("x")
    return (int(batch).bit_length() - 1, int(block).bit_length() - 1, *map(int, buffers))


def test_a_report_names_every_module_and_the_board() -> None:
    report = str(estimate_resources(find_config("1x8"), PYNQ_BOARD))
    for row in ("fetch", "load", "gemm", "alu", "compute", "store", "buffers", "fifos", "total", "pynq-z1"):
        assert f"\n{row} " in report
