"""What the cycle model says of a compiled network as a whole: all programs of an artifact together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hardy.compiler.artifact import Artifact
from hardy.compiler.errors import UsageError
from hardy.targets.fpga.target import FpgaTarget


@dataclass(frozen=True)
class Summary:
    """Estimates of one run: cycles of VTA and seconds at the board's clock, without the host's stages.

    `macs_share` is VTA's share of all multiply-accumulates, `gemm_use` the share of cycles in which a GEMM
    micro-op began, `devices` names the device of each stage, and `layers` holds one row a layer (`layer`,
    `cycles`, `gemm_use`, `alu_share`, `bytes`, `limit`, `tiling`).
    """

    macs_share: float
    cycles: int
    seconds: float
    gemm_use: float
    devices: tuple[str, ...]
    layers: Sequence[Mapping[str, Any]]


def summarize(artifact: Artifact) -> Summary:
    """The estimates that an artifact for a board with VTA holds; UsageError for another target's."""
    target = artifact.target
    if not isinstance(target, FpgaTarget):
        raise UsageError(f"the artifact is for {target.name}, which has no estimates of VTA's cycles")
    package = artifact.manifest["target"]["package"]
    stages = package["stages"]
    estimates = [s["package"]["estimate"] for s in stages if s["device"] == target.device_name]
    cycles = sum(e["cycles"] for e in estimates)
    return Summary(
        macs_share=package["macs_share"][target.device_name],
        cycles=cycles,
        seconds=sum(e["seconds"] for e in estimates),
        gemm_use=sum(e["gemm_use"] * e["cycles"] for e in estimates) / max(cycles, 1),
        devices=tuple(s["device"] for s in stages),
        layers=[row for e in estimates for row in e["layers"]],
    )
