"""Matrix products: MatMul, Gemm, Einsum and the determinant."""

from __future__ import annotations

import math
import re

from hardy.compiler.frontends.onnx.context import Context, Importer
from hardy.compiler.ir import Value
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.shape import Slice
from hardy.compiler.types import broadcast_shapes

# Above this size the expansion of a determinant by minors grows out of hand.
LARGEST_DETERMINANT = 6


def matmul(ctx: Context, a: Value, b: Value) -> Value:
    """NumPy's matmul: a vector counts as a row on the left and as a column on the right."""
    e = ctx.e
    left, right = a.type.rank == 1, b.type.rank == 1
    if left:
        a = e.reshape(a, (1, a.type.shape[0]))
    if right:
        b = e.reshape(b, (b.type.shape[0], 1))
    y = ctx(Matmul(), a, b)
    shape = list(y.type.shape)
    if right:
        del shape[-1]
    if left:
        del shape[-1 if right else -2]
    return e.reshape(y, shape)


def _matmul(ctx: Context) -> Value:
    return matmul(ctx, ctx[0], ctx[1])


def _gemm(ctx: Context) -> Value:
    """alpha A' B' + beta C."""
    e = ctx.e
    transposes = bool(ctx.integer("transA", 0)), bool(ctx.integer("transB", 0))
    y = ctx(Matmul(*transposes), ctx[0], ctx[1])
    alpha, beta = ctx.real("alpha", 1.0), ctx.real("beta", 1.0)
    if alpha != 1:
        y = e.mul(y, alpha)
    if not ctx.has(2) or beta == 0:
        return y
    c = ctx[2] if beta == 1 else e.mul(ctx[2], beta)
    if broadcast_shapes(c.type.shape, y.type.shape) != y.type.shape:
        ctx.fail(f"C {c.type} does not broadcast to {y.type}")
    return e.add(y, c)


def _einsum(ctx: Context) -> Value:
    """Pairwise from the left, each step as one matrix product with leading batch axes."""
    equation = re.sub(r"\s", "", ctx.text("equation"))
    operands, result = _labels(ctx, equation)
    sizes: dict[str, int] = {}
    for x, labels in zip(ctx.tensors(), operands, strict=True):
        for label, size in zip(labels, x.type.shape, strict=True):
            if sizes.setdefault(label, size) != size:
                if 1 not in (size, sizes[label]):
                    ctx.fail(f"{equation!r} gives {label!r} the sizes {sizes[label]} and {size}")
                sizes[label] = max(size, sizes[label])
    terms = []
    for x, labels in zip(ctx.tensors(), operands, strict=True):
        terms.append(_diagonal(ctx, ctx.e.broadcast(x, [sizes[label] for label in labels]), labels))
    while len(terms) > 1:
        later = set(result).union(*[labels for _, labels in terms[2:]])
        terms[:2] = [_contract(ctx, terms[0], terms[1], later)]
    x, labels = _sum_out(ctx, terms[0], set(result))
    for label in result:
        if label not in labels:
            ctx.fail(f"{equation!r} has the result index {label!r}, which no operand has")
    return ctx.e.transpose(x, [labels.index(label) for label in result])


Term = tuple[Value, list[str]]


def _labels(ctx: Context, equation: str) -> tuple[list[list[str]], list[str]]:
    """The labels of the operands' and the result's axes; an ellipsis is '.0', '.1', ... from the right."""
    left, arrow, right = equation.partition("->")
    texts = left.split(",")
    if len(texts) != len(ctx.inputs):
        ctx.fail(f"{equation!r} has {len(texts)} operands, {len(ctx.inputs)} are given")

    def split(text: str, hidden: int) -> list[str]:
        before, dots, after = text.partition("...")
        if not re.fullmatch(r"[A-Za-z]*", before + after):
            ctx.fail(f"cannot read the equation {equation!r}")
        middle = [f".{i}" for i in range(hidden - 1, -1, -1)] if dots else []
        return [*before, *middle, *after]

    operands = []
    most = 0
    for text, x in zip(texts, ctx.tensors(), strict=True):
        hidden = x.type.rank - len(text.replace("...", ""))
        if hidden < 0 or (hidden and "..." not in text):
            ctx.fail(f"{text!r} in {equation!r} does not fit {x.type}")
        operands.append(split(text, hidden))
        most = max(most, hidden if "..." in text else 0)
    if arrow:
        return operands, split(right, most)
    counts: dict[str, int] = {}
    for labels in operands:
        for label in labels:
            counts[label] = counts.get(label, 0) + 1
    dotted = [f".{i}" for i in range(most - 1, -1, -1)]
    return operands, dotted + sorted(k for k, n in counts.items() if n == 1 and k[0] != ".")


