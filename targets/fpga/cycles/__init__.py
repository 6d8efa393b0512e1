"""The cycle model: how long a program takes on an accelerator with a given memory, and why."""

from hardy.targets.fpga.cycles.costs import CHISEL, HLS, Costs
from hardy.targets.fpga.cycles.estimate import estimate
from hardy.targets.fpga.cycles.layers import Layer, Mark, layers, table
from hardy.targets.fpga.cycles.timing import Timing, Wait

__all__ = ["CHISEL", "HLS", "Costs", "Layer", "Mark", "Timing", "Wait", "estimate", "layers", "table"]
