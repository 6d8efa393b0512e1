"""ResNet-18 as one program: exact, and close to its bound.

Cycles are those of the cycle model, the same on any host.
"""

from __future__ import annotations

import pytest

from benchmarks.vta_cycles import rows
from benchmarks.vta_networks import resnet18
from hardy.targets.fpga.board import find_memory
from hardy.targets.fpga.lower.program import compile_layers
from hardy.targets.fpga.lower.tokens import check_tokens
from tests.targets.fpga.lower.strategies import assert_exact

pytestmark = pytest.mark.slow


def test_resnet18_is_exact_and_its_tokens_suffice() -> None:
    program = compile_layers(resnet18())
    check_tokens(program.instructions, program.dram, program.config)
    assert_exact(program)


def test_convolutions_of_resnet18_stay_within_a_tenth_of_their_bound() -> None:
    *layers, whole = rows(resnet18(), "pynq-z1", find_memory("axi64"))
    for row in layers:
        if row.name.startswith("layer") and "downsample" not in row.name:
            assert row.ratio <= 1.1, row
            assert row.alone <= 1.1 * row.bound, row
    assert whole.ratio <= 1.15
