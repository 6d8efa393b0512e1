"""Kernels over the last axis of [rows, n]: reductions, softmax, layer norm and RMS norm."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit, math, stage
from hardy.targets.cpu.kernels.emit import Code, Expr
from hardy.targets.cpu.kernels.kernel import Epilogue, Kernel, Output
from hardy.targets.cpu.kernels.vector import Fold, across, combine, identity

CHAINS = 4  # vectors folded side by side, to hide the latency of an addition


def reduce_rows(
    rows: int,
    n: int,
    fold: Fold,
    isa: Isa,
    *,
    x_dtype: str = "float32",
    mean: bool = False,
    epilogue: Epilogue | None = None,
    threads: int = 1,
) -> Kernel:
    """y[rows] = epilogue(fold of x[rows, n] over the last axis). Inputs: x, epilogue operands, output.

    Integers are summed in i32, folded to the greatest or least in their own type. `mean` divides a
    float32 sum by n. Epilogue operands of kind `channel` are vectors over the rows.
    """
    acc_dtype = "int32" if fold == "sum" and x_dtype != "float32" else x_dtype
    epilogue = epilogue or Epilogue(dtype=acc_dtype)
    code = Code()
    x = code.pointer("x", x_dtype, rows * n)
    output = Output(code, epilogue, rows, rows)
    with code.loop(rows, "row", parallel=threads > 1) as row:

        def load(at: Expr, lanes: int) -> Expr:
            value = emit.load(x, row * n + at, lanes)
            return value if acc_dtype == x_dtype else tirx.Cast(emit.vector(acc_dtype, lanes), value)

        total = fold_row(code, isa, n, acc_dtype, fold, load)
        output.store(row, row, total / tirx.const(float(n), "float32") if mean else total)
    return Kernel(code.finish(), ("x", *output.names))


def softmax(rows: int, n: int, isa: Isa, *, epilogue: Epilogue | None = None, threads: int = 1) -> Kernel:
    """y[rows, n] = epilogue(softmax of x[rows, n] over the last axis), f32.

    Inputs: x, epilogue operands, output, workspace. A row that is -inf throughout, or holds NaN or +inf,
    gives NaN.
    """
    epilogue = epilogue or Epilogue()
    code = Code()
    x = code.pointer("x", "float32", rows * n)
    output = Output(code, epilogue, rows * n, n)
    scratch = code.pointer("workspace", "float32", rows * n)
    with code.loop(rows, "row", parallel=threads > 1) as row:
        base = code.let(row * n)
        # NaN need not reach the peak: its numerator is NaN, and so is the sum.
        peak = fold_row(code, isa, n, "float32", "greatest", lambda at, lanes: emit.load(x, base + at, lanes))

        def numerator(at: Expr, lanes: int) -> Expr:
            value = code.let(math.exp_below_zero(emit.load(x, base + at, lanes) - emit.splat(peak, lanes)))
            code.store(scratch, base + at, value)
            return value

        total = fold_row(code, isa, n, "float32", "sum", numerator)
        scale = code.let(tirx.const(1.0, "float32") / total)

        def finish(at: Expr, lanes: int) -> None:
            output.store(base + at, at, code.load(scratch, base + at, lanes) * emit.splat(scale, lanes))

        for_row(code, isa, n, finish)
    return Kernel(code.finish(), ("x", *output.names, "workspace"), rows * n * 4)


def layer_norm(
    rows: int, n: int, isa: Isa, *, eps: float, epilogue: Epilogue | None = None, threads: int = 1
) -> Kernel:
    """y[rows, n] = epilogue((x - mean) / sqrt(variance + eps)) over the last axis, f32.

    Inputs: x, epilogue operands, output. Scale and shift are channel operands of the epilogue. The
    variance is that of the population, computed from the differences to the mean.
    """
    code = Code()
    x = code.pointer("x", "float32", rows * n)
    output = Output(code, epilogue or Epilogue(), rows * n, n)
    with code.loop(rows, "row", parallel=threads > 1) as row:
        base = code.let(row * n)
        share = tirx.const(1.0 / n, "float32")
        total = fold_row(code, isa, n, "float32", "sum", lambda at, lanes: emit.load(x, base + at, lanes))
        mean = code.let(total * share)

        def square(at: Expr, lanes: int) -> Expr:
            d = code.let(emit.load(x, base + at, lanes) - emit.splat(mean, lanes))
            return d * d

        variance = fold_row(code, isa, n, "float32", "sum", square) * share
        scale = code.let(_inverse_root(variance + tirx.const(eps, "float32")))

        def finish(at: Expr, lanes: int) -> None:
            d = code.load(x, base + at, lanes) - emit.splat(mean, lanes)
            output.store(base + at, at, d * emit.splat(scale, lanes))

        for_row(code, isa, n, finish)
    return Kernel(code.finish(), ("x", *output.names))


def rms_norm(
    rows: int, n: int, isa: Isa, *, eps: float, epilogue: Epilogue | None = None, threads: int = 1
) -> Kernel:
    """y[rows, n] = epilogue(x / sqrt(mean(x^2) + eps)) over the last axis, f32; inputs as layer_norm's."""
    code = Code()
    x = code.pointer("x", "float32", rows * n)
    output = Output(code, epilogue or Epilogue(), rows * n, n)
    with code.loop(rows, "row", parallel=threads > 1) as row:
        base = code.let(row * n)

        def square(at: Expr, lanes: int) -> Expr:
            value = code.load(x, base + at, lanes)
            return value * value

        total = fold_row(code, isa, n, "float32", "sum", square)
        mean = total * tirx.const(1.0 / n, "float32")
        scale = code.let(_inverse_root(mean + tirx.const(eps, "float32")))

        def finish(at: Expr, lanes: int) -> None:
            output.store(base + at, at, code.load(x, base + at, lanes) * emit.splat(scale, lanes))

        for_row(code, isa, n, finish)
    return Kernel(code.finish(), ("x", *output.names))


