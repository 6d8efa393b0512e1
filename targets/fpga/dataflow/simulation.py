"""C simulation: the generated C++, compiled with g++ and run."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.dataflow.depths import DeadlockError

Array = NDArray[np.int64]
FLAGS = ("-std=c++14", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
DEADLOCK = 3  # the exit code in library/simulation.h


def ap_int_headers() -> Path:
    """The folder of ap_int.h; TargetError where the package that has it is not installed."""
    spec = importlib.util.find_spec("hls4ml")
    if spec is None or not spec.submodule_search_locations:
        raise TargetError(
            "C simulation with ap_int needs its headers",
            hint="pip install --no-deps hls4ml, or plain integers",
        )
    return Path(spec.submodule_search_locations[0]) / "templates" / "vivado" / "ap_types"


class CSimulation:
    """The C++ of an accelerator, compiled by g++ into a folder of its own, which lasts as long as this does.

    `plain` takes the machine's own integers instead of ap_int. TargetError where there is no compiler, or it
    refuses the code.
    """

    def __init__(self, files: Mapping[str, bytes], plain: bool = True) -> None:
        compiler = shutil.which("g++")
        if compiler is None:
            raise TargetError("C simulation needs g++", hint="install it, for instance apt-get install g++")
        self._folder = tempfile.TemporaryDirectory(prefix="hardy-")
        folder = Path(self._folder.name)
        for path, data in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        if plain:
            mode = ["-DHARDY_PLAIN_INTEGERS"]
        else:
            # The constructors of ap_int touch what they are about to set, which g++ takes for an error.
            mode = [
                "-O0",
                "-isystem",
                str(ap_int_headers()),
                "-Wno-uninitialized",
                "-Wno-maybe-uninitialized",
            ]
        source = folder / "src"
        command = [
            compiler,
            *FLAGS,
            *mode,
            f"-I{source}",
            str(source / "top.cpp"),
            str(source / "testbench.cpp"),
        ]
        self._program = folder / "testbench"
        _run([*command, "-o", str(self._program)], "the C++ does not compile")

    def run(
        self, inputs: Mapping[str, Array], types: Mapping[str, str], outputs: Sequence[str]
    ) -> dict[str, Array]:
        """The contents of the output ports for those of the input ports; `types` are the elements' by port.

        DeadlockError names the FIFOs if the network stops halfway.
        """
        with tempfile.TemporaryDirectory(dir=self._folder.name) as name:
            vectors = Path(name)
            for port, values in inputs.items():
                values.astype(types[port]).tofile(vectors / f"{port}.bin")
            _run([str(self._program), "write", str(vectors)], "C simulation failed")
            return {p: np.fromfile(vectors / f"{p}.bin", types[p]).astype(np.int64) for p in outputs}


def _run(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == DEADLOCK:
        raise DeadlockError(done.stderr.strip())
    if done.returncode:
        raise TargetError(f"{what}: {done.stderr.strip()[:2000]}", where=command[0])
