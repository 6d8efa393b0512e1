"""Runs a program on a DRAM image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hardy.targets.cpu.isa import host
from hardy.targets.fpga.config import Config, find_config
from hardy.targets.fpga.disassemble import line
from hardy.targets.fpga.isa import Alu, Finish, Gemm, Instruction, Load, ProgramError, decode
from hardy.targets.fpga.queues import Queue
from hardy.targets.fpga.schedule import PRIORITY, Schedule, schedule
from hardy.targets.fpga.simulator.kernels import kernels
from hardy.targets.fpga.simulator.machine import AccessError, Machine, OverlapError
from hardy.targets.fpga.simulator.rules import complaint


def simulate(
    instructions: bytes,
    dram: bytes | NDArray[np.uint8],
    config: str | Config = "pynq-z1",
    *,
    spacing: int = 1,
    priority: Sequence[Queue] = PRIORITY,
) -> NDArray[np.uint8]:
    """The DRAM image u8[bytes] after the accelerator has run the program; the image given is left alone.

    Addresses count from the image's first byte. The result is that of every implementation of VTA. What they
    do not agree on is refused with ProgramError, and so is a program whose result would depend on timing: see
    docs/vta.md.

    With a `spacing` of 3, programs are refused that the published HLS bitstream would run wrongly, since a
    micro-op uses what one of the two before it writes. Where several queues can run, the first of `priority`
    does; it changes no result.
    """
    if isinstance(config, str):
        config = find_config(config)
    program = decode(instructions, config)
    memory = np.array(np.frombuffer(dram, np.uint8) if isinstance(dram, bytes) else dram)
    if memory.dtype != np.uint8 or memory.ndim != 1:
        raise ProgramError(f"DRAM is a line of bytes (uint8), not {memory.dtype}{list(memory.shape)}")
    for number, i in enumerate(program):
        if why := complaint(i, config, memory.size):
            raise _refusal(program, number, why)
    plan = schedule(program, priority)
    machine = Machine(config, memory, kernels(config.batch, config.block, host()), spacing)
    for number in plan.order:
        try:
            _step(machine, program[number], plan, number)
        except OverlapError as fault:
            other = plan.queues[fault.queue][fault.position - 1]
            after = f"instruction {other}, {line(program[other])}, may not be done with"
            raise _refusal(program, number, f"it {fault} that {after}: no token orders them") from None
        except AccessError as fault:
            raise _refusal(program, number, str(fault)) from None
    return machine.dram


def _step(machine: Machine, i: Instruction, plan: Schedule, number: int) -> None:
    clock, position = plan.clocks[number], plan.positions[number]
    match i:
        case Load():
            machine.load(i, clock, position)
        case Gemm():
            machine.gemm(i, clock, position)
        case Alu():
            machine.alu(i, clock, position)
        case Finish():
            pass
        case _:
            machine.store(i, clock, position)


def _refusal(program: Sequence[Instruction], number: int, why: str) -> ProgramError:
    return ProgramError(why, where=f"instruction {number}, {line(program[number])}")
