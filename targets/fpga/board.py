"""Boards: the part, what it holds, its clock, and the memory that an accelerator on it sees."""

from __future__ import annotations

from dataclasses import dataclass

from hardy.compiler.errors import TargetError


@dataclass(frozen=True)
class Memory:
    """A DRAM behind one AXI port, as the cycle model sees it.

    A burst of at most `burst` beats of `bytes_per_cycle` is answered `latency` cycles after it is asked for;
    a queue has at most `outstanding` bursts on their way. All queues share the beats: one a cycle.
    """

    name: str
    bytes_per_cycle: int = 8
    latency: int = 20
    burst: int = 256
    outstanding: int = 2

    def __post_init__(self) -> None:
        least = {"bytes_per_cycle": 1, "latency": 0, "burst": 1, "outstanding": 1}
        for field, value in least.items():
            if getattr(self, field) < value:
                raise TargetError(f"memory {self.name}: {field} is at least {value}")

    def beats(self, nbytes: int) -> int:
        """Beats that carry so many bytes, from an aligned address."""
        return -(-nbytes // self.bytes_per_cycle)


@dataclass(frozen=True)
class Board:
    """A board: its part, what the part holds, the clock of the published build, and its memory.

    `bram36` counts block memories of 36 Kbit, `uram` those of 288 Kbit (AMD's data sheets DS190 for Zynq-7000
    and DS891 for Zynq UltraScale+). `config` is the accelerator's configuration for the board.
    """

    name: str
    part: str
    config: str
    clock_mhz: int
    axi_bits: int
    lut: int
    ff: int
    dsp: int
    bram36: int
    uram: int
    memory: Memory

    def seconds(self, cycles: int) -> float:
        """The time that cycles take at the board's clock."""
        return cycles / (self.clock_mhz * 1e6)


MEMORIES = {
    memory.name: memory
    for memory in (
        Memory("axi64"),
        Memory("axi128", bytes_per_cycle=16),
        Memory("slow", latency=100, outstanding=1),
    )
}

BOARDS = {
    board.name: board
    for board in (
        Board(
            "pynq-z1",
            part="xc7z020clg400-1",
            config="pynq-z1",
            clock_mhz=100,
            axi_bits=64,
            lut=53_200,
            ff=106_400,
            dsp=220,
            bram36=140,
            uram=0,
            memory=MEMORIES["axi64"],
        ),
        Board(
            "ultra96",
            part="xczu3eg-sbva484-1-e",
            config="ultra96",
            clock_mhz=333,
            axi_bits=128,
            lut=70_560,
            ff=141_120,
            dsp=360,
            bram36=216,
            uram=0,
            memory=MEMORIES["axi128"],
        ),
        Board(
            "zcu104",
            part="xczu7ev-ffvc1156-2-e",
            config="zcu104",
            clock_mhz=333,
            axi_bits=128,
            lut=230_400,
            ff=460_800,
            dsp=1_728,
            bram36=312,
            uram=96,
            memory=MEMORIES["axi128"],
        ),
    )
}


def find_board(name: str) -> Board:
    """The board of a name; TargetError lists those that exist."""
    try:
        return BOARDS[name]
    except KeyError:
        raise TargetError(f"no board is called {name!r}", hint=f"use one of {', '.join(BOARDS)}") from None


def find_memory(name: str) -> Memory:
    """The memory model of a name; TargetError lists those that exist."""
    try:
        return MEMORIES[name]
    except KeyError:
        raise TargetError(
            f"no memory model is called {name!r}", hint=f"use one of {', '.join(MEMORIES)}"
        ) from None
