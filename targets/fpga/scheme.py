"""How integers look on FPGAs: the scheme of both accelerators."""

from __future__ import annotations

from hardy.compiler.types import DType
from hardy.targets.target import QuantizationScheme

# Symmetric i8, a power of two for each tensor, and for each output channel of a weight.
SCHEME = QuantizationScheme(
    activations=DType.i8,
    weights=DType.i8,
    symmetric_activations=True,
    per_channel=True,
    power_of_two_scales=True,
)