def _diagonal(ctx: Context, x: Value, labels: list[str]) -> Term:
    """Keeps, of axes with the same label, the elements whose positions agree."""
    e = ctx.e
    labels = list(labels)
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            x = e.move_axis(e.move_axis(x, first, x.type.rank - 1), second - 1, x.type.rank - 2)
            labels = [k for i, k in enumerate(labels) if i not in (first, second)]
            n, rest = x.type.shape[-1], x.type.shape[:-2]
            flat = e.reshape(x, (*rest, n * n))
            steps = (*[1] * len(rest), n + 1)
            x = ctx(Slice((0,) * len(steps), flat.type.shape, steps), flat)
            labels.append(label)
    return x, labels


def _sum_out(ctx: Context, term: Term, kept: set[str]) -> Term:
    x, labels = term
    axes = tuple(i for i, label in enumerate(labels) if label not in kept)
    if not axes:
        return term
    return ctx(ReduceSum(axes), x), [label for label in labels if label in kept]


def _contract(ctx: Context, a: Term, b: Term, later: set[str]) -> Term:
    """One product; labels that neither `later` nor the other operand has are summed first."""
    e = ctx.e
    x, left = _sum_out(ctx, a, later | set(b[1]))
    y, right = _sum_out(ctx, b, later | set(left))
    shared = [k for k in left if k in right]
    batch, inner = [k for k in shared if k in later], [k for k in shared if k not in later]
    rows, columns = [k for k in left if k not in shared], [k for k in right if k not in shared]
    sizes = {**dict(zip(left, x.type.shape, strict=True)), **dict(zip(right, y.type.shape, strict=True))}

    def count(labels: list[str]) -> int:
        return math.prod(sizes[k] for k in labels)

    outer = [sizes[k] for k in batch]
    x = e.transpose(x, [left.index(k) for k in batch + rows + inner])
    y = e.transpose(y, [right.index(k) for k in batch + inner + columns])
    product = ctx(
        Matmul(),
        e.reshape(x, (*outer, count(rows), count(inner))),
        e.reshape(y, (*outer, count(inner), count(columns))),
    )
    labels = batch + rows + columns
    return e.reshape(product, [sizes[k] for k in labels]), labels


def _det(ctx: Context) -> Value:
    """Expansion by minors along the first row, which needs no pivots."""
    x = ctx[0]
    if x.type.rank < 2 or x.type.shape[-1] != x.type.shape[-2]:
        ctx.fail(f"Det needs square matrices, got {x.type}")
    n = x.type.shape[-1]
    if not 1 <= n <= LARGEST_DETERMINANT:
        ctx.unsupported(f"the determinant of {n} by {n} matrices (1 to {LARGEST_DETERMINANT} are supported)")
    rows = [ctx.e.pick(x, x.type.rank - 2, i) for i in range(n)]
    elements = [[ctx.e.pick(row, x.type.rank - 2, j) for j in range(n)] for row in rows]
    minors: dict[tuple[int, ...], Value] = {}

    def minor(columns: tuple[int, ...]) -> Value:
        """The determinant of the last rows in these columns."""
        if columns not in minors:
            row = elements[n - len(columns)]
            total = None
            for sign, column in enumerate(columns):
                term = row[column]
                if len(columns) > 1:
                    term = ctx.e.mul(term, minor(tuple(c for c in columns if c != column)))
                combine = ctx.e.sub if sign % 2 else ctx.e.add
                total = term if total is None else combine(total, term)
            assert total is not None
            minors[columns] = total
        return minors[columns]

    return minor(tuple(range(n)))


IMPORTERS: dict[str, Importer] = {"Det": _det, "Einsum": _einsum, "Gemm": _gemm, "MatMul": _matmul}
