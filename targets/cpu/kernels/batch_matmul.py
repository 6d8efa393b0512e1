"""Matrix products of two activations, batched and strided: the products inside attention, f32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels.dot import F32
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr, const
from hardy.targets.cpu.kernels.kernel import Epilogue, Kernel, Output
from hardy.targets.cpu.kernels.product import accumulate
from hardy.targets.cpu.kernels.tile import Panels, choose_tile, cut_columns


@dataclass(frozen=True, slots=True)
class Strides:
    """Elements from one index of an axis to the next, in a, in b and in the output."""

    extent: int
    a: int
    b: int
    y: int


def batch_matmul(
    m: int,
    n: int,
    k: int,
    isa: Isa,
    *,
    batch: Sequence[Strides] = (),
    rows: tuple[int, int, int] | None = None,
    transpose_b: bool = False,
    epilogue: Epilogue | None = None,
    threads: int = 1,
) -> Kernel:
    """y[M, N] = epilogue(a[M, K] @ b[K, N]) for every index of the batch axes; b is [N, K] transposed.

    Inputs: a, b, epilogue operands, output, workspace. `batch` are the batch axes, outermost first; a stride
    of zero repeats an operand. `rows` are the elements between rows of a, of b as it lies in memory, and of
    the output (dense by default); elements of a row are neighbours. So heads can stay where a projection
    left them: [S, H, D] has rows of H * D and a batch stride of D. Full epilogue operands lie as the output.
    """
    epilogue = epilogue or Epilogue()
    lanes = isa.lanes()
    a_row, b_row, y_row = rows or (k, k if transpose_b else n, n)
    tile_rows, vectors = choose_tile(m, n, isa, lanes)
    panels = cut_columns(n, vectors, lanes)
    b_rows, b_length = (n, k) if transpose_b else (k, n)
    code = Code()
    a = code.pointer("a", "float32", 1 + (m - 1) * a_row + k - 1 + sum((s.extent - 1) * s.a for s in batch))
    size = 1 + (b_rows - 1) * b_row + b_length - 1 + sum((s.extent - 1) * s.b for s in batch)
    b = code.pointer("b", "float32", size)
    size = 1 + (m - 1) * y_row + n - 1 + sum((s.extent - 1) * s.y for s in batch)
    output = Output(code, epilogue, size, n)
    parallel = threads > 1 and bool(batch) and batch[0].extent > 1
    copies = batch[0].extent if parallel else 1
    packed = code.pointer("workspace", "float32", copies * k * n)

    def product(a_at: Expr, b_at: Expr, y_at: Expr, packed_at: Expr) -> None:
        for panel in panels:
            with code.loop(panel.count, "panel") as p:
                column = p * panel.width + panel.start
                to = packed_at + column * k
                if transpose_b:
                    _pack_transposed(code, b, b_at + column * b_row, b_row, packed, to, panel, k)
                else:
                    _pack_rows(code, b, b_at + column, b_row, packed, to, panel, k)
                tiles, tail = divmod(m, tile_rows)
                if tiles:
                    with code.loop(tiles, "tile") as t:
                        tile(a_at, y_at, to, t * tile_rows, tile_rows, panel, column)
                if tail:
                    tile(a_at, y_at, to, tiles * tile_rows, tail, panel, column)

    def tile(
        a_at: Expr, y_at: Expr, w_at: Expr, first: Expr, count: int, panel: Panels, column: Expr
    ) -> None:
        base = code.let(a_at + first * a_row)
        start = [const(0.0, "float32", width) for width in panel.lanes]
        rows_at = [base + r * a_row for r in range(count)]
        registers = [[code.register("float32", width) for width in panel.lanes] for _ in rows_at]
        for row in registers:
            for register, value in zip(row, start, strict=True):
                register.set(value)
        accumulate(code, F32, a, rows_at, packed, w_at, panel.lanes, ((k, 1),), registers)
        for r, row in enumerate(registers):
            channel = column
            for register, width in zip(row, panel.lanes, strict=True):
                output.store(y_at + (first + r) * y_row + channel, channel, register.get())
                channel = channel + width

    def nest(depth: int, a_at: Expr, b_at: Expr, y_at: Expr, packed_at: Expr) -> None:
        if depth == len(batch):
            product(a_at, b_at, y_at, packed_at)
            return
        s = batch[depth]
        with code.loop(s.extent, f"batch{depth}", parallel=parallel and depth == 0) as i:
            area = i * (k * n) if parallel and depth == 0 else packed_at
            nest(depth + 1, a_at + i * s.a, b_at + i * s.b, y_at + i * s.y, area)

    nest(0, 0, 0, 0, 0)
    return Kernel(code.finish(), ("a", "b", *output.names, "workspace"), copies * k * n * 4)


def _pack_rows(
    code: Code, b: Buffer, b_at: Expr, b_row: int, to: Buffer, to_at: Expr, panel: Panels, k: int
) -> None:
    with code.loop(k, "k") as i:
        offset = 0
        for width in panel.lanes:
            code.store(to, to_at + i * panel.width + offset, code.load(b, b_at + i * b_row + offset, width))
            offset += width


def _pack_transposed(
    code: Code, b: Buffer, b_at: Expr, b_row: int, to: Buffer, to_at: Expr, panel: Panels, k: int
) -> None:
    """Copies columns of the transposed b, in squares as wide as each vector."""
    offset = 0
    for width in panel.lanes:
        squares = k // width
        with code.loop(squares, "square") as i:
            rows = [code.load(b, b_at + (offset + r) * b_row + i * width, width) for r in range(width)]
            for c, column in enumerate(transpose_square(code, rows)):
                code.store(to, to_at + (i * width + c) * panel.width + offset, column)
        done = squares * width
        if done < k:
            with code.loop(k - done, "k") as i, code.loop(width, "j") as j:
                value = code.load(b, b_at + (j + offset) * b_row + i + done, 1)
                code.store(to, to_at + (i + done) * panel.width + offset + j, value)
        offset += width


def transpose_square(code: Code, rows: list[Expr]) -> list[Expr]:
    """The columns of a square of as many vectors as lanes (a power of two), by interleaving halves."""
    n = len(rows)
    low = [i // 2 + (i % 2) * n for i in range(n)]
    high = [i + n // 2 for i in low]
    step = 1
    while step < n:
        paired = []
        for i in range(n // 2):
            pair = [rows[i], rows[i + n // 2]]
            paired += [code.let(tirx.Shuffle(pair, low)), code.let(tirx.Shuffle(pair, high))]
        rows = paired
        step *= 2
    return rows
