"""Runs programs on the accelerator of a board, with PYNQ.

    accelerator = Accelerator("vta.bit", dram_bytes=image.size)
    accelerator.dram[:] = image          # weights, micro-ops, inputs
    accelerator.run(program)             # bytes, 16 an instruction
    result = accelerator.dram[...]

Addresses in a program count from the start of `dram`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pynq  # type: ignore[import-not-found]  # on the board alone
from vta_registers import (  # type: ignore[import-not-found]  # generated beside this file
    CONTROL,
    PAGE_BYTES,
    PAGES,
    REGISTERS,
    RESTART,
    START,
)

INSTRUCTION_BYTES = 16


class Accelerator:
    """The accelerator, its bitstream loaded, with `dram_bytes` of memory that it shares with the host.

    The memory is allocated once: the modules restart by themselves and have read its address before the next
    program comes.
    """

    def __init__(self, bitstream: str, dram_bytes: int) -> None:
        self.overlay = pynq.Overlay(bitstream)
        self._pages = {module: pynq.MMIO(address, PAGE_BYTES) for module, address in PAGES.items()}
        self.dram: Any = pynq.allocate((dram_bytes,), dtype=np.uint8)
        for module, argument in (
            ("load", "inputs"),
            ("load", "weights"),
            ("compute", "uops"),
            ("compute", "biases"),
            ("store", "outputs"),
        ):
            self._write(module, argument, self.dram.physical_address)
        self._write("compute", "done", 0)
        for module in ("load", "compute", "store"):
            self._pages[module].write(CONTROL, RESTART)

    def run(self, program: bytes, timeout: float = 10.0) -> float:
        """Runs a program to its FINISH, and gives the seconds it took.

        Raises TimeoutError where FINISH does not come in time: the program waits for a token that is never
        sent. The accelerator then needs its bitstream loaded anew.
        """
        count, rest = divmod(len(program), INSTRUCTION_BYTES)
        if rest:
            raise ValueError(
                f"a program is a multiple of {INSTRUCTION_BYTES} bytes, this one has {len(program)}"
            )
        code = pynq.allocate((len(program),), dtype=np.uint8)
        try:
            code[:] = np.frombuffer(program, np.uint8)
            code.sync_to_device()
            self.dram.sync_to_device()
            self._write("fetch", "instruction_count", count)
            self._write("fetch", "instructions", code.physical_address)
            self._read("compute", "done_valid")  # clears what the last program left
            start = time.perf_counter()
            self._pages["fetch"].write(CONTROL, START)
            while not self._finished():
                if time.perf_counter() - start > timeout:
                    raise TimeoutError(f"the program has not finished after {timeout} s")
            seconds = time.perf_counter() - start
            self.dram.sync_from_device()
            return seconds
        finally:
            code.freebuffer()

    def _finished(self) -> bool:
        return bool(self._read("compute", "done_valid") & 1) and self._read("compute", "done_out") == 1

    def _write(self, module: str, argument: str, value: int) -> None:
        self._pages[module].write(REGISTERS[module, argument], value)

    def _read(self, module: str, argument: str) -> int:
        return int(self._pages[module].read(REGISTERS[module, argument]))
