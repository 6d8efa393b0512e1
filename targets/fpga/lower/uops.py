"""Micro-ops in DRAM and in their buffer: each kernel once, loaded in bursts when it is not there.

The buffer is a ring. A miss loads the kernel with those of the next instructions that are missing too, in
one burst, and what the burst covers is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hardy.targets.fpga.config import Config
from hardy.targets.fpga.isa import Alu, Buffer, Gemm, Load, ProgramError, layouts
from hardy.targets.fpga.lower.tokens import Draft

Array = np.ndarray[Any, Any]

BURST_SHARE = 8
"""A burst of several kernels fills at most one part in so many of the buffer."""


def encode_words(uops: Array, config: Config) -> Array:
    """Micro-ops int[n, 3] as u32[n]; ProgramError names the field that cannot hold its value."""
    words = np.zeros(len(uops), np.int64)
    for column, f in enumerate(layouts(config).uop):
        values = uops[:, column]
        if len(values) and (values.min() < 0 or values.max() > f.mask):
            raise ProgramError(
                f"a micro-op's {f.name} is {values.min()}..{values.max()}; it takes 0 to {f.mask}"
            )
        words |= values << f.low
    return words.astype(np.uint32)


def place_uops(drafts: Sequence[Draft], config: Config, base: int) -> tuple[list[Draft], Array]:
    """The drafts with micro-op ranges and the loads of micro-ops, and the micro-ops u32[n] for DRAM.

    `base` is the DRAM element (of 4 bytes) where the micro-ops will begin.
    """
    ring = _Ring(config, base)
    keys = [None if d.uops is None else encode_words(d.uops, config).tobytes() for d in drafts]
    placed: list[Draft] = []
    for position, draft in enumerate(drafts):
        key = keys[position]
        if key is None or not isinstance(draft.instruction, Gemm | Alu):
            placed.append(draft)
            continue
        load = ring.bring(key, (k for k in keys[position : position + 64] if k is not None))
        if load is not None:
            placed.append(Draft(load, None, draft.layer))
        begin = ring.begin(key)
        moved = replace(draft.instruction, uops=(begin, begin + len(key) // 4))
        placed.append(replace(draft, instruction=moved))
    return placed, np.frombuffer(b"".join(ring.image), np.uint32)


class _Ring:
    def __init__(self, config: Config, base: int) -> None:
        self._depth, self._base = config.uop_depth, base
        self._resident: dict[bytes, int] = {}
        self._at = 0
        self._bursts: dict[bytes, int] = {}
        self.image: list[bytes] = []
        self._size = 0

    def begin(self, key: bytes) -> int:
        return self._resident[key]

    def bring(self, key: bytes, following: Iterable[bytes]) -> Load | None:
        """Loads a kernel that is not resident, with others that will be missing soon."""
        if key in self._resident:
            return None
        if len(key) // 4 > self._depth:
            raise ProgramError(f"a kernel of {len(key) // 4} micro-ops exceeds a buffer of {self._depth}")
        burst: list[bytes] = []
        total = 0
        for other in following:
            count = len(other) // 4
            if other in self._resident or other in burst:
                continue
            if burst and total + count > self._depth // BURST_SHARE:
                break
            burst.append(other)
            total += count
        if self._at + total > self._depth:
            self._at = 0
        start, self._at = self._at, self._at + total
        self._resident = {
            k: at for k, at in self._resident.items() if at + len(k) // 4 <= start or at >= start + total
        }
        data = b"".join(burst)
        if data not in self._bursts:
            self._bursts[data] = self._size
            self.image.append(data)
            self._size += total
        load = Load(Buffer.UOP, start, self._base + self._bursts[data], total)
        for k in burst:
            self._resident[k] = start
            start += len(k) // 4
        return load
