"""FPGAs as targets: accelerators that hardy drives by instructions, and their models."""

from hardy.targets.fpga.simulator import simulate

__all__ = ["simulate"]
