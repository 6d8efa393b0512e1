"""HLS C++ of the VTA-compatible accelerator for a configuration and a board, and all that goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from hardy.targets.fpga.board import Board
from hardy.targets.fpga.config import Config
from hardy.targets.fpga.hls.resources import estimate_resources
from hardy.targets.fpga.hls.scripts import driver_registers, readme, synthesis_script, system_script
from hardy.targets.fpga.hls.sources import (
    HEADERS,
    MODULE_SOURCES,
    constants,
    decoder,
    library,
    module_values,
)

# All of C simulation as one source, which compiles in a third of the time.
CSIM_SOURCE = "csim/all.cpp"


def generate(config: Config, board: Board) -> Mapping[str, bytes]:
    """The files of the accelerator, by their paths; `README.md` describes them.

    Raises TargetError where the configuration does not fit the board, with what would.
    """
    estimate_resources(config, board)
    return {
        **cpp_files(config, board),
        "hls.tcl": synthesis_script(board),
        "system.tcl": system_script(config, board),
        "driver/vta_driver.py": library("vta_driver.py"),
        "driver/vta_registers.py": driver_registers(board),
        "README.md": readme(config, board),
    }


def cpp_files(config: Config, board: Board) -> dict[str, bytes]:
    """The modules, and what C simulation runs them with: `src/` and `csim/`."""
    shared = files("hardy.targets.fpga.dataflow").joinpath("library")
    includes = "".join(f'#include "{name}"\n' for name in (*MODULE_SOURCES, "testbench.cpp"))
    return {
        "src/vta_config.h": constants(config, board).encode(),
        "src/vta_decode.h": decoder(config).encode(),
        "src/integers.h": shared.joinpath("integers.h").read_bytes(),
        **{f"src/{name}": library(name) for name in HEADERS},
        **{f"src/{name}": library(name, module_values(board)) for name in MODULE_SOURCES},
        "csim/hls_stream.h": shared.joinpath("simulation.h").read_bytes(),
        "csim/testbench.cpp": library("testbench.cpp"),
        CSIM_SOURCE: includes.encode(),
    }
