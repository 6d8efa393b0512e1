"""Runs kernels with every array against a page that must not be touched."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hardy.targets.cpu.isa import Isa, by_name, missing_on_host
from hardy.targets.cpu.kernels.kernel import Kernel
from hardy.targets.cpu.kernels.module import compile_kernels

Array = np.ndarray[Any, Any]
LIBC = ctypes.CDLL(None, use_errno=True)
CANARY = 0xA5


class Guarded:
    """Memory whose end is the end of a readable page; what lies before it holds a pattern."""

    def __init__(self, nbytes: int) -> None:
        page = mmap.PAGESIZE
        pages = -(-nbytes // page) + 1
        self._map = mmap.mmap(-1, (pages + 1) * page)
        self._all = np.frombuffer(self._map, np.uint8)
        end = pages * page
        if LIBC.mprotect(ctypes.c_void_p(self._all.ctypes.data + end), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
        self._front = self._all[: end - nbytes]
        self._front[...] = CANARY
        self.bytes = self._all[end - nbytes : end]

    def check(self) -> None:
        assert (self._front == CANARY).all(), "the kernel wrote in front of an array"


def guarded(array: Array) -> tuple[Guarded, Array]:
    memory = Guarded(array.nbytes)
    copy = memory.bytes.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return memory, copy


def run_kernel(
    kernel: Kernel, isa: Isa, *arrays: Array, shape: tuple[int, ...], dtype: str = "float32"
) -> Array:
    """Compiles the kernel and runs it: the arrays are its inputs without output and workspace."""
    compiled = compile_kernels({"kernel": kernel}, isa)["kernel"]
    memories, inputs = zip(*(guarded(a) for a in arrays), strict=True)
    before = [a.copy() for a in inputs]
    output_memory, output = guarded(np.zeros(shape, dtype))
    output.view(np.uint8)[...] = CANARY
    workspace = Guarded(-(-kernel.workspace_bytes // 64) * 64)
    if kernel.workspace_bytes:
        compiled = replace(compiled, workspace=workspace.bytes[: kernel.workspace_bytes])
    compiled(*inputs, output)
    for memory in (*memories, output_memory, workspace):
        memory.check()
    for a, b in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(a, b, "the kernel changed an input")
    return output.copy()


@pytest.fixture(scope="session")
def run() -> Callable[..., Array]:
    return run_kernel


@pytest.fixture(scope="session", params=["avx512", "avx512+vnni", "avx2", "portable"])
def isa(request: pytest.FixtureRequest) -> Isa:
    """Every instruction set that this machine can run."""
    chosen = by_name(request.param)
    if missing := missing_on_host(chosen):
        pytest.skip(f"{request.param} needs {', '.join(missing)}")
    return chosen


@pytest.fixture(scope="session", params=["avx512", "avx2", "portable"])
def float_isa(request: pytest.FixtureRequest) -> Isa:
    """Every instruction set of this machine whose f32 code differs."""
    chosen = by_name(request.param)
    if missing := missing_on_host(chosen):
        pytest.skip(f"{request.param} needs {', '.join(missing)}")
    return chosen


def assert_near(actual: Array, exact: Array, length: int = 1, magnitude: Array | float = 1.0) -> None:
    """The f32 tolerance (1.3e-6, 1e-5) for a sum of `length` products, of the sums' natural size."""
    bound = 1e-5 + 1.3e-6 * np.sqrt(length) * np.maximum(abs(exact), magnitude)
    worst = (abs(actual - exact) / bound).max()
    assert worst <= 1, f"{worst:.2f} times the tolerance"


@pytest.fixture(scope="session")
def near() -> Callable[..., None]:
    return assert_near
