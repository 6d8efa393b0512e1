"""The note that lies beside a program for VTA: what its files are and how any implementation runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hardy.targets.fpga.board import Board

_TEXT = """# A program for VTA

Configuration `{config}` (bitstream `{bitstream}`), board {board} ({part}, {clock} MHz).

| file | what it is |
|---|---|
| `instructions.bin` | {instructions} instructions of 16 bytes, little endian, in fetch order |
| `dram.bin` | memory before the run: weights, biases, micro-ops, room for activations |
| `disassembly.txt` | the instructions as text |
| `layers.txt` | cycles layer by layer, as the cycle model estimates them |

All addresses in the instructions count from the image's first byte, in elements of the buffer that is loaded
or stored (inputs and outputs of {inp} bytes, weights of {wgt}, accumulators of {acc}, micro-ops of 4).

To run it: copy `dram.bin` to memory that the accelerator sees (address 0 in a simulator); on a board its
physical address goes into the five base registers. Write the inputs to their offsets, give the
instructions' address and count to the fetch module, start it, wait until the compute module is done (the last
instruction is FINISH), and read the outputs at their offsets.

An activation is packed, row major, as
i8[samples / {batch}, channels / {block}, rows, columns, {batch}, {block}]; missing channels are zero.
A `wide` output is i32: the four bytes of each number, the lowest first, are pictures one below the other.

| tensor | offset in bytes | samples, channels, rows, columns |
|---|---|---|
{rows}
"""


def readme(manifest: Mapping[str, Any], board: Board) -> str:
    """The text for a program with this manifest section."""
    from hardy.targets.fpga.config import find_config

    config = find_config(manifest["config"])
    return _TEXT.format(
        config=config.name,
        bitstream=config.bitstream,
        board=board.name,
        part=board.part,
        clock=board.clock_mhz,
        instructions=manifest["instructions"],
        inp=config.inp_bytes,
        wgt=config.wgt_bytes,
        acc=config.acc_bytes,
        batch=config.batch,
        block=config.block,
        rows="\n".join([*_rows("input", manifest["inputs"]), *_rows("output", manifest["outputs"])]),
    )


def _rows(what: str, places: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"| {'wide ' if p.get('wide') else ''}{what} `{p['name']}` | {p['offset']} | "
        f"{', '.join(map(str, p['shape']))} |"
        for p in places
    ]
