"""C simulation: the accelerator's modules, built by g++ once per configuration and run on a DRAM image."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.board import Board, find_board
from hardy.targets.fpga.config import Config, find_config
from hardy.targets.fpga.dataflow.simulation import DEADLOCK, ap_int_headers
from hardy.targets.fpga.disassemble import line
from hardy.targets.fpga.hls.generate import CSIM_SOURCE, cpp_files
from hardy.targets.fpga.isa import ProgramError, decode

# -march=native: the simulation runs where it was built. The memory image is read as beats of several types.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-strict-aliasing")
# The warnings that every file is free of; pragmas are for the HLS tool alone.
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
# ap_int.h reads its own uninitialized members when a value is constructed.
AP_WARNINGS = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")
REFUSED = 1  # an exit code of the testbench
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def simulate_hls(
    instructions: bytes,
    dram: bytes | Bytes,
    config: str | Config = "pynq-z1",
    ap_types: bool = False,
    board: Board | None = None,
) -> Bytes:
    """The DRAM image after the generated C++ has run a program; `dram`, the image before, is left alone.

    `instructions` are bytes as `encode` gives them, `dram` is a u8 image from address 0 on. `ap_types` runs
    with ap_int.h's integers of any width, as synthesis does, otherwise with the machine's own, which is much
    faster. The board (left out: the configuration's, or pynq-z1) sets the width of the memory ports.

    Raises ProgramError for a program that deadlocks, leaves the buffers or DRAM, or does what the accelerator
    cannot; TargetError where there is no compiler or no ap_int.h.
    """
    config = find_config(config) if isinstance(config, str) else config
    image = np.frombuffer(dram, np.uint8) if isinstance(dram, bytes) else dram
    if image.dtype != np.uint8 or image.ndim != 1:
        raise ProgramError(f"DRAM is a line of bytes (uint8), not {image.dtype}{list(image.shape)}")
    executable = build(config, board or board_of(config), ap_types)
    with tempfile.TemporaryDirectory(prefix="hardy-") as name:
        folder = Path(name)
        (folder / "program").write_bytes(instructions)
        image.tofile(folder / "before")
        result = subprocess.run(
            [executable, "program", "before", "after"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode in (REFUSED, DEADLOCK):
            raise _stopped(result.stderr, instructions, config)
        if result.returncode:
            raise TargetError(
                f"the C simulation of {config.name} failed with exit code {result.returncode}: "
                f"{result.stderr.strip()}"
            )
        return np.fromfile(folder / "after", np.uint8)


def _stopped(output: str, instructions: bytes, config: Config) -> ProgramError:
    """What the testbench said, with the instructions that the queues were at."""
    numbers = sorted(int(n) for n in re.findall(r"^\w+ queue: at instruction (\d+)$", output, re.MULTILINE))
    program = decode(instructions, config)
    return ProgramError(
        f"the C simulation of {config.name} stopped: {output.strip()}",
        where="; ".join(f"instruction {n}, {line(program[n])}" for n in numbers),
    )


def board_of(config: Config) -> Board:
    """The board that a configuration is published for, pynq-z1 for the others."""
    try:
        return find_board(config.name)
    except TargetError:
        return find_board("pynq-z1")


def build(config: Config, board: Board, ap_types: bool = False) -> Path:
    """The testbench's executable, from a cache that the content of the files decides."""
    files = cpp_files(config, board)
    if ap_types:
        flags: tuple[str, ...] = (*FLAGS, *WARNINGS, *AP_WARNINGS, "-isystem", str(ap_int_headers()))
    else:
        flags = (*FLAGS, *WARNINGS, "-DHARDY_PLAIN_INTEGERS")
    return compile_cached(files, [CSIM_SOURCE], (*flags, "-Isrc", "-Icsim"))


def compile_cached(files: Mapping[str, bytes], sources: Iterable[str], flags: tuple[str, ...]) -> Path:
    """Compiles sources to an executable, or finds what the same files, flags and compiler made before."""
    command = compiler()
    key = hashlib.sha256(repr((sorted(files.items()), tuple(sources), flags, version(command))).encode())
    made = cache_folder() / key.hexdigest()[:32]
    if made.exists():
        return made
    with tempfile.TemporaryDirectory(prefix="hardy-") as name:
        folder = Path(name)
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        result = subprocess.run(
            [command, *flags, "-o", "testbench", *sources],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise TargetError(f"{command} could not compile the generated C++:\n{result.stderr.strip()}")
        # Under a name of its own first: another process may be doing the same.
        private = made.with_name(f"{made.name}.{os.getpid()}")
        shutil.copy2(folder / "testbench", private)
        private.rename(made)
    return made


def compiler() -> str:
    """g++, or the compiler of its kind that HARDY_CXX names."""
    name = os.environ.get("HARDY_CXX", "g++")
    found = shutil.which(name)
    if found is None:
        raise TargetError(f"{name} was not found", hint="install g++, or name one in HARDY_CXX")
    return found


@lru_cache(maxsize=4)
def version(command: str) -> str:
    """What the compiler says about itself, and what it takes this machine for."""
    return subprocess.run(
        [command, "-march=native", "-E", "-v", "-x", "c++", os.devnull],
        capture_output=True,
        text=True,
        check=False,
    ).stderr


def cache_folder() -> Path:
    """A folder of this user's alone in the machine's temporary files."""
    folder = Path(tempfile.gettempdir()) / f"hardy-csim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or not folder.is_dir() or folder.is_symlink():
        raise TargetError(f"{folder} is open to other users", hint="remove it")
    return folder
