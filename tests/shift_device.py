"""A device that has shifts and no multiplication of sums: the reference, with such a scheme."""

from __future__ import annotations

from dataclasses import dataclass

from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.passes import DEFAULT, LowerQuantization
from hardy.targets.reference.target import ReferenceTarget
from hardy.targets.target import Device, QuantizationScheme


def scheme(per_channel: bool = True) -> QuantizationScheme:
    """i8 by i8, symmetric, powers of two."""
    return QuantizationScheme(DType.i8, DType.i8, True, per_channel, power_of_two_scales=True)


@dataclass(frozen=True)
class ShiftTarget(ReferenceTarget):
    """Runs what `lower_quantization` gives for a scheme of powers of two."""

    per_channel: bool = True

    kind = "shift"
    summary = "the reference as a device that requantizes by shifts"

    @property
    def name(self) -> str:
        return "shift"

    def describe(self) -> Device:
        return Device(name="shifts", kind="test", quantization=scheme(self.per_channel))

    def passes(self) -> tuple[Pass, ...]:
        return (*DEFAULT, LowerQuantization(), *DEFAULT)
