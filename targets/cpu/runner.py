"""Loads a program's shared library and calls it on tensors, without copies."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from hardy.compiler.errors import ArtifactError
from hardy.compiler.types import TensorType

# What the library expects and is called, here so that running a program needs no code generator.
ALIGNMENT = 64
MAIN, STEP = "hardy_main", "hardy_step"
LIBRARY, HEADER, CONSTANTS = "program.so", "program.h", "constants"

Pointers = ctypes.Array[ctypes.c_void_p]


def aligned(nbytes: int) -> torch.Tensor:
    """Uninitialised bytes on an `ALIGNMENT` boundary."""
    raw = torch.empty(nbytes + ALIGNMENT, dtype=torch.uint8)
    return raw[-raw.data_ptr() % ALIGNMENT :][:nbytes]


_loads: dict[Path, int] = {}
_loads_lock = threading.Lock()


def _fresh_name(library: Path) -> str:
    """A spelling of the path that was not loaded before: the loader would answer a name that it knows with
    the library that it has, although another artifact may lie there by now."""
    path = library.absolute()
    with _loads_lock:
        count = _loads[path] = _loads.get(path, -1) + 1
    return f"{path.parent}/{'./' * count}{path.name}"


class LibraryRunner:
    """A loaded program. Calls may come from several threads: each call in flight has an arena of its own."""

    def __init__(
        self,
        library: Path,
        inputs: Sequence[TensorType],
        outputs: Sequence[TensorType],
        constants: torch.Tensor,
        arena_bytes: int,
        steps: Sequence[str] = (),
    ) -> None:
        try:
            loaded = ctypes.CDLL(_fresh_name(library), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        except OSError as error:
            raise ArtifactError(f"the program cannot be loaded: {error}", where=str(library)) from error
        self._main = loaded[MAIN]
        self._step = loaded[STEP]
        self._main.argtypes = [ctypes.c_void_p] * 3
        self._step.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int32]
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        if constants.numel() and constants.data_ptr() % ALIGNMENT:
            moved = aligned(constants.numel())
            moved.copy_(constants)
            constants = moved
        self._constants = constants
        self._arena_bytes = arena_bytes
        self._arenas: list[torch.Tensor] = []
        self._lock = threading.Lock()
        self._steps = tuple(steps)

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """New output tensors for inputs that fit the interface."""
        given = [t.contiguous() for t in inputs]
        outputs = tuple(torch.empty(t.shape, dtype=t.dtype.torch) for t in self._outputs)
        arena = self._take_arena()
        self._main(self._table([*given, *outputs]), self._constants.data_ptr(), arena.data_ptr())
        self._give_back(arena)
        return outputs

    def profile(self, inputs: Sequence[torch.Tensor], repeats: int = 10) -> list[tuple[str, float]]:
        """Each call of the sequence with the median of its times in seconds."""
        given = [t.contiguous() for t in inputs]
        outputs = [torch.empty(t.shape, dtype=t.dtype.torch) for t in self._outputs]
        table, arena = self._table([*given, *outputs]), self._take_arena()
        constants, place = self._constants.data_ptr(), arena.data_ptr()
        times: list[list[float]] = [[] for _ in self._steps]
        for _ in range(repeats):
            for step, seen in enumerate(times):
                start = time.perf_counter()
                self._step(table, constants, place, step)
                seen.append(time.perf_counter() - start)
        self._give_back(arena)
        return [(name, sorted(seen)[len(seen) // 2]) for name, seen in zip(self._steps, times, strict=True)]

    @staticmethod
    def _table(tensors: Sequence[torch.Tensor]) -> Pointers:
        return (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])

    def _take_arena(self) -> torch.Tensor:
        with self._lock:
            if self._arenas:
                return self._arenas.pop()
        return aligned(self._arena_bytes)

    def _give_back(self, arena: torch.Tensor) -> None:
        with self._lock:
            self._arenas.append(arena)
