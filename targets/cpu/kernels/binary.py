"""Binary networks: products of packed signs, and packing.

A product is the tile of `product` whose step takes four bytes of each operand: an exclusive or and the
population count of 32 signs for every lane. Border pixels need no case of their own: the copied image has
clear bits around it, and what these add is in the totals of the pixel's class.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tvm import tirx

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit, stage
from hardy.targets.cpu.kernels.conv import Conv, border_of, conv2d
from hardy.targets.cpu.kernels.dot import binary_dot
from hardy.targets.cpu.kernels.emit import Code
from hardy.targets.cpu.kernels.kernel import Array, Epilogue, Kernel, Output
from hardy.targets.cpu.kernels.matmul import Rows, row_product

GROUP = 4  # bytes of a step: rows and pixels are whole groups


def _isa(isa: Isa) -> Isa:
    """The instruction set less the registers that counting by a table takes."""
    return replace(isa, registers=isa.registers - 5) if binary_dot(isa).name == "lookup" else isa


def binary_matmul(
    m: int, n: int, size: int, isa: Isa, *, epilogue: Epilogue | None = None, threads: int = 1
) -> Kernel:
    """y[M, N] = epilogue(totals[N] - 2 popcount(x[M, size] ^ w[N, size])) over bytes of packed signs.

    Inputs: x, weight, bias (the totals), epilogue operands, output, [workspace]. `size` is a multiple of 4;
    `pack` is given [N, bytes] of as many bytes or fewer.
    """
    kernel = row_product(
        Rows(m, size, m * size),
        n,
        _isa(isa),
        x_dtype="uint8",
        transposed=True,
        bias=True,
        epilogue=epilogue,
        threads=threads,
        dot=binary_dot(isa),
    )
    return replace(kernel, pack=lambda w: kernel.pack(whole_groups(w)))


def binary_conv(s: Conv, isa: Isa, *, epilogue: Epilogue | None = None, threads: int = 1) -> Kernel:
    """y = epilogue(totals - 2 popcount(x ^ w)) over bytes of packed signs; `s.channels` are bytes, 4, 8, ...

    Inputs: x, weight, bias (what `totals` gives), epilogue operands, output, [workspace]; `pack` is given
    [O, KH, KW, bytes] of as many bytes or fewer.
    """
    kernel = conv2d(
        s,
        _isa(isa),
        x_dtype="uint8",
        bias=True,
        epilogue=epilogue,
        threads=threads,
        dot=binary_dot(isa),
    )
    return replace(kernel, pack=lambda w: kernel.pack(whole_groups(w).transpose(0, 3, 1, 2)))


def whole_groups(bits: Array) -> Array:
    """Packed signs filled up with clear bytes along the last axis."""
    return np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, -bits.shape[-1] % GROUP)])


def totals(s: Conv, channels: int, weight: Array) -> Array:
    """What twice the count of differing bits is taken from: i32 [classes of pixels, O].

    A tap inside the image brings its `channels`; one outside meets clear bits, which differ from the set
    bits of its weight [O, KH, KW, bytes].
    """
    border = border_of(s)
    lines, columns = border.lines, border.columns
    ones = np.bitwise_count(weight).sum(-1, dtype=np.int32)
    result = np.zeros((len(lines.firsts), len(columns.firsts), s.out_channels), np.int32)
    for i, line in enumerate(lines.firsts):
        for j, column in enumerate(columns.firsts):
            rows, taps = lines.taps(line), columns.taps(column)
            outside = ones.sum((1, 2)) - ones[:, rows][:, :, taps].sum((1, 2))
            result[i, j] = len(rows) * len(taps) * channels + 2 * outside
    return result.reshape(border.classes, s.out_channels)


def pack_bits(rows: int, n: int, isa: Isa, *, x_dtype: str, epilogue: Epilogue, threads: int = 1) -> Kernel:
    """y[rows, ceil(n / 8)] = the bits of epilogue(x[rows, n]), which is a truth of type BITS.

    Inputs: x, epilogue operands, output. The bits of the last byte that stand for nothing are clear.
    """
    code = Code()
    x = code.pointer("x", x_dtype, rows * n)
    output = Output(code, epilogue, rows * n, n)
    if n % 8 == 0 and all(operand.kind in ("full", "scalar") for operand in epilogue.operands):
        rows, n = 1, rows * n
    with code.loop(rows, "row", parallel=threads > 1 and rows > 1) as row:
        for start, count, lanes in stage.runs(n, max(8, isa.lanes("int32"))):
            if lanes < 8:
                break
            with code.loop(count, "c") as i:
                at = i * lanes + start
                output.store(row * n + at, at, code.load(x, row * n + at, lanes))
        if rest := n % 8:
            total = code.register("uint8", 1)
            total.set(tirx.const(0, "uint8"))
            for bit in range(rest):
                at = n - rest + bit
                truth = output.value(row * n + at, at, code.load(x, row * n + at, 1))
                place = emit.const(1 << bit, "uint8", 1)
                total.set(total.get() | tirx.Select(truth, place, emit.const(0, "uint8", 1)))
            output.store_byte(row * -(-n // 8) + n // 8, total.get())
    return Kernel(code.finish(), ("x", *output.names))
