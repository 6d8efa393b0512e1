"""Every kind of layer through the simulator, to the bit."""

from __future__ import annotations

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.config import find_config
from hardy.targets.fpga.lower.program import alone, compile_layers
from hardy.targets.fpga.lower.tokens import check_tokens
from tests.targets.fpga.lower.strategies import assert_exact, layers, tilings


@pytest.mark.parametrize("config", ["1x4", "1x8", "2x8", "pynq-z1"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, phases=(Phase.generate,))
def test_a_layer_in_any_tiles_gives_what_its_definition_says(config: str, data: st.DataObject) -> None:
    layer = data.draw(layers())
    tiling = data.draw(tilings(layer, find_config(config)))
    try:
        program = compile_layers(alone(layer), config, tilings=[tiling])
    except TargetError as error:
        assume("buffer" not in str(error))
        raise
    check_tokens(program.instructions, program.dram, program.config)
    assert_exact(program)
