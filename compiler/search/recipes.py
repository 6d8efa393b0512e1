"""What the search tries: pass lists, from mild to strong, and how each spares layers that hurt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hardy.compiler.pass_list import Listed
from hardy.passes.center_channels import CenterChannels
from hardy.passes.pipelines import CLEANUP, DEFAULT
from hardy.passes.prune_channels import PruneChannels
from hardy.passes.quantize import Quantize
from hardy.passes.recover import Recover

# Passes for the layers to leave alone; `...` stands for the target's own.
Build = Callable[[Sequence[str]], tuple[Listed, ...]]


@dataclass(frozen=True)
class Recipe:
    """A way to compress. `mixed` recipes can leave layers as they are, which the search uses where all of
    them cost too much; `per_layer` is the pass that is tried layer by layer then."""

    name: str
    build: Build
    mixed: bool = False


def _quantized(skip: Sequence[str]) -> tuple[Listed, ...]:
    return (CenterChannels(), *DEFAULT, Quantize(skip=tuple(skip)), ...)


def _int8(skip: Sequence[str]) -> tuple[Listed, ...]:
    return (*DEFAULT, *_quantized(skip))


def _narrow(macs: float) -> Build:
    def build(skip: Sequence[str]) -> tuple[Listed, ...]:
        return (*DEFAULT, PruneChannels(macs=macs, skip=tuple(skip)), Recover(), *CLEANUP, ...)

    return build


def _narrow_int8(macs: float) -> Build:
    def build(skip: Sequence[str]) -> tuple[Listed, ...]:
        return (
            *(*DEFAULT, PruneChannels(macs=macs), Recover(), *CLEANUP),
            *_quantized(skip),
        )

    return build


RECIPES: tuple[Recipe, ...] = (
    Recipe("int8", _int8, mixed=True),
    Recipe("channels 80 %", _narrow(0.8)),
    Recipe("channels 80 %, int8", _narrow_int8(0.8), mixed=True),
    Recipe("channels 60 %", _narrow(0.6)),
    Recipe("channels 60 %, int8", _narrow_int8(0.6), mixed=True),
    Recipe("channels 40 %", _narrow(0.4)),
    Recipe("channels 40 %, int8", _narrow_int8(0.4), mixed=True),
)
