"""Estimates of what the accelerator takes of a board's part: LUTs, flip-flops, DSP slices, block RAMs.

No synthesizer for HLS C++ was run: these are models. The figures of the matrix and vector units are fitted to
their data paths in Verilog, synthesized for 7-series parts by yosys; memories are counted; the control of
the modules and their memory ports is assumed. docs/hls.md has the model and what it was compared with.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.board import Board
from hardy.targets.fpga.config import Config
from hardy.targets.fpga.dataflow.resources import Resources, block_rams
from hardy.targets.fpga.isa import INSTRUCTION_BYTES

# A RAMB18 whose bytes are written one by one: without parity bits (AMD UG473).
BYTE_SHAPES = ((16384, 1), (8192, 2), (4096, 4), (2048, 8), (1024, 16), (512, 32))
# Of a product of 8 by 8 bits with its part of the adder tree, one to a DSP slice and two to one; of a 32-bit
# accumulator with the forwarding of its last two values; of a lane of the ALU.
PRODUCT = Resources(lut=4, ff=7)
PAIRED_PRODUCT = Resources(lut=14, ff=11)
ACCUMULATOR = Resources(lut=103, ff=77)
ALU_LANE = Resources(lut=403, ff=97)
# Assumed: the loops of GEMM or ALU with three indices; a 2D copy with its product of sizes; a memory port;
# the rest of a module, with its registers on AXI-Lite.
LOOPS = Resources(lut=250, ff=250)
COPY = Resources(lut=350, ff=400, dsp=1)
PORT = Resources(lut=650, ff=900)
MODULE = Resources(lut=250, ff=350)
# The interconnects that the memory ports and the registers share.
INTERCONNECT = Resources(lut=3000, ff=4000)
KINDS = ("LUTs", "flip-flops", "DSP slices", "block RAMs of 18 Kbit")


@dataclass(frozen=True)
class Estimate:
    """What each module is estimated to take, and what the board's part has."""

    config: Config
    board: Board
    modules: Mapping[str, Resources]

    @property
    def total(self) -> Resources:
        return _sum(self.modules.values())

    @property
    def budget(self) -> Resources:
        return Resources(self.board.lut, self.board.ff, self.board.dsp, 2 * self.board.bram36)

    @property
    def fits(self) -> bool:
        return self.total.fits(self.budget)

    def __str__(self) -> str:
        rows: list[tuple[str | int, ...]] = [("estimated", *KINDS)]
        rows += [(name, *taken.amounts) for name, taken in self.modules.items()]
        rows += [("total", *self.total.amounts), (self.board.name, *self.budget.amounts)]
        return "\n".join(map(_row, rows))


def _row(cells: tuple[str | int, ...]) -> str:
    name, *values = (cell if isinstance(cell, str) else f"{cell:,}" for cell in cells)
    return f"{name:<12}" + "".join(f"{v:>{len(k) + 2}}" for v, k in zip(values, KINDS, strict=True))


def estimate_resources(config: Config, board: Board) -> Estimate:
    """What a configuration takes of a board, by module.

    Raises TargetError where it does not fit: how much of what is missing, which block or buffers would do.
    """
    estimate = _estimate(config, board)
    if not estimate.fits:
        over = [
            f"{mine:,} of {theirs:,} {kind}"
            for mine, theirs, kind in zip(estimate.total.amounts, estimate.budget.amounts, KINDS, strict=True)
            if mine > theirs
        ]
        raise TargetError(
            f"configuration {config.name} ({config.bitstream}) does not fit {board.name}: it takes about "
            f"{'; '.join(over)}\n{estimate}",
            hint=_help(config, board),
        )
    return estimate


def pairs_products(config: Config, board: Board) -> bool:
    """Whether DSP slices compute two products each, because the part has too few for one each.

    Two products of 8-bit integers with a factor in common fit one multiplier of 25 by 18 bits (AMD WP486).
    """
    return config.block > 1 and _products(config) + _COPIES * COPY.dsp > board.dsp


