"""A dedicated accelerator for a small network: HLS C++ with one module a layer and streams between them."""

from hardy.targets.fpga.dataflow.design import Design, Options, generate
from hardy.targets.fpga.dataflow.table import supports

__all__ = ["Design", "Options", "generate", "supports"]