def fold_row(code: Code, isa: Isa, n: int, dtype: str, fold: Fold, load: Callable[[Expr, int], Expr]) -> Expr:
    """The fold of load(at, lanes) over at = 0 .. n - 1, as a scalar variable; each element is loaded once."""
    lanes = isa.lanes(dtype)
    totals = []
    wide = n // (lanes * CHAINS)
    if wide:
        chains = [code.register(dtype, lanes) for _ in range(CHAINS)]
        for chain in chains:
            chain.set(identity(fold, dtype, lanes))
        with code.loop(wide, "c") as i:
            for j, chain in enumerate(chains):
                value = code.let(load(i * (lanes * CHAINS) + j * lanes, lanes))
                chain.set(combine(fold, chain.get(), value))
        values = [code.let(chain.get()) for chain in chains]
        first = code.let(combine(fold, values[0], values[1]))
        second = code.let(combine(fold, values[2], values[3]))
        totals.append(across(code, fold, combine(fold, first, second)))
    done = wide * lanes * CHAINS
    for start, count, width in stage.runs(n - done, lanes):
        part = code.register(dtype, width)
        part.set(identity(fold, dtype, width))
        with code.loop(count, "c") as i:
            value = code.let(load(i * width + (start + done), width))
            part.set(combine(fold, part.get(), value))
        totals.append(across(code, fold, part.get()))
    total = totals[0]
    for other in totals[1:]:
        total = code.let(combine(fold, total, other))
    return total


def for_row(code: Code, isa: Isa, n: int, body: Callable[[Expr, int], None]) -> None:
    """body(at, lanes) over the row in full vectors, then in narrower ones."""
    for start, count, lanes in stage.runs(n, isa.lanes()):
        with code.loop(count, "c") as i:
            body(i * lanes + start, lanes)


def _inverse_root(x: Expr) -> Expr:
    return tirx.const(1.0, "float32") / emit.intrinsic("float32", "llvm.sqrt", x)