_COPIES = 5  # inputs, weights, micro-ops, accumulators, outputs


def _products(config: Config) -> int:
    return config.batch * config.block**2


def _estimate(config: Config, board: Board) -> Estimate:
    port = _port(board, board.axi_bits)
    load = MODULE + COPY * 2 + port + _registers(config.inp_bytes + config.wgt_bytes)
    compute = MODULE + COPY * 2 + port + _port(board, 8 * config.uop_bytes) + _registers(config.acc_bytes)
    modules = {
        "fetch": MODULE + _port(board, 8 * INSTRUCTION_BYTES),
        "load": load,
        "gemm": LOOPS + matrix_unit(config.batch, config.block, pairs_products(config, board)),
        "alu": LOOPS + ALU_LANE * (config.batch * config.block),
        "compute": compute,
        "store": MODULE + COPY + port + _registers(config.out_bytes),
        "buffers": Resources(bram=_buffers(config)),
        "fifos": _fifos(),
        "interconnect": INTERCONNECT,
    }
    return Estimate(config, board, modules)


def _registers(size: int) -> Resources:
    """An element that is put together from beats."""
    return Resources(ff=8 * size)


def matrix_unit(batch: int, block: int, paired: bool) -> Resources:
    """The data path of GEMM: multipliers, adder trees, accumulators."""
    products = batch * block**2
    one = (PAIRED_PRODUCT if paired else PRODUCT) * products
    dsp = products // 2 if paired else products
    return one + ACCUMULATOR * (batch * block) + Resources(dsp=dsp)


def _port(board: Board, bits: int) -> Resources:
    """A memory port and the block RAMs that its bursts wait in, on the way in and out."""
    memory = board.memory
    words = memory.burst * memory.outstanding
    return PORT + Resources(bram=block_rams(words, bits))


def _buffers(config: Config) -> int:
    """Block RAMs of the five buffers."""
    return sum(
        min(math.ceil(depth / d) * math.ceil(8 * size / w) for d, w in BYTE_SHAPES)
        for depth, size in (
            (config.uop_depth, config.uop_bytes),
            (config.inp_depth, config.inp_bytes),
            (config.wgt_depth, config.wgt_bytes),
            (config.acc_depth, config.acc_bytes),
            (config.acc_depth, config.out_bytes),
        )
    )


def _fifos() -> Resources:
    """Three queues of 512 instructions of 128 bits, four of 1024 tokens of a byte."""
    return Resources(lut=7 * 60, ff=7 * 90, bram=3 * block_rams(512, 128) + 4 * block_rams(1024, 8))


def _sum(parts: Iterable[Resources]) -> Resources:
    return reduce(operator.add, parts, Resources())


def _help(config: Config, board: Board) -> str:
    found = next((c for c in _smaller(config) if _estimate(c, board).fits), None)
    if found is None:
        return f"a larger board: no smaller block or buffers of {config.name} fit {board.name}"
    return f"a block of {found.block} with buffers as in {found.bitstream} would fit"


def _smaller(config: Config) -> Iterator[Config]:
    """Configurations in the order in which to give way: all buffers smaller, then the block and batch."""
    for log_batch, log_block in [
        *((config.log_batch, n) for n in range(config.log_block, 1, -1)),
        *((0, n) for n in range(config.log_block, 1, -1)),
    ]:
        for less in range(4):
            try:
                yield replace(
                    config,
                    log_batch=log_batch,
                    log_block=log_block,
                    log_uop_buffer=config.log_uop_buffer - less,
                    log_inp_buffer=config.log_inp_buffer - less,
                    log_wgt_buffer=config.log_wgt_buffer - less,
                    log_acc_buffer=config.log_acc_buffer - less,
                )
            except TargetError:
                continue  # its indices outgrow the instruction word
