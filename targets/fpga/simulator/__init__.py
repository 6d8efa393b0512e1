"""The functional simulator: what a program does to the DRAM, to the bit."""

from hardy.targets.fpga.simulator.run import simulate

__all__ = ["simulate"]
