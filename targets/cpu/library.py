"""From LLVM modules to the bytes of one shared library, through the system's linker."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardy.compiler.errors import TargetError
from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.runner import MAIN, STEP

# Only the entry points are visible: calls inside the library need no lookup.
EXPORTS = f"{{ global: {MAIN}; {STEP}; local: *; }};\n"
FLAGS = (
    "-shared",
    "-nostdlib",
    "-Wl,--version-script=exports",
    "-Wl,--build-id=none",
    "-Wl,-s",
    "-Wl,-z,noexecstack",
)


def linker(isa: Isa) -> str | None:
    """The C compiler driver that links for the instruction set, None where there is none.

    HARDY_CC names one; otherwise it is `cc`, or the cross compiler of another architecture.
    """
    named = os.environ.get("HARDY_CC")
    if named:
        return shutil.which(named)
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    candidates = ("cc", "gcc", "clang") if machine == isa.arch else (f"{isa.arch}-linux-gnu-gcc",)
    return next((found for name in candidates if (found := shutil.which(name))), None)


def link(objects: Sequence[Any], isa: Isa) -> bytes:
    """Link LLVM modules into one shared library; TargetError where there is no linker or it fails."""
    command = linker(isa)
    if command is None:
        raise TargetError(
            f"no C compiler was found to link code for {isa.arch}",
            hint="install one (apt install gcc), or name it in HARDY_CC",
        )
    with tempfile.TemporaryDirectory(prefix="hardy-") as folder:
        names = []
        for number, module in enumerate(objects):
            names.append(f"part{number}.o")
            module.write_to_file(str(Path(folder, names[-1])), "o")
        Path(folder, "exports").write_text(EXPORTS)
        result = subprocess.run(
            [command, *FLAGS, "-o", "program.so", *names, "-lm"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise TargetError(f"{command} could not link the program:\n{result.stderr.strip()}")
        return Path(folder, "program.so").read_bytes()
