"""Random programs: instructions in a line, with tokens wherever the line changes queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hardy.targets.fpga.config import CONFIGS, Config
from hardy.targets.fpga.isa import (
    Alu,
    AluOpcode,
    Buffer,
    Finish,
    Gemm,
    Instruction,
    Load,
    Store,
    Tokens,
    Uop,
    encode_uops,
)
from hardy.targets.fpga.queues import Queue, queue_of

CHOICES = (
    *(CONFIGS[name] for name in ("1x4", "1x8", "2x8", "pynq-z1")),
    Config("4x2", 2, 1, log_uop_buffer=9, log_inp_buffer=9, log_wgt_buffer=8, log_acc_buffer=11),
    Config("2x1", 1, 0, log_uop_buffer=9, log_inp_buffer=7, log_wgt_buffer=6, log_acc_buffer=9),
)

# Indices stay below REACH: micro-ops reach 8 elements, and the loops 12 more. Shift amounts lie behind.
BASE, REACH, SHIFTS = 8, 20, 8
UOPS = 24
STEP = st.integers(0, 3)
PAIR = st.tuples(STEP, STEP)


@dataclass(frozen=True)
class Case:
    """A program and the memory that it runs on."""

    config: Config
    program: tuple[Instruction, ...]
    dram: Any


@st.composite
def cases(draw: st.DrawFn, *, relaxed: bool = False, configs: Sequence[Config] = CHOICES) -> Case:
    """Programs in the portable subset, for one of the configurations.

    Where `relaxed`, some pairs of tokens are left out, so that instructions run beside one another, and race
    where they touch the same memory.
    """
    config = draw(st.sampled_from(configs))
    line = _Line(draw, config)
    for _ in range(draw(st.integers(1, 12))):
        draw(
            st.sampled_from(
                (
                    line.load_inputs,
                    line.load_weights,
                    line.load_sums,
                    line.gemm,
                    line.alu,
                    line.shift,
                    line.store,
                )
            )
        )()
    line.store()
    program = _with_tokens([*line.program, Finish()], draw, relaxed)
    return Case(config, program, line.dram)


class _Line:
    def __init__(self, draw: st.DrawFn, config: Config) -> None:
        self.draw, self.config = draw, config
        self.storable: set[int] = set()
        index = st.integers(0, BASE - 1)
        uops = draw(st.lists(st.builds(Uop, index, index, index), min_size=UOPS, max_size=UOPS))
        uops += [Uop(draw(index), REACH + n) for n in range(SHIFTS)]
        self.uops = uops
        code = np.frombuffer(encode_uops(uops, config), np.uint8)
        self.elements = 4 * (REACH + SHIFTS)
        unit = max(config.acc_bytes, config.wgt_bytes)
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        self.dram = rng.integers(0, 256, (self.elements + 8) * unit, dtype=np.uint8)
        # Micro-ops come first, the shift amounts last.
        self.dram[: code.size] = code
        amounts = rng.integers(0, 16, SHIFTS * config.acc_bytes // 4, dtype=np.int32)
        self.dram[-amounts.nbytes :] = amounts.view(np.uint8)
        shifts = self.dram.size // config.acc_bytes - SHIFTS
        self.program: list[Instruction] = [
            Load(Buffer.UOP, 0, 0, len(uops)),
            Load(Buffer.ACC, 0, draw(st.integers(0, self.elements - REACH)), REACH),
            Load(Buffer.ACC, REACH, shifts, SHIFTS),
            Load(Buffer.INP, 0, draw(st.integers(0, self.elements - REACH)), REACH),
            Load(Buffer.WGT, 0, draw(st.integers(0, self.elements - REACH)), REACH),
        ]

    def _window(self, buffer: Buffer, padded: bool) -> Load:
        draw = self.draw
        y, x = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        pads = st.tuples(st.integers(0, 1), st.integers(0, 1)) if padded else st.just((0, 0))
        y_pad, x_pad = draw(pads), draw(pads)
        room = REACH - (y + sum(y_pad)) * (x + sum(x_pad))
        if room < 0:
            y, y_pad, room = 1, (0, 0), REACH - (x + sum(x_pad))
        stride = draw(st.integers(0, 6))
        start = draw(st.integers(0, self.elements - 2 * stride - 3))
        return Load(buffer, draw(st.integers(0, room)), start, x, y, stride, y_pad, x_pad)

    def load_inputs(self) -> None:
        self.program.append(self._window(Buffer.INP, padded=True))

    def load_weights(self) -> None:
        self.program.append(self._window(Buffer.WGT, padded=False))

    def load_sums(self) -> None:
        i = self._window(Buffer.ACC, padded=True)
        self.storable -= set(range(i.sram, i.sram + i.width * i.height))
        self.program.append(i)

    def _loops(self, low: int, high: int) -> dict[str, Any]:
        begin = self.draw(st.integers(low, high - 1))
        end = self.draw(st.integers(begin + 1, min(high, begin + 4)))
        loops = self.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        return {"uops": (begin, end), "loops": loops, "dst": self.draw(PAIR)}

    def _written(self, i: Gemm | Alu) -> set[int]:
        return {
            self.uops[u].dst + a * i.dst[0] + b * i.dst[1]
            for u in range(*i.uops)
            for a in range(i.loops[0])
            for b in range(i.loops[1])
        }

    def gemm(self) -> None:
        reset = self.draw(st.booleans())
        src, wgt = self.draw(PAIR), self.draw(PAIR)
        i = Gemm(**self._loops(0, UOPS), src=src, wgt=wgt, reset=reset)
        self.storable = self.storable - self._written(i) if reset else self.storable | self._written(i)
        self.program.append(i)

    def alu(self) -> None:
        opcode = self.draw(st.sampled_from((AluOpcode.MIN, AluOpcode.MAX, AluOpcode.ADD, AluOpcode.SHR)))
        imm: int | None = self.draw(st.integers(-(2**15), 2**15 - 1))
        if opcode == AluOpcode.SHR:
            imm = self.draw(st.integers(-16, 15))
        elif self.draw(st.booleans()):
            imm = None
        self._alu(Alu(opcode, **self._loops(0, UOPS), src=self.draw(PAIR), imm=imm))

    def shift(self) -> None:
        self._alu(Alu(AluOpcode.SHR, **self._loops(UOPS, UOPS + SHIFTS)))

    def _alu(self, i: Alu) -> None:
        self.storable |= self._written(i)
        self.program.append(i)

    def store(self) -> None:
        if not self.storable:
            self.alu()
        first = self.draw(st.sampled_from(sorted(self.storable)))
        count = 1
        while first + count in self.storable and self.draw(st.booleans()):
            count += 1
        y, x = (2, count // 2) if count % 2 == 0 and self.draw(st.booleans()) else (1, count)
        # Behind the micro-ops, and over what is loaded later.
        low = -(-4 * len(self.uops) // self.config.out_bytes)
        stride = self.draw(st.integers(0, 20))
        self.program.append(Store(first, self.draw(st.integers(low, low + 40)), x, y, stride))


def _with_tokens(line: list[Instruction], draw: st.DrawFn, relaxed: bool) -> tuple[Instruction, ...]:
    """Every change of queue passes a token; load and store meet in a compute instruction without work."""
    program = [line[0]]
    for i in line[1:]:
        if {queue_of(program[-1]), queue_of(i)} == {Queue.LOAD, Queue.STORE}:
            program.append(Load(Buffer.UOP, 0, 0, 0))
        program.append(i)
    for at in range(1, len(program)):
        before, after = queue_of(program[at - 1]), queue_of(program[at])
        if before == after or (relaxed and draw(st.integers(0, 3)) == 0):
            continue
        push, pop = ("push_next", "pop_prev") if before < after else ("push_prev", "pop_next")
        program[at - 1] = _marked(program[at - 1], push)
        program[at] = _marked(program[at], pop)
    return tuple(program)


def _marked(i: Instruction, token: str) -> Instruction:
    tokens: Tokens = replace(i.tokens, **{token: True})
    return replace(i, tokens=tokens)
