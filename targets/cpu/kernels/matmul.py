"""Matrix product of activations [M, K] with a constant weight [K, N]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit, stage
from hardy.targets.cpu.kernels.dot import Dot, dot_for
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr
from hardy.targets.cpu.kernels.kernel import Array, Epilogue, Kernel, Output, Workspace
from hardy.targets.cpu.kernels.product import Chunk, Product, Reduction, chunked, chunks
from hardy.targets.cpu.kernels.tile import Panels, choose_tile, cut_columns, pack_weight, packed_elements

L1_BYTES = 24 << 10  # what one kernel may hope to keep in the first- and second-level cache
L2_BYTES = 768 << 10


def matmul(
    m: int,
    n: int,
    k: int,
    isa: Isa,
    *,
    x_dtype: str = "float32",
    transposed: bool = False,
    bias: bool = False,
    epilogue: Epilogue | None = None,
    threads: int = 1,
) -> Kernel:
    """y[M, N] = epilogue(x[M, K] @ w[K, N] + bias[N]).

    Inputs: x, weight, [bias], epilogue operands, output, [workspace]. `x_dtype` is float32, or uint8 or int8
    with int8 weights and i32 accumulation (bias i32). `transposed` says that `pack` is given [N, K].
    """
    return row_product(
        Rows(m, k, m * k),
        n,
        isa,
        x_dtype=x_dtype,
        transposed=transposed,
        bias=bias,
        epilogue=epilogue,
        threads=threads,
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """`count` rows of `k` neighbouring elements in an array of `elements`.

    Without `lines`, rows follow each other. Otherwise row i of every image line has to be gathered:
    `lines` = ((extent, stride), ...) are the loops over the rows, outermost first, strides in elements.
    """

    count: int
    k: int
    elements: int
    lines: tuple[tuple[int, int], ...] = ()


def row_product(
    rows: Rows,
    n: int,
    isa: Isa,
    *,
    x_dtype: str,
    transposed: bool,
    bias: bool,
    epilogue: Epilogue | None,
    threads: int,
    dot: Dot | None = None,
) -> Kernel:
    """The product of gathered or neighbouring rows with a constant weight."""
    dot = dot or dot_for(x_dtype, isa)
    epilogue = epilogue or Epilogue(dtype=dot.acc_dtype)
    lanes = isa.lanes(dot.acc_dtype)
    size = np.dtype(dot.x_dtype).itemsize
    m, k = rows.count, rows.k
    tile_rows, vectors = choose_tile(m, n, isa, lanes)
    panels = cut_columns(n, vectors, lanes)
    stride = k
    staged = bool(rows.lines or dot.shift or x_dtype != dot.x_dtype or k % dot.group)
    if staged or (stage.conflicts(tile_rows, k * size) and n > vectors * lanes):
        staged, stride = True, stage.row_stride(k, dot, size)

    whole = k + -k % dot.group
    reduction = chunked(((whole // dot.group, dot.group),), panels[0].width * size * dot.group)
    if dot.name != "f32":
        reduction = Reduction(reduction.loops)
    tiles, tail = divmod(m, tile_rows)
    per_block = _tiles_per_block(tiles, tile_rows * stride * size, k * n * size, panels, threads, reduction)
    blocks = -(-tiles // per_block) if tiles else 1
    rows_per_block = min(m, per_block * tile_rows + tail)
    workspace = Workspace(m * stride if staged else 0)
    area = (
        workspace.take(rows_per_block * panels[0].width * (blocks if threads > 1 else 1))
        if reduction.part
        else 0
    )

    code = Code()
    x = code.pointer("x", x_dtype, rows.elements)
    w = code.pointer("weight", dot.w_dtype, packed_elements(k, n, dot))
    b = code.pointer("bias", dot.acc_dtype, n) if bias else None
    output = Output(code, epilogue, m * n, n)
    scratch = code.pointer("workspace", dot.x_dtype, workspace.elements) if workspace.elements else None
    source = scratch if staged else x
    product = Product(code, dot, source, w, b, output, whole, n, scratch)

    def tile(
        chunk: Chunk, count: int, first: Expr, place: Expr, panel: Panels, column: Expr, turn: Expr
    ) -> None:
        product.tile(
            chunk,
            [(first + r) * stride for r in range(count)],
            [(first + r) * n + column for r in range(count)],
            panel.lanes,
            column=column,
            channel=column,
            partial_at=place,
            turn=(turn, per_block),
            total_at=[0] * count,
        )

    if staged and rows.lines:
        _gather(code, isa, dot, x, x_dtype, source, rows, stride)
    with code.loop(blocks, "block", parallel=threads > 1) as block:
        here = (
            per_block if tiles == blocks * per_block else emit.minimum(per_block, tiles - block * per_block)
        )
        last = block > blocks - 2
        partial = area + block * (rows_per_block * panels[0].width if threads > 1 else 0)
        if staged and not rows.lines:
            _stage(
                code,
                isa,
                dot,
                x,
                x_dtype,
                source,
                k,
                stride,
                block * (per_block * tile_rows),
                here * tile_rows,
            )
            if tail:
                with code.when(last):
                    _stage(code, isa, dot, x, x_dtype, source, k, stride, tiles * tile_rows, tail)
        for panel in panels:
            with code.loop(panel.count, "panel") as p, chunks(code, reduction) as chunk:
                column = p * panel.width + panel.start
                size_of_tile = tile_rows * panel.width
                if tiles:
                    with code.loop(here, "tile") as t:
                        first = (block * per_block + t) * tile_rows
                        tile(chunk, tile_rows, first, partial + t * size_of_tile, panel, column, t)
                if tail:
                    with code.when(last):
                        tile(
                            chunk, tail, tiles * tile_rows, partial + here * size_of_tile, panel, column, here
                        )

    inputs = (
        "x",
        "weight",
        *(("bias",) if bias else ()),
        *output.names,
        *(("workspace",) if scratch is not None else ()),
    )

    def pack(weight: Array) -> Array:
        return pack_weight(weight.T if transposed else weight, panels, dot)

    return Kernel(code.finish(), inputs, workspace.elements * size, pack)


def _tiles_per_block(
    tiles: int, tile_bytes: int, weight_bytes: int, panels: list[Panels], threads: int, reduction: Reduction
) -> int:
    """How many tiles of rows go through all panels before the next ones do.

    The block's rows are read again for every panel, the weight again for every block: while the weight stays
    in the second-level cache the rows should stay in the first, otherwise the rows take the second.
    """
    one_panel = len(panels) == 1 and panels[0].count == 1
    if one_panel and not reduction.part:
        block = 1
    else:
        near = weight_bytes <= L2_BYTES and not reduction.part
        block = max(1, (L1_BYTES if near else L2_BYTES) // tile_bytes)
    return max(1, min(block, -(-tiles // threads)))


def _stage(
    code: Code,
    isa: Isa,
    dot: Dot,
    x: Buffer,
    x_dtype: str,
    to: Buffer,
    k: int,
    stride: int,
    first: Expr,
    count: Expr,
) -> None:
    """Copies `count` neighbouring rows from row `first` on."""
    with code.loop(count, "row") as r:
        stage.copy_row(code, isa, dot, x, x_dtype, (first + r) * k, to, (first + r) * stride, k)


def _gather(
    code: Code, isa: Isa, dot: Dot, x: Buffer, x_dtype: str, to: Buffer, rows: Rows, stride: int
) -> None:
    def nest(depth: int, index: Expr, at: Expr) -> None:
        if depth == len(rows.lines):
            stage.copy_row(code, isa, dot, x, x_dtype, at, to, index * stride, rows.k)
            return
        extent, step = rows.lines[depth]
        with code.loop(extent, f"line{depth}") as i:
            nest(depth + 1, index * extent + i, at + i * step)

    nest(0, 0, 0)
