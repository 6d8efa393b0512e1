"""Cycles layer by layer, and what limits each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardy.compiler.errors import UsageError
from hardy.targets.fpga.cycles.timing import Timing, Wait
from hardy.targets.fpga.isa import Alu, Buffer, Gemm, Instruction, Load
from hardy.targets.fpga.queues import Queue


@dataclass(frozen=True)
class Mark:
    """A name for the instructions `begin` to `end - 1` of a program."""

    name: str
    begin: int
    end: int


@dataclass(frozen=True)
class Layer:
    """What the compute queue did with its time in a layer.

    `parts` add up to `cycles`: `gemm` and `alu` (micro-ops), `transfers` (its own loads, of micro-ops and
    accumulators), `overhead` (decoding, filling pipelines), and waits for `load`, `store` and `fetch`.
    `bytes` are those moved for the layer by all queues.
    """

    name: str
    cycles: int
    parts: Mapping[str, int]
    bytes: Mapping[Buffer, int]

    @property
    def gemm_use(self) -> float:
        """The share of cycles in which a GEMM micro-op began."""
        return self.parts["gemm"] / max(self.cycles, 1)

    @property
    def alu_share(self) -> float:
        """The share of cycles that the ALU took."""
        return self.parts["alu"] / max(self.cycles, 1)

    @property
    def limit(self) -> str:
        """The part that took most of the time."""
        return max(self.parts, key=lambda part: self.parts[part])


def layers(timing: Timing, program: Sequence[Instruction], marks: Sequence[Mark]) -> tuple[Layer, ...]:
    """The cycles of each mark, by the order in which the compute queue ends its instructions.

    Where the marks cover the program, their cycles add up to the whole. UsageError for a mark outside of it.
    """
    kinds = np.array([_kind(i) for i in program])
    buffers = np.array([i.buffer if isinstance(i, Load) else Buffer.OUT for i in program])
    return tuple(_layer(timing, kinds, buffers, mark) for mark in marks)


def _kind(i: Instruction) -> str:
    if isinstance(i, Gemm):
        return "gemm"
    return "alu" if isinstance(i, Alu) else "transfers" if isinstance(i, Load) else "overhead"


def _layer(
    timing: Timing,
    kinds: NDArray[np.str_],
    buffers: np.ndarray[tuple[int], np.dtype[np.int_]],
    mark: Mark,
) -> Layer:
    if not 0 <= mark.begin <= mark.end <= len(kinds):
        raise UsageError(
            f"the mark {mark.name} covers instructions {mark.begin} to {mark.end - 1} of {len(kinds)}"
        )
    part = slice(mark.begin, mark.end)
    compute = timing.queue[part] == Queue.COMPUTE
    took = (timing.end - timing.begin)[part]
    work, waited, kind = timing.work[part], timing.waited[part], kinds[part]
    parts = {name: int(work[compute & (kind == name)].sum()) for name in ("gemm", "alu")}
    loading = compute & (kind == "transfers") & (timing.nbytes[part] > 0)
    parts["transfers"] = int(took[loading].sum())
    parts["overhead"] = int(took[compute].sum()) - sum(parts.values())
    for wait in (Wait.LOAD, Wait.STORE, Wait.FETCH):
        parts[wait.name.lower()] = int(waited[compute & (timing.reason[part] == wait)].sum())
    moved = {b: int(timing.nbytes[part][buffers[part] == b].sum()) for b in Buffer}
    return Layer(mark.name, sum(parts.values()), parts, moved)


def table(found: Sequence[Layer]) -> str:
    """The layers as lines of text: cycles, use of the GEMM unit, share of the ALU, kilobytes, limit."""
    width = max([5, *(len(layer.name) for layer in found)])
    lines = [f"{'layer':{width}} {'cycles':>10} {'gemm':>6} {'alu':>6} {'KB':>9}  limit"]
    for layer in found:
        kilobytes = sum(layer.bytes.values()) / 1000
        lines.append(
            f"{layer.name:{width}} {layer.cycles:10d} {layer.gemm_use:6.1%} {layer.alu_share:6.1%} "
            f"{kilobytes:9.1f}  {layer.limit}"
        )
    return "\n".join(lines) + "\n"
