"""Two-dimensional convolution, channels last, with a constant weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import stage
from hardy.targets.cpu.kernels.border import Axis, Border
from hardy.targets.cpu.kernels.dot import Dot, dot_for
from hardy.targets.cpu.kernels.emit import Code, Expr
from hardy.targets.cpu.kernels.kernel import Array, Epilogue, Kernel, Output, Workspace
from hardy.targets.cpu.kernels.matmul import Rows, row_product
from hardy.targets.cpu.kernels.product import Chunk, Product, Reduction, chunked, chunks
from hardy.targets.cpu.kernels.tile import Panels, choose_tile, cut_columns, pack_weight, packed_elements

L2_BYTES = 512 << 10  # of x, for one block of output lines


@dataclass(frozen=True, slots=True)
class Conv:
    """The shape of a convolution: x[batch, height, width, channels] -> y[batch, out_h, out_w, out_channels].

    `pads` are top, left, bottom, right.
    """

    batch: int
    height: int
    width: int
    channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        if self.channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"{self.groups} groups do not divide {self.channels} and {self.out_channels} channels"
            )
        if min(self.out_h, self.out_w) < 1:
            raise ValueError(f"{self} has no output")

    @property
    def out_h(self) -> int:
        span = self.dilation[0] * (self.kernel[0] - 1) + 1
        return (self.height + self.pads[0] + self.pads[2] - span) // self.stride[0] + 1

    @property
    def out_w(self) -> int:
        span = self.dilation[1] * (self.kernel[1] - 1) + 1
        return (self.width + self.pads[1] + self.pads[3] - span) // self.stride[1] + 1


def border_of(s: Conv) -> Border:
    """The classes of a convolution's output pixels."""
    lines = Axis(s.out_h, s.height, s.kernel[0], s.stride[0], s.pads[0], s.dilation[0])
    return Border(lines, Axis(s.out_w, s.width, s.kernel[1], s.stride[1], s.pads[1], s.dilation[1]))


def conv2d(
    shape: Conv,
    isa: Isa,
    *,
    x_dtype: str = "float32",
    bias: bool = False,
    epilogue: Epilogue | None = None,
    pad_value: int = 0,
    threads: int = 1,
    dot: Dot | None = None,
) -> Kernel:
    """y[N, OH, OW, O] = epilogue(conv(x[N, H, W, C], w) + bias[O]); `pack` is given [O, C / groups, KH, KW].

    Inputs: x, weight, [bias], epilogue operands, output, [workspace]. `x_dtype` is float32, or uint8 or int8
    with int8 weights and i32 accumulation (bias i32); `pad_value` is what the border holds (the zero point).
    `dot` replaces the arithmetic that follows from `x_dtype`; for one that counts, bias holds the totals of
    each of `border_of(shape)`'s classes of pixels, [classes, O].
    """
    pointwise = shape.kernel == (1, 1) and shape.groups == 1 and not any(shape.pads)
    if pointwise:
        return _pointwise(shape, isa, x_dtype, bias, epilogue, threads, dot)
    return _Direct(shape, isa, x_dtype, bias, epilogue, pad_value, threads, dot).kernel()


def _pointwise(
    s: Conv, isa: Isa, x_dtype: str, bias: bool, epilogue: Epilogue | None, threads: int, dot: Dot | None
) -> Kernel:
    """A 1x1 convolution is a matrix product over the pixels; with strides the pixels are gathered."""
    elements = s.batch * s.height * s.width * s.channels
    lines: tuple[tuple[int, int], ...] = ()
    if s.stride != (1, 1):
        line = s.width * s.channels
        lines = (
            (s.batch, s.height * line),
            (s.out_h, s.stride[0] * line),
            (s.out_w, s.stride[1] * s.channels),
        )
    rows = Rows(s.batch * s.out_h * s.out_w, s.channels, elements, lines)
    kernel = row_product(
        rows,
        s.out_channels,
        isa,
        x_dtype=x_dtype,
        transposed=True,
        bias=bias,
        epilogue=epilogue,
        threads=threads,
        dot=dot,
    )
    inner = kernel.pack
    return Kernel(
        kernel.func, kernel.inputs, kernel.workspace_bytes, lambda w: inner(w.reshape(w.shape[0], -1))
    )


@dataclass(frozen=True, slots=True)
class _Strip:
    """The tiles beside each other of one panel: the image's begin in x and in output pixels, the group of
    channels, the first output line, the panel and its first column in the group, the place where the
    accumulators wait, and how many tiles of the block came before.
    """

    x_at: Expr
    pixel_at: Expr
    group: Expr
    line: Expr
    panel: Panels
    column: Expr
    partial_at: Expr
    turn: Expr


