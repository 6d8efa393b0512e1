"""HLS C++ of the accelerator that runs VTA's instructions, its C simulation, and what it takes of a board."""

from hardy.targets.fpga.hls.csim import simulate_hls
from hardy.targets.fpga.hls.generate import generate
from hardy.targets.fpga.hls.resources import estimate_resources

__all__ = ["estimate_resources", "generate", "simulate_hls"]
