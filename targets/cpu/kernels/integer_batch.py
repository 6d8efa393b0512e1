"""Matrix products of two integer activations, batched and strided, exact in i32.

With VNNI, u8 a times i8 b: an i8 a is shifted by 128 while it is copied, a u8 b by -128 while it is packed;
sum (a - p)(b - q) = sum ab - q sum a - p sum b + k p q, and sums over rows of a and columns of b are taken
only where a zero point needs them. Elsewhere both are centred while they are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tvm import tirx

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit, stage
from hardy.targets.cpu.kernels.batch_matmul import Strides, transpose_square
from hardy.targets.cpu.kernels.dot import integer_dot
from hardy.targets.cpu.kernels.emit import Code, Expr, const
from hardy.targets.cpu.kernels.kernel import Epilogue, Kernel, Output, Workspace
from hardy.targets.cpu.kernels.product import accumulate
from hardy.targets.cpu.kernels.tile import Panels, choose_tile, cut_columns
from hardy.targets.cpu.kernels.vector import across


@dataclass(frozen=True, slots=True)
class Side:
    """One operand: its element type, and its zero point."""

    dtype: str
    zero: int = 0


def integer_batch_matmul(
    m: int,
    n: int,
    k: int,
    isa: Isa,
    *,
    a: Side,
    b: Side,
    batch: Sequence[Strides] = (),
    transpose_b: bool = False,
    epilogue: Epilogue | None = None,
) -> Kernel:
    """y[M, N] = epilogue((a[M, K] - a.zero) @ (b[K, N] - b.zero)) for every index of the batch axes.

    Inputs: a, b, epilogue operands, output, workspace; all dense, b is [N, K] where transposed. `batch` as in
    `batch_matmul`.
    """
    return _Product(m, n, k, isa, a, b, tuple(batch), transpose_b, epilogue).kernel()


@dataclass
class _Product:
    m: int
    n: int
    k: int
    isa: Isa
    a: Side
    b: Side
    batch: tuple[Strides, ...]
    transpose_b: bool
    epilogue: Epilogue | None
    code: Code = field(default_factory=Code)

    def kernel(self) -> Kernel:
        m, n, k, code = self.m, self.n, self.k, self.code
        dot = self.dot = integer_dot("uint8", self.isa)
        self.vnni = dot.name == "vnni"
        self.size = np.dtype(dot.w_dtype).itemsize
        self.lanes = self.isa.lanes("int32")
        self.tile_rows, vectors = choose_tile(m, n, self.isa, self.lanes)
        self.panels = cut_columns(n, vectors, self.lanes)
        self.steps = -(-k // dot.group)
        self.whole = self.steps * dot.group
        # Zero points as the kernel meets them: of a u8 and an i8 operand.
        self.p = self.a.zero + (128 if self.a.dtype == "int8" else 0)
        self.q = self.b.zero - (128 if self.b.dtype == "uint8" else 0)
        self.staged = not self.vnni or self.a.dtype == "int8" or k % dot.group != 0
        batch = self.batch
        self.x = code.pointer("a", self.a.dtype, 1 + m * k - 1 + sum((s.extent - 1) * s.a for s in batch))
        self.w = code.pointer("b", self.b.dtype, 1 + k * n - 1 + sum((s.extent - 1) * s.b for s in batch))
        self.output = Output(
            code,
            self.epilogue or Epilogue(dtype="int32"),
            m * n + sum((s.extent - 1) * s.y for s in batch),
            n,
        )
        workspace = Workspace()
        self.packed_at = workspace.take(self.whole * self.panels[0].width)
        self.copy_at = workspace.take(m * self.whole) if self.staged else 0
        self.rows_at = workspace.take(4 * m) if self.vnni and self.q else 0
        self.start_at = workspace.take(4 * self.panels[0].width) if self.vnni and self.p else 0
        self.scratch = code.pointer("workspace", dot.w_dtype, workspace.elements)
        self._nest(0, 0, 0, 0)
        names = ("a", "b", *self.output.names, "workspace")
        return Kernel(code.finish(), names, workspace.elements * self.size)

    def _nest(self, depth: int, a_at: Expr, b_at: Expr, y_at: Expr) -> None:
        if depth == len(self.batch):
            self._matrix(self.code.let(a_at), self.code.let(b_at), self.code.let(y_at))
            return
        s = self.batch[depth]
        with self.code.loop(s.extent, f"batch{depth}") as i:
            self._nest(depth + 1, a_at + i * s.a, b_at + i * s.b, y_at + i * s.y)

    def _matrix(self, a_at: Expr, b_at: Expr, y_at: Expr) -> None:
        code = self.code
        if self.staged:
            self._copy_rows(a_at)
        if self.vnni and self.q:
            self._sum_rows(a_at)
        tiles, tail = divmod(self.m, self.tile_rows)
        for panel in self.panels:
            with code.loop(panel.count, "panel") as p:
                column = p * panel.width + panel.start
                self._pack(panel, b_at, column)
                start = self._starts(panel)
                if tiles:
                    with code.loop(tiles, "tile") as t:
                        self._tile(panel, a_at, y_at, t * self.tile_rows, self.tile_rows, column, start)
                if tail:
                    self._tile(panel, a_at, y_at, tiles * self.tile_rows, tail, column, start)

    def _tile(
        self,
        panel: Panels,
        a_at: Expr,
        y_at: Expr,
        first: Expr,
        count: int,
        column: Expr,
        start: bool,
    ) -> None:
        code = self.code
        registers = [[code.register("int32", n) for n in panel.lanes] for _ in range(count)]
        offset = 0
        for v, n in enumerate(panel.lanes):
            value = self._load32(self.start_at + 4 * offset, n) if start else const(0, "int32", n)
            for r, row in enumerate(registers):
                row[v].set(value + emit.splat(self._row(first + r), n) if self._rows_matter else value)
            offset += n
        source, base, stride = (
            (self.scratch, self.copy_at, self.whole) if self.staged else (self.x, a_at, self.k)
        )
        at = [base + (first + r) * stride for r in range(count)]
        loops = ((self.steps, self.dot.group),)
        accumulate(code, self.dot, source, at, self.scratch, self.packed_at, panel.lanes, loops, registers)
        for r, row in enumerate(registers):
            channel = column
            for register, n in zip(row, panel.lanes, strict=True):
                self.output.store(y_at + (first + r) * self.n + channel, channel, register.get())
                channel = channel + n

    @property
    def _rows_matter(self) -> bool:
        return self.vnni and self.q != 0

    def _row(self, row: Expr) -> Expr:
        return self.code.let(self._load32(self.rows_at + 4 * row, 1))

    def _load32(self, at: Expr, lanes: int) -> Expr:
        """i32 values that were stored as bytes."""
        return self.code.let(
            tirx.reinterpret(emit.vector("int32", lanes), emit.load(self.scratch, at, 4 * lanes))
        )

    def _store32(self, at: Expr, value: Expr) -> None:
        lanes = emit.lanes_of(value)
        self.code.store(self.scratch, at, tirx.reinterpret(f"int8x{4 * lanes}", value))

    def _ones(self, lanes: int) -> Expr:
        """Four ones in every lane; in a register, because TVM would fold shifts of a constant beyond i32."""
        ones = self.code.register("int32", lanes)
        ones.set(const(0x01010101, "int32", lanes))
        return ones.get()

    # a: copied where its bytes cannot be used as they lie.

    def _entered(self, value: Expr, side: Side, bias: int) -> Expr:
        """Elements of an operand as the dot product takes them."""
        lanes = emit.lanes_of(value)
        if self.vnni:
            flat = tirx.reinterpret(emit.vector(self.dot.w_dtype, lanes), value)
            return flat ^ const(-128, "int8", lanes) if bias else flat
        wide = tirx.Cast(emit.vector(self.dot.w_dtype, lanes), value)
        return wide - const(side.zero, self.dot.w_dtype, lanes)

    def _copy_rows(self, a_at: Expr) -> None:
        code, k = self.code, self.k
        with code.loop(self.m, "row") as row:
            to = row * self.whole + self.copy_at
            for start, count, lanes in stage.runs(k, self.isa.lanes(self.dot.w_dtype)):
                with code.loop(count, "c") as i:
                    at = i * lanes + start
                    value = code.load(self.x, a_at + row * k + at, lanes)
                    code.store(self.scratch, to + at, self._entered(value, self.a, self.a.dtype == "int8"))
            for i in range(k, self.whole):
                code.store(self.scratch, to + i, const(0, self.dot.w_dtype, 1))

    def _sum_rows(self, a_at: Expr) -> None:
        """-q times the sum of each row of a."""
        code, dot = self.code, self.dot
        source, base, stride = (
            (self.scratch, self.copy_at, self.whole) if self.staged else (self.x, a_at, self.k)
        )
        with code.loop(self.m, "row") as row:
            at = base + row * stride
            total = code.register("int32", 1)
            total.set(const(0, "int32", 1))
            for start, count, lanes in stage.runs(self.steps, 16):
                part = code.register("int32", lanes)
                part.set(const(0, "int32", lanes))
                with code.loop(count, "c") as i:
                    bytes_at = at + (i * lanes + start) * dot.group
                    quads = tirx.reinterpret(
                        emit.vector("int32", lanes), emit.load(source, bytes_at, lanes * dot.group)
                    )
                    part.set(dot.accumulate(part.get(), quads, self._ones(lanes)))
                total.set(total.get() + across(code, "sum", part.get()))
            self._store32(self.rows_at + 4 * row, total.get() * const(-self.q, "int32", 1))

    # b: packed panel by panel, as [steps, columns, group].

    def _pack(self, panel: Panels, b_at: Expr, column: Expr) -> None:
        offset = 0
        for lanes in panel.lanes:
            if self.transpose_b:
                self._pack_transposed(panel, b_at + (column + offset) * self.k, lanes, offset)
            else:
                self._pack_rows(panel, b_at + column + offset, lanes, offset)
            offset += lanes

    def _packed(self, panel: Panels, step: Expr, offset: int) -> Expr:
        return self.packed_at + (step * panel.width + offset) * self.dot.group

    def _pack_rows(self, panel: Panels, b_at: Expr, lanes: int, offset: int) -> None:
        code, group = self.code, self.dot.group
        full, rest = divmod(self.k, group)

        def pack(step: Expr, rows: int) -> None:
            parts = [
                code.let(
                    self._entered(
                        emit.load(self.w, b_at + (step * group + j) * self.n, lanes), self.b, self._b_shift
                    )
                )
                for j in range(rows)
            ]
            parts += [const(0, self.dot.w_dtype, lanes)] * (group - rows)
            code.store(self.scratch, self._packed(panel, step, offset), _interleave(code, parts))

        if full:
            with code.loop(full, "k") as step:
                pack(step, group)
        if rest:
            pack(full, rest)

    @property
    def _b_shift(self) -> bool:
        return self.b.dtype == "uint8"

    def _pack_transposed(self, panel: Panels, b_at: Expr, lanes: int, offset: int) -> None:
        """A group of neighbours of a row of b stays together: squares of groups are transposed."""
        code, group, k = self.code, self.dot.group, self.k
        full, rest = divmod(k, group)
        squares = full // lanes if self.vnni else 0
        if squares:
            with code.loop(squares, "square") as i:
                rows = []
                for r in range(lanes):
                    value = emit.load(self.w, b_at + r * k + i * (lanes * group), lanes * group)
                    entered = code.let(self._entered(value, self.b, self._b_shift))
                    rows.append(code.let(tirx.reinterpret(emit.vector("int32", lanes), entered)))
                for c, turned in enumerate(transpose_square(code, rows)):
                    quads = tirx.reinterpret(f"int8x{4 * lanes}", turned)
                    code.store(self.scratch, self._packed(panel, i * lanes + c, offset), quads)
        done = squares * lanes
        if done < full:
            with code.loop(full - done, "k") as i, code.loop(lanes, "j") as j:
                value = emit.load(self.w, b_at + j * k + (i + done) * group, group)
                at = self._packed(panel, i + done, offset) + j * group
                code.store(self.scratch, at, self._entered(value, self.b, self._b_shift))
        if rest:
            with code.loop(lanes, "j") as j:
                at = self._packed(panel, full, offset) + j * group
                for i in range(group):
                    value = const(0, self.dot.w_dtype, 1)
                    if i < rest:
                        element = emit.load(self.w, b_at + j * k + (full * group + i), 1)
                        value = self._entered(element, self.b, self._b_shift)
                    code.store(self.scratch, at + i, value)

    def _starts(self, panel: Panels) -> bool:
        """k p q - p times the sum of each column of the packed panel, where p is not zero."""
        if not (self.vnni and self.p):
            return False
        code, dot = self.code, self.dot
        sums = [code.register("int32", n) for n in panel.lanes]
        for register, n in zip(sums, panel.lanes, strict=True):
            register.set(const(0, "int32", n))
        with code.loop(self.steps, "k") as step:
            offset = 0
            for register, n in zip(sums, panel.lanes, strict=True):
                w = dot.load_w(self.scratch, self._packed(panel, step, offset), n)
                register.set(dot.accumulate(register.get(), self._ones(n), code.let(w)))
                offset += n
        offset = 0
        for register, n in zip(sums, panel.lanes, strict=True):
            total = const(self.k * self.p * self.q, "int32", n) - register.get() * const(self.p, "int32", n)
            self._store32(self.start_at + 4 * offset, total)
            offset += n
        return True


def _interleave(code: Code, parts: list[Expr]) -> Expr:
    """The lanes of several vectors in turn: a0 b0 c0 d0 a1 ..."""
    if len(parts) == 1:
        return parts[0]
    lanes = emit.lanes_of(parts[0])
    parts = [code.let(p) for p in parts]
    if lanes == 1:
        return tirx.Shuffle(parts, list(range(len(parts))))
    return tirx.Shuffle(parts, [j * lanes + i for i in range(lanes) for j in range(len(parts))])