class _Direct:
    """A convolution as register tiles of neighbouring output pixels over a padded copy of the image."""

    def __init__(
        self,
        shape: Conv,
        isa: Isa,
        x_dtype: str,
        bias: bool,
        epilogue: Epilogue | None,
        pad_value: int,
        threads: int,
        dot: Dot | None,
    ) -> None:
        self.shape, self.isa, self.x_dtype, self.bias = shape, isa, x_dtype, bias
        self.pad_value, self.threads = pad_value, threads
        self.dot = dot or dot_for(x_dtype, isa)
        self.border = border_of(shape)
        self.epilogue = epilogue or Epilogue(dtype=self.dot.acc_dtype)
        self.lanes = isa.lanes(self.dot.acc_dtype)
        self.code = Code()
        s, dot = shape, self.dot
        self.group_in = s.channels // s.groups
        self.group_out = s.out_channels // s.groups
        # A kernel line is one run of neighbouring elements where its taps are neighbours. A run is read in
        # whole groups: what it reads beyond its end meets weights that are zero.
        self.merged = s.dilation[1] == 1 and s.groups == 1
        run = s.kernel[1] * s.channels if self.merged else self.group_in
        self.run_steps = -(-run // dot.group)
        self.k = s.kernel[0] * (1 if self.merged else s.kernel[1]) * self.run_steps * dot.group
        self.staged = bool(any(s.pads) or dot.shift or x_dtype != dot.x_dtype or run % dot.group)
        self.size = np.dtype(dot.x_dtype).itemsize
        self.rows = s.height + s.pads[0] + s.pads[2]
        self.line = (s.width + s.pads[1] + s.pads[3]) * s.channels
        if self.staged and stage.conflicts(s.kernel[0] * 4, self.line * self.size):
            self.line += stage.CACHE_LINE // self.size
        self._choose_tile()

    def _choose_tile(self) -> None:
        """The tile is `high` lines by `wide` pixels; `high` is one unless a tile spans whole lines."""
        s, isa = self.shape, self.isa
        most = choose_tile(1 << 20, self.group_out, isa, self.lanes)[0]
        rows, vectors = choose_tile(s.out_w, self.group_out, isa, self.lanes)
        self.high, self.wide = 1, rows
        if rows == s.out_w and 2 * rows <= most:
            high = most // rows
            rows, vectors = choose_tile(rows * high, self.group_out, isa, self.lanes)
            if rows % s.out_w == 0 and s.out_h % (rows // s.out_w) == 0:
                self.high, self.wide = rows // s.out_w, s.out_w
            else:
                rows, vectors = choose_tile(s.out_w, self.group_out, isa, self.lanes)
        self.panels = cut_columns(self.group_out, vectors, self.lanes)

    def kernel(self) -> Kernel:
        s, dot, code = self.shape, self.dot, self.code
        image = s.height * s.width * s.channels
        pixels = s.out_h * s.out_w
        self.x = code.pointer("x", self.x_dtype, s.batch * image)
        self.w = code.pointer("weight", dot.w_dtype, packed_elements(self.k, self.group_out, dot) * s.groups)
        totals = self.border.classes if dot.counts else 1
        self.b = code.pointer("bias", dot.acc_dtype, s.out_channels * totals) if self.bias else None
        self.output = Output(code, self.epilogue, s.batch * pixels * s.out_channels, s.out_channels)
        workspace = Workspace(self.rows * self.line + dot.group - 1 if self.staged else 0)
        self._plan(workspace)
        scratch = code.pointer("workspace", dot.x_dtype, workspace.elements) if workspace.elements else None
        self.source = scratch if self.staged else self.x
        self.product = Product(
            code, dot, self.source, self.w, self.b, self.output, self.k, self.group_out, scratch
        )
        with code.loop(s.batch, "image") as n:
            if self.staged:
                self._stage(n * image)
            self._compute(0 if self.staged else n * image, n * pixels)
        names = ("x", "weight", *(("bias",) if self.bias else ()), *self.output.names)
        if workspace.elements:
            names += ("workspace",)
        return Kernel(code.finish(), names, workspace.elements * self.size, self._pack)

    def _plan(self, workspace: Workspace) -> None:
        """Cuts K into chunks and the output into blocks of lines."""
        s, dot = self.shape, self.dot
        loops = [(s.kernel[0], s.dilation[0] * self.line)]
        if not self.merged:
            loops.append((s.kernel[1], s.dilation[1] * s.channels))
        loops.append((self.run_steps, dot.group))
        self.reduction = Reduction(tuple(loops))
        if dot.name == "f32":
            self.reduction = chunked(tuple(loops), self.panels[0].width * self.size)
        tile_lines = s.out_h // self.high
        read = s.stride[0] * self.high * self.line * self.size
        one_panel = len(self.panels) == 1 and self.panels[0].count == 1
        lines = 1 if one_panel and not self.reduction.part else max(1, min(tile_lines, L2_BYTES // read))
        lines = min(lines, -(-tile_lines // self.threads))
        self.lines = next(n for n in range(lines, 0, -1) if tile_lines % n == 0)
        self.blocks = tile_lines // self.lines
        self.area = 0
        self.area_step = self.lines * self.high * s.out_w * self.panels[0].width
        if self.reduction.part:
            self.area = workspace.take(self.area_step * (self.blocks if self.threads > 1 else 1))

    def _stage(self, x_at: Expr) -> None:
        """Copies an image into the workspace, with its border."""
        s, code = self.shape, self.code
        top, left, bottom, right = s.pads
        if top:
            self._fill(0, top * self.line)
        with code.loop(s.height, "line", parallel=self.threads > 1) as i:
            to = (i + top) * self.line
            if left:
                self._fill(to, left * s.channels)
            row = s.width * s.channels
            stage.copy_row(
                code,
                self.isa,
                self.dot,
                self.x,
                self.x_dtype,
                x_at + i * row,
                self.source,
                to + left * s.channels,
                row,
            )
            if right:
                self._fill(to + (left + s.width) * s.channels, right * s.channels)
        if bottom:
            self._fill((s.height + top) * self.line, bottom * self.line)

    def _fill(self, to: Expr, length: int) -> None:
        stage.fill_row(self.code, self.isa, self.dot, self.source, to, length, self.pad_value)

    def _compute(self, x_at: Expr, pixel_at: Expr) -> None:
        """All tiles of one image that begins at `x_at`; its output begins at pixel `pixel_at`."""
        s, code = self.shape, self.code
        tiles, tail = divmod(s.out_w, self.wide)
        per_line = tiles + (1 if tail else 0)
        with (
            code.loop(s.groups, "group") as g,
            code.loop(self.blocks, "block", parallel=self.threads > 1) as block,
        ):
            partial = self.area + block * (self.area_step if self.threads > 1 else 0)
            for panel in self.panels:
                with (
                    code.loop(panel.count, "panel") as p,
                    chunks(code, self.reduction) as chunk,
                    code.loop(self.lines, "row") as i,
                ):
                    column = p * panel.width + panel.start
                    line = (block * self.lines + i) * self.high
                    here = partial + i * (self.high * s.out_w * panel.width)
                    strip = _Strip(x_at, pixel_at, g, line, panel, column, here, i * per_line)
                    if tiles:
                        with code.loop(tiles, "tile") as t:
                            self._tile(chunk, strip, t * self.wide, self.wide, t, per_line)
                    if tail:
                        self._tile(chunk, strip, tiles * self.wide, tail, tiles, per_line)

    def _tile(self, chunk: Chunk, strip: _Strip, first: Expr, wide: int, number: Expr, per_line: int) -> None:
        """The tile that begins at pixel `first` of the strip and is the strip's tile `number`."""
        s = self.shape
        line_step, pixel_step = s.stride[0] * self.line, s.stride[1] * s.channels
        x_base = self.code.let(
            strip.x_at + strip.group * self.group_in + strip.line * line_step + first * pixel_step
        )
        pixels = [(i, j) for i in range(self.high) for j in range(wide)]
        y_pixels = [strip.pixel_at + (strip.line + i) * s.out_w + first + j for i, j in pixels]
        channel = strip.group * self.group_out + strip.column
        self.product.tile(
            chunk,
            [x_base + (i * line_step + j * pixel_step) for i, j in pixels],
            [pixel * s.out_channels + channel for pixel in y_pixels],
            strip.panel.lanes,
            column=strip.column,
            channel=channel,
            w_at=strip.group * packed_elements(self.k, self.group_out, self.dot),
            partial_at=strip.partial_at + first * (self.high * strip.panel.width),
            turn=(strip.turn + number, self.lines * per_line),
            total_at=[
                self.code.let(self.border.number(strip.line + i, first + j) * s.out_channels)
                for i, j in pixels
                if self.dot.counts
            ],
        )

    def _pack(self, weight: Array) -> Array:
        """[O, C / groups, KH, KW] -> for every group its panels of [runs, steps of a run * group]."""
        s, length = self.shape, self.run_steps * self.dot.group
        w = weight.reshape(s.groups, self.group_out, self.group_in, *s.kernel).transpose(0, 3, 4, 2, 1)
        runs = w.reshape(s.groups, self.k // length, -1, self.group_out)
        if fill := length - runs.shape[2]:
            runs = np.pad(runs, ((0, 0), (0, 0), (0, fill), (0, 0)))
        flat = runs.reshape(s.groups, self.k, self.group_out)
        return np.concatenate([pack_weight(w, self.panels, self.dot) for w in flat])
