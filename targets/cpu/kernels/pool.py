"""Pooling, channels last: maximum, sum or average over windows, and over the whole image."""

from __future__ import annotations

from typing import Literal

from tvm import tirx

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Code, Expr
from hardy.targets.cpu.kernels.kernel import Epilogue, Kernel, Output
from hardy.targets.cpu.kernels.tile import Panels, cut_columns
from hardy.targets.cpu.kernels.vector import Fold, combine, identity
from hardy.targets.cpu.kernels.window import Place, Window, choose_width, fold_line, tiles_of_line

Kind = Literal["max", "sum", "avg"]
UNROLL = 16  # taps of a line that are written out; longer lines become a loop


def pool2d(
    shape: Window,
    kind: Kind,
    isa: Isa,
    *,
    x_dtype: str = "float32",
    count_padding: bool = False,
    epilogue: Epilogue | None = None,
    threads: int = 1,
) -> Kernel:
    """y[N, OH, OW, C] = epilogue(fold of the windows of x[N, H, W, C]).

    Inputs: x, epilogue operands, output.

    `max` accumulates in x's type and keeps NaN; `sum` accumulates integers in i32; `avg` is for float32 and
    divides by the taps inside the image, or with `count_padding` by those inside the padded image. `x_dtype`
    is float32, int32, int8 or uint8. Padding never wins a maximum and adds nothing to a sum.
    """
    s = shape
    if kind == "avg" and x_dtype != "float32":
        raise ValueError(f"average pooling takes float32, not {x_dtype}: sum and requantize in the epilogue")
    acc_dtype = x_dtype if kind == "max" or x_dtype == "float32" else "int32"
    epilogue = epilogue or Epilogue(dtype=acc_dtype)
    lanes = isa.lanes(acc_dtype)
    whole = (
        s.kernel == (s.height, s.width)
        and not any(s.pads)
        and s.dilation == (1, 1)
        and s.out_h == s.out_w == 1
    )
    vectors = min(4 if whole else 2 if isa.registers >= 32 else 1, max(1, s.channels // lanes))
    panels = cut_columns(s.channels, vectors, lanes)
    wide = 1 if whole or s.kernel[1] > UNROLL else choose_width(isa, s.out_w, 0, vectors)
    code = Code()
    x = code.pointer("x", x_dtype, s.batch * s.height * s.width * s.channels)
    output = Output(code, epilogue, s.batch * s.out_h * s.out_w * s.channels, s.channels)
    fold: Fold = "max" if kind == "max" else "sum"

    def load_x(at: Expr, n: int) -> Expr:
        value = emit.load(x, at, n)
        return code.let(value if acc_dtype == x_dtype else tirx.Cast(emit.vector(acc_dtype, n), value))

    def enter(acc: Expr, value: Expr, _tap: int, _vector: int) -> Expr:
        return combine(fold, acc, value)

    def tile(place: Place, panel: Panels, column: Expr) -> None:
        registers = [[code.register(acc_dtype, n) for n in panel.lanes] for _ in place.columns]
        for row in registers:
            for register, n in zip(row, panel.lanes, strict=True):
                register.set(identity(fold, acc_dtype, n))
        first, count = s.lines(place.line)
        first, count = code.let(first), code.let(count)
        with code.loop(count, "kh") as i:
            row_index = place.line * s.stride[0] - s.pads[0] + (i + first) * s.dilation[0]
            at = code.let((place.image * s.height + row_index) * (s.width * s.channels) + column)
            if whole:
                with code.loop(s.width, "kw") as j:
                    channel = 0
                    for register, n in zip(registers[0], panel.lanes, strict=True):
                        value = load_x(at + j * s.channels + channel, n)
                        register.set(combine(fold, register.get(), value))
                        channel += n
            else:
                fold_line(s, place, at, load_x, panel.lanes, registers, enter)
        for q, row in enumerate(registers):
            pixel = (place.image * s.out_h + place.line) * s.out_w + place.pixel + q
            taps = _taps(s, place, q, count, count_padding) if kind == "avg" else None
            channel = column
            for register, n in zip(row, panel.lanes, strict=True):
                value = register.get()
                if taps is not None:
                    value = value / emit.splat(taps, n)
                output.store(pixel * s.channels + channel, channel, value)
                channel = channel + n

    with code.loop(s.batch, "image") as image, code.loop(s.out_h, "line", parallel=threads > 1) as line:
        for panel in panels:
            with code.loop(panel.count, "panel") as p:
                column = p * panel.width + panel.start
                for place in tiles_of_line(code, s, wide, image, line):
                    tile(place, panel, column)
    return Kernel(code.finish(), ("x", *output.names))


def global_pool(batch: int, pixels: int, channels: int, kind: Kind, isa: Isa, **options: object) -> Kernel:
    """y[N, C] = the fold of x[N, pixels, C] over the pixels; options as for pool2d."""
    return pool2d(Window(batch, 1, pixels, channels, (1, pixels)), kind, isa, **options)  # type: ignore[arg-type]


def _taps(s: Window, place: Place, q: int, lines: Expr, count_padding: bool) -> Expr:
    """What an average is divided by, as f32."""
    columns: Expr = len(place.columns[q])
    if count_padding:
        # With `ceil`, windows may reach beyond the padding; what lies there is not counted.
        lines = _padded_taps(
            place.line, s.stride[0], s.dilation[0], s.kernel[0], s.pads[0], s.height + s.pads[2]
        )
        pixel = place.pixel + q
        columns = _padded_taps(pixel, s.stride[1], s.dilation[1], s.kernel[1], s.pads[1], s.width + s.pads[3])
    count = lines * columns
    if isinstance(count, int):
        return tirx.const(float(count), "float32")
    return tirx.Cast("float32", count)


def _padded_taps(index: Expr, stride: int, dilation: int, size: int, before: int, end: int) -> Expr:
    """Taps of a window of one axis that begin before `end`, the padded image's end."""
    return emit.minimum(size, emit.floordiv(end + before - index * stride + dilation - 1, dilation))
