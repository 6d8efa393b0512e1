"""One pass over a flat array: whatever an epilogue can express, with no product before it."""

from __future__ import annotations

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import stage
from hardy.targets.cpu.kernels.emit import Code
from hardy.targets.cpu.kernels.kernel import Epilogue, Kernel, Output


def elementwise(
    rows: int, channels: int, isa: Isa, *, x_dtype: str = "float32", epilogue: Epilogue, threads: int = 1
) -> Kernel:
    """y[rows, channels] = epilogue(x[rows, channels]); inputs x, epilogue operands, output.

    The accumulator given to the epilogue has the element type `x_dtype`.
    """
    code = Code()
    x = code.pointer("x", x_dtype, rows * channels)
    output = Output(code, epilogue, rows * channels, channels)
    lanes = isa.lanes("float32")
    if all(operand.kind in ("full", "scalar") for operand in epilogue.operands):
        rows, channels = _spread(rows * channels, lanes)
    with code.loop(rows, "row", parallel=threads > 1 and rows > 1) as row:
        for start, count, width in stage.runs(channels, lanes):
            with code.loop(count, "c") as i:
                channel = i * width + start
                at = row * channels + channel
                output.store(at, channel, code.load(x, at, width))
    return Kernel(code.finish(), ("x", *output.names))


def _spread(elements: int, lanes: int) -> tuple[int, int]:
    """Rows of equal length that cover a flat array: long enough to vectorise, several where it divides."""
    for rows in (64, 32, 16, 8, 4, 2):
        if elements % (rows * lanes) == 0:
            return rows, elements // rows
    return 1, elements
