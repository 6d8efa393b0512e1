"""Depthwise convolution (one input channel for each output channel), channels last, constant weight."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import tirx

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.dot import multiply_add_16
from hardy.targets.cpu.kernels.emit import Code, Expr
from hardy.targets.cpu.kernels.kernel import Array, Epilogue, Kernel, Output
from hardy.targets.cpu.kernels.tile import Panels, cut_columns
from hardy.targets.cpu.kernels.window import Place, Window, choose_width, fold_line, tiles_of_line


def depthwise(
    shape: Window,
    isa: Isa,
    *,
    x_dtype: str = "float32",
    bias: bool = False,
    epilogue: Epilogue | None = None,
    pad_value: int = 0,
    threads: int = 1,
) -> Kernel:
    """y[N, OH, OW, C] = epilogue(depthwise(x[N, H, W, C], w) + bias[C]); `pack` is given [C, 1, KH, KW].

    Inputs: x, weight, [bias], epilogue operands, output. `x_dtype` is float32, or uint8 or int8 with int8
    weights and i32 accumulation; `pad_value` is what the border holds (the zero point).
    """
    s = shape
    acc_dtype = "float32" if x_dtype == "float32" else "int32"
    epilogue = epilogue or Epilogue(dtype=acc_dtype)
    lanes = isa.lanes(acc_dtype)
    taps = s.kernel[0] * s.kernel[1]
    vectors = 2 if isa.registers >= 32 and s.channels >= 2 * lanes else 1
    panels = cut_columns(s.channels, vectors, lanes)
    wide = choose_width(isa, s.out_w, s.kernel[1], vectors)
    code = Code()
    x = code.pointer("x", x_dtype, s.batch * s.height * s.width * s.channels)
    w = code.pointer("weight", acc_dtype, taps * s.channels)
    b = code.pointer("bias", acc_dtype, s.channels) if bias else None
    output = Output(code, epilogue, s.batch * s.out_h * s.out_w * s.channels, s.channels)

    def load_x(at: Expr, n: int) -> Expr:
        value = emit.load(x, at, n)
        return code.let(value if acc_dtype == x_dtype else tirx.Cast(emit.vector("int32", n), value))

    def combine(acc: Expr, value: Expr, weight: Expr) -> Expr:
        if acc_dtype == "float32":
            return emit.fma(value, weight, acc)
        return multiply_add_16(acc, value, weight, isa)

    def weighted(table: list[list[Expr]]) -> Callable[[Expr, Expr, int, int], Expr]:
        return lambda acc, value, tap, vector: combine(acc, value, table[tap][vector])

    def tile(place: Place, panel: Panels, column: Expr) -> None:
        registers = [[code.register(acc_dtype, n) for n in panel.lanes] for _ in place.columns]
        channel = column
        for v, n in enumerate(panel.lanes):
            start = emit.const(0, acc_dtype, n) if b is None else code.load(b, channel, n)
            for row in registers:
                row[v].set(start)
            channel = channel + n

        def weights(line: Expr) -> list[list[Expr]]:
            at = column * taps + line * (s.kernel[1] * panel.width)
            table = []
            for j in range(s.kernel[1]):
                offsets = np.cumsum((0, *panel.lanes))
                table.append(
                    [
                        code.load(w, at + (j * panel.width + int(o)), n)
                        for o, n in zip(offsets, panel.lanes, strict=False)
                    ]
                )
            return table

        def outside(line: Expr, all_columns: bool) -> None:
            """Enters the border's value where a window leaves the image."""
            table = weights(line)
            for q, inside in enumerate(place.columns):
                for j in range(s.kernel[1]):
                    if all_columns or j not in inside:
                        for v, n in enumerate(panel.lanes):
                            value = emit.const(pad_value, acc_dtype, n)
                            registers[q][v].set(combine(registers[q][v].get(), value, table[j][v]))

        first, count = s.lines(place.line)
        first, count = code.let(first), code.let(count)
        with code.loop(count, "kh") as i:
            line = i + first
            table = weights(line)
            row = place.line * s.stride[0] - s.pads[0] + line * s.dilation[0]
            at = code.let((place.image * s.height + row) * (s.width * s.channels) + column)
            fold_line(s, place, at, load_x, panel.lanes, registers, weighted(table))
            if pad_value:
                outside(line, all_columns=False)
        if pad_value and not isinstance(count, int):
            with code.loop(first, "above") as i:
                outside(i, all_columns=True)
            with code.loop(s.kernel[0] - first - count, "below") as i:
                outside(i + first + count, all_columns=True)
        for q, registers_of_pixel in enumerate(registers):
            pixel = (place.image * s.out_h + place.line) * s.out_w + place.pixel + q
            channel = column
            for register, n in zip(registers_of_pixel, panel.lanes, strict=True):
                output.store(pixel * s.channels + channel, channel, register.get())
                channel = channel + n

    with code.loop(s.batch, "image") as image, code.loop(s.out_h, "line", parallel=threads > 1) as line:
        for panel in panels:
            with code.loop(panel.count, "panel") as p:
                column = p * panel.width + panel.start
                for place in tiles_of_line(code, s, wide, image, line):
                    tile(place, panel, column)

    def pack(weight: Array) -> Array:
        """[C, 1, KH, KW] -> a panel after the other, [KH * KW, width] each; integers as their low 16 bits."""
        flat = weight.reshape(s.channels, taps).T
        if acc_dtype == "int32":
            flat = flat.astype(np.int32) & 0xFFFF if isa.arch == "x86_64" else flat.astype(np.int32)
        pieces = [
            flat[:, p.start + i * p.width : p.start + (i + 1) * p.width].reshape(-1)
            for p in panels
            for i in range(p.count)
        ]
        return np.ascontiguousarray(np.concatenate(pieces))

    return Kernel(code.finish(), ("x", "weight", *(("bias",) if bias else ()), *output.names), 0, pack)
