"""What the search tries: pass lists, from mild to strong, and how each spares layers that hurt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hardy.compiler.pass_list import Listed
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.passes.center_channels import CenterChannels
from hardy.passes.cluster import Cluster
from hardy.passes.pipelines import CLEANUP, DEFAULT
from hardy.passes.prune import Prune
from hardy.passes.prune_channels import PruneChannels
from hardy.passes.quantize import Quantize
from hardy.passes.quantize_weights import QuantizeWeights
from hardy.passes.recover import Recover

Objective = Literal["latency", "size", "macs"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

# Passes for the layers to leave alone; `...` stands for the target's own.
Build = Callable[[Sequence[str]], tuple[Listed, ...]]


@dataclass(frozen=True)
class Ranking:
    """What is done to each layer alone to see which hurt the outputs most: a pass, an option set."""

    pass_: Pass
    option: str
    setting: Any


QUANTIZED = Ranking(Quantize(), "method", "min_max")
SHARED = Ranking(Cluster(), "bits", 4)


@dataclass(frozen=True)
class Recipe:
    """A way to compress. Where all layers together cost too much, recipes with a ranking leave those that
    hurt most as they are. `serves`: the objectives that it can make smaller."""

    name: str
    build: Build
    spares: Ranking | None = None
    serves: tuple[Objective, ...] = OBJECTIVES


def _as_it_is(skip: Sequence[str]) -> tuple[Listed, ...]:
    return (...,)


def _quantized(skip: Sequence[str]) -> tuple[Listed, ...]:
    return (CenterChannels(), *DEFAULT, Quantize(skip=tuple(skip)), ...)


def _int8(skip: Sequence[str]) -> tuple[Listed, ...]:
    return (*DEFAULT, *_quantized(skip))


def _stored(weights: DType, block: int) -> Build:
    """Integers in storage, floats in the products."""

    def build(skip: Sequence[str]) -> tuple[Listed, ...]:
        return (*DEFAULT, QuantizeWeights(weights, block, "gptq", skip=tuple(skip)), ...)

    return build


def _shared(sqnr_db: float, skip: Sequence[str] = ()) -> tuple[Pass, ...]:
    """As many values for each layer as it needs, which then learn."""
    return Cluster(sqnr_db=sqnr_db, skip=tuple(skip)), Recover(keep="ties")


def _clusters(sqnr_db: float) -> Build:
    return lambda skip: (*DEFAULT, *_shared(sqnr_db, skip), ...)


def _zeros(sparsity: float, sqnr_db: float | None = None) -> Build:
    def build(skip: Sequence[str]) -> tuple[Listed, ...]:
        prune = Prune(sparsity=sparsity, structure="element", scope="global", skip=tuple(skip))
        after = () if sqnr_db is None else _shared(sqnr_db, skip)
        return (*DEFAULT, prune, Recover(), *after, ...)

    return build


def _narrow(macs: float, *after: Pass) -> Build:
    def build(skip: Sequence[str]) -> tuple[Listed, ...]:
        return (*DEFAULT, PruneChannels(macs=macs, skip=tuple(skip)), Recover(), *CLEANUP, *after, ...)

    return build


def _narrow_int8(macs: float) -> Build:
    def build(skip: Sequence[str]) -> tuple[Listed, ...]:
        return (*DEFAULT, PruneChannels(macs=macs), Recover(), *CLEANUP, *_quantized(skip))

    return build


# All but MACs: the number of multiplications stays, but each gets cheaper, or its weight smaller.
CHEAPER: tuple[Objective, ...] = ("latency", "size")
# Coded weights are small where they take few values, most of them zero; programs read them as before.
SMALLER: tuple[Objective, ...] = ("size",)

RECIPES: tuple[Recipe, ...] = (
    Recipe("coded", _as_it_is, serves=SMALLER),
    Recipe("int8", _int8, QUANTIZED, CHEAPER),
    Recipe("int8 weights", _stored(DType.i8, 0), SHARED, CHEAPER),
    Recipe("int4 weights in 64s", _stored(DType.u4, 64), SHARED, CHEAPER),
    Recipe("shared at 26 dB", _clusters(26), SHARED, SMALLER),
    Recipe("shared at 20 dB", _clusters(20), SHARED, SMALLER),
    Recipe("shared at 14 dB", _clusters(14), SHARED, SMALLER),
    Recipe("zeros 50 %", _zeros(0.5), serves=SMALLER),
    Recipe("zeros 50 %, shared at 20 dB", _zeros(0.5, 20), SHARED, SMALLER),
    Recipe("zeros 70 %, shared at 20 dB", _zeros(0.7, 20), SHARED, SMALLER),
    Recipe("zeros 90 %, shared at 20 dB", _zeros(0.9, 20), SHARED, SMALLER),
    Recipe("channels 80 %", _narrow(0.8)),
    Recipe("channels 80 %, int8", _narrow_int8(0.8), QUANTIZED, CHEAPER),
    Recipe("channels 80 %, shared at 20 dB", _narrow(0.8, *_shared(20)), serves=SMALLER),
    Recipe("channels 60 %", _narrow(0.6)),
    Recipe("channels 60 %, int8", _narrow_int8(0.6), QUANTIZED, CHEAPER),
    Recipe("channels 60 %, shared at 20 dB", _narrow(0.6, *_shared(20)), serves=SMALLER),
    Recipe("channels 40 %", _narrow(0.4)),
    Recipe("channels 40 %, int8", _narrow_int8(0.4), QUANTIZED, CHEAPER),
    Recipe("channels 40 %, shared at 20 dB", _narrow(0.4, *_shared(20)), serves=SMALLER),
)
