"""Named lists of passes for what people want most, as visible tuples."""

from __future__ import annotations

from collections.abc import Mapping

from hardy.compiler.errors import UsageError
from hardy.compiler.pass_list import Listed
from hardy.passes.center_channels import CenterChannels
from hardy.passes.pipelines import DEFAULT
from hardy.passes.quantize import Quantize

# `...` stands for the target's own passes.
PRESETS: Mapping[str, tuple[Listed, ...]] = {
    # Products of 8-bit integers, in the target's scheme, but for the few that hurt where outputs are noisy.
    "int8": (
        *(*DEFAULT, CenterChannels(), *DEFAULT),
        Quantize(rounding="gptq", float_share=0.05, sqnr_db=30.0),
        ...,
    ),
}


def preset_passes(name: str) -> tuple[Listed, ...]:
    """The passes of a preset; UsageError lists those that exist."""
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}", hint=f"there are {', '.join(PRESETS)}")
    return PRESETS[name]
