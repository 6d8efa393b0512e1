"""Micro-ops that are too close for a pipeline without interlocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.targets.fpga import simulate
from hardy.targets.fpga.isa import Alu, AluOpcode, Gemm, ProgramError, encode
from hardy.targets.fpga.simulator.hazards import PUBLISHED_SPACING, too_close
from tests.targets.fpga.random_programs import Case, cases

# dst, src: three in a row that differ, then the first again.
UOPS = np.array([[0, 1, 0], [4, 0, 0], [5, 0, 0], [0, 9, 0]], np.int32)


@pytest.mark.parametrize(
    ("instruction", "element"),
    [
        (Gemm((0, 3)), None),
        (Gemm((0, 4)), None),
        (Gemm((0, 3), loops=(2, 1)), None),
        (Gemm((0, 2), loops=(1, 2)), 0),
        (Gemm((0, 1), loops=(3, 1)), 0),
        (Gemm((0, 1), loops=(3, 1), dst=(1, 0)), None),
        (Gemm((0, 1), loops=(3, 1), reset=True), None),
        (Gemm((0, 2), loops=(2, 2), dst=(1, 4)), 4),
        (Alu(AluOpcode.ADD, (0, 3), imm=1), None),
        (Alu(AluOpcode.ADD, (0, 3)), 0),
        (Alu(AluOpcode.ADD, (1, 2), loops=(2, 1), dst=(1, 0), src=(4, 0)), 4),
        (Alu(AluOpcode.ADD, (1, 2), loops=(2, 1), dst=(1, 0), src=(5, 0)), None),
    ],
)
def test_an_element_used_again_within_three_microops_is_found(
    instruction: Gemm | Alu, element: int | None
) -> None:
    assert too_close(instruction, UOPS, PUBLISHED_SPACING) == element


@given(cases(), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_it_is_found_where_the_sequence_written_out_has_it(case: Case, spacing: int) -> None:
    uops = np.array([[d, (d * 7 + 3) % 8, 0] for d in (0, 3, 1, 0, 2, 2, 5, 0)] * 4, np.int32)
    for i in case.program:
        if isinstance(i, Gemm) and not i.reset:
            written = [
                int(uops[u, 0]) + a * i.dst[0] + b * i.dst[1]
                for a in range(i.loops[0])
                for b in range(i.loops[1])
                for u in range(*i.uops)
            ]
            close = any(d in written[max(0, n - spacing + 1) : n] for n, d in enumerate(written))
            assert (too_close(i, uops, spacing) is not None) == close


@given(cases())
@settings(max_examples=20, deadline=None)
def test_spacing_refuses_or_changes_nothing(case: Case) -> None:
    code = encode(case.program, case.config)
    try:
        spaced = simulate(code, case.dram, case.config, spacing=PUBLISHED_SPACING)
    except ProgramError as error:
        refused = error.message
    else:
        np.testing.assert_array_equal(spaced, simulate(code, case.dram, case.config))
        return
    assert "is used again within 3 micro-ops" in refused
