"""Reductions, scans, sorting and selection along axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from hardy.compiler.frontends.torch.context import Context, aten
from hardy.compiler.ir import Value
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops import transcendental as tr
from hardy.compiler.ops.activation import LogSoftmax, Softmax
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.reduce import (
    ArgMax,
    ArgMin,
    CumSum,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    TopK,
)
from hardy.compiler.ops.shape import GatherElements
from hardy.compiler.types import DType, broadcast_shapes

Axes = Sequence[int] | int | None


def reduce(
    c: Context,
    op: type[ReduceSum | ReduceMax | ReduceMin | ReduceProd | ReduceMean],
    x: Value,
    axes: Axes,
    keepdim: bool = False,
) -> Value:
    """A reduction over some axes, or all where none is named."""
    return c(op(c.axes(axes, x.type.rank), keepdim), x)


@aten("sum", "sum.dim_IntList")
def _sum(
    c: Context, x: Value, dim: Axes = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    return reduce(c, ReduceSum, c.value(x, c.dtype), dim, keepdim)


@aten("mean", "mean.dim")
def _mean(
    c: Context, x: Value, dim: Axes = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    return reduce(c, ReduceMean, c.value(x, c.dtype), dim, keepdim)


@aten("prod", "prod.dim_int")
def _prod(
    c: Context, x: Value, dim: Axes = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    return reduce(c, ReduceProd, c.value(x, c.dtype), dim, keepdim)


@aten("amax")
def _amax(c: Context, x: Value, dim: Axes = (), keepdim: bool = False) -> Value:
    return reduce(c, ReduceMax, x, dim, keepdim)


@aten("amin")
def _amin(c: Context, x: Value, dim: Axes = (), keepdim: bool = False) -> Value:
    return reduce(c, ReduceMin, x, dim, keepdim)


@aten("any", "any.dim", "any.dims")
def _any(c: Context, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return c.value(reduce(c, ReduceMax, c.value(x, DType.boolean), dim, keepdim), c.dtype)


@aten("all", "all.dim", "all.dims")
def _all(c: Context, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return c.value(reduce(c, ReduceMin, c.value(x, DType.boolean), dim, keepdim), c.dtype)


@aten("max", "max.dim")
def _max(c: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value | list[Value | None]:
    return _extremum(c, x, dim, keepdim, ReduceMax, ArgMax)


@aten("min", "min.dim")
def _min(c: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value | list[Value | None]:
    return _extremum(c, x, dim, keepdim, ReduceMin, ArgMin)


def _extremum(
    c: Context,
    x: Value,
    dim: int | None,
    keepdim: bool,
    value: type[ReduceMax | ReduceMin],
    position: type[ArgMax | ArgMin],
) -> Value | list[Value | None]:
    if dim is None:
        return reduce(c, value, x, None)
    best = reduce(c, value, x, dim, keepdim) if c.used(0) else None
    return [best, arg(c, position, x, dim, keepdim) if c.used(1) else None]


def arg(c: Context, op: type[ArgMax | ArgMin], x: Value, dim: int, keepdim: bool) -> Value:
    if x.type.rank == 0:
        return c.e.scalar(0, DType.i64)
    return c(op(c.axis(dim, x.type.rank), keepdim), x)


def _arg_of(op: type[ArgMax | ArgMin]) -> Callable[..., Value]:
    def import_(c: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
        if dim is None:
            flat = arg(c, op, c.e.reshape(x, (x.type.size,)), 0, False)
            return c.e.reshape(flat, c.shape)
        return arg(c, op, x, dim, keepdim)

    return import_


aten("argmax")(_arg_of(ArgMax))
aten("argmin")(_arg_of(ArgMin))


@aten("aminmax")
def _aminmax(c: Context, x: Value, *, dim: int | None = None, keepdim: bool = False) -> list[Value]:
    if dim is None and keepdim:
        x, dim = c.e.reshape(x, (x.type.size,)), 0
        results = [reduce(c, op, x, dim) for op in (ReduceMin, ReduceMax)]
        return [c.e.reshape(v, c.shape) for v in results]
    return [reduce(c, op, x, dim, keepdim) for op in (ReduceMin, ReduceMax)]


def variance(
    c: Context, x: Value, axes: tuple[int, ...], correction: float, keepdim: bool
) -> tuple[Value, Value]:
    """Mean squared distance from the mean over n - correction elements, and the mean."""
    count = math.prod(x.type.shape[a] for a in axes)
    mean = c(ReduceMean(axes, True), x)
    centred = c.e.sub(x, mean)
    total = c(ReduceSum(axes, keepdim), c.e.mul(centred, centred))
    divisor = max(count - correction, 0.0)
    # Division by a zero scalar gives what torch gives: inf or NaN.
    result = c.e.div(total, float(divisor))
    if not keepdim:
        mean = c.e.reshape(mean, result.type.shape)
    return result, mean


@aten("var.correction")
def _var(
    c: Context, x: Value, dim: Axes = None, *, correction: float | None = None, keepdim: bool = False
) -> Value:
    return variance(c, x, c.axes(dim, x.type.rank), 1.0 if correction is None else correction, keepdim)[0]


@aten("std.correction")
def _std(
    c: Context, x: Value, dim: Axes = None, *, correction: float | None = None, keepdim: bool = False
) -> Value:
    return c(ew.Sqrt(), _var(c, x, dim, correction=correction, keepdim=keepdim))


@aten("var_mean.correction")
def _var_mean(
    c: Context, x: Value, dim: Axes = None, *, correction: float | None = None, keepdim: bool = False
) -> list[Value]:
    return list(variance(c, x, c.axes(dim, x.type.rank), 1.0 if correction is None else correction, keepdim))


@aten("std_mean.correction")
def _std_mean(
    c: Context, x: Value, dim: Axes = None, *, correction: float | None = None, keepdim: bool = False
) -> list[Value]:
    var, mean = _var_mean(c, x, dim, correction=correction, keepdim=keepdim)
    return [c(ew.Sqrt(), var), mean]


@aten("logsumexp")
def _logsumexp(c: Context, x: Value, dim: Axes, keepdim: bool = False) -> Value:
    """log(sum(exp(x))) around the greatest element; infinite where all are."""
    x = c.value(x, c.dtype)
    axes = c.axes(dim, x.type.rank)
    greatest = c(ReduceMax(axes, True), x)
    finite = c.e.where(c.e.less(c(ew.Abs(), greatest), math.inf), greatest, 0.0)
    total = c(ReduceSum(axes, True), c(tr.Exp(), c.e.sub(x, finite)))
    return c.e.reshape(c.e.add(c(tr.Log(), total), finite), c.shape)


@aten("linalg_vector_norm")
def vector_norm(
    c: Context,
    x: Value,
    ord: float = 2,
    dim: Axes = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Value:
    x = c(ew.Abs(), c.value(x, c.dtype))
    axes = c.axes(dim, x.type.rank)
    if ord == math.inf:
        return c(ReduceMax(axes, keepdim), x)
    if ord == -math.inf:
        return c(ReduceMin(axes, keepdim), x)
    if ord == 0:
        nonzero = c.value(c(ew.Not(), c.e.equal(x, 0)), c.dtype)
        return c(ReduceSum(axes, keepdim), nonzero)
    if ord == 1:
        return c(ReduceSum(axes, keepdim), x)
    if ord == 2:
        return c(ew.Sqrt(), c(ReduceSum(axes, keepdim), c.e.mul(x, x)))
    powers = c(ew.Pow(), x, c.e.scalar(ord, c.dtype))
    return c(ew.Pow(), c(ReduceSum(axes, keepdim), powers), c.e.scalar(1 / ord, c.dtype))


def _softmax_of(op: type[Softmax | LogSoftmax]) -> Callable[..., Value]:
    def import_(c: Context, x: Value, dim: int, half_to_float: object = False, **options: object) -> Value:
        x = c.value(x, c.dtype)
        if x.type.rank == 0:
            flat = import_(c, c.e.reshape(x, (1,)), 0)
            return c.e.reshape(flat, ())
        return c(op(c.axis(dim, x.type.rank)), x)

    return import_


aten("softmax.int", "_softmax")(_softmax_of(Softmax))
aten("log_softmax.int", "_log_softmax")(_softmax_of(LogSoftmax))


@aten("cumsum")
def _cumsum(c: Context, x: Value, dim: int, *, dtype: torch.dtype | None = None) -> Value:
    x = c.value(x, c.dtype)
    return c(CumSum(c.axis(dim, x.type.rank)), x) if x.type.rank else x


def _scan(
    c: Context, xs: list[Value], axis: int, combine: Callable[[list[Value], list[Value]], list[Value]]
) -> list[Value]:
    """Inclusive scan by doubling: after step k each element combines 2^k elements up to itself."""
    n = xs[0].type.shape[axis] if xs[0].type.rank else 1
    shift = 1
    while shift < n:
        head = [c.e.slice(x, axis, 0, shift) for x in xs]
        before = [c.e.slice(x, axis, 0, n - shift) for x in xs]
        here = [c.e.slice(x, axis, shift, n) for x in xs]
        merged = combine(before, here)
        xs = [c.e.concat([h, m], axis) for h, m in zip(head, merged, strict=True)]
        shift *= 2
    return xs


@aten("cumprod")
def _cumprod(c: Context, x: Value, dim: int, *, dtype: torch.dtype | None = None) -> Value:
    x = c.value(x, c.dtype)
    return _scan(c, [x], c.axis(dim, x.type.rank), lambda a, b: [c.e.mul(a[0], b[0])])[0]


@aten("logcumsumexp")
def _logcumsumexp(c: Context, x: Value, dim: int) -> Value:
    def combine(a: list[Value], b: list[Value]) -> list[Value]:
        high, low = c.e.max(a[0], b[0]), c.e.min(a[0], b[0])
        apart = c.e.where(c.e.equal(high, low), 0.0, c.e.sub(low, high))
        return [c.e.add(high, c(tr.Log1p(), c(tr.Exp(), apart)))]

    return _scan(c, [x], c.axis(dim, x.type.rank), combine)[0]


def _cumulative_extremum(name: str, largest: bool) -> None:
    @aten(name)
    def import_(c: Context, x: Value, dim: int) -> list[Value]:
        """The best so far and its position, the later one of equals; NaN wins."""
        axis = c.axis(dim, x.type.rank)
        n = x.type.shape[axis] if x.type.rank else 1
        view = [n if i == axis else 1 for i in range(x.type.rank)]
        positions = c.e.broadcast(c.e.reshape(c.e.constant(torch.arange(n)), view), x.type.shape)

        def combine(a: list[Value], b: list[Value]) -> list[Value]:
            low, high = (a[0], b[0]) if largest else (b[0], a[0])
            later = c.e.less_equal(low, high)
            if x.type.dtype.is_float:
                nan_a, nan_b = c(ew.IsNan(), a[0]), c(ew.IsNan(), b[0])
                later = c(ew.Or(), nan_b, c(ew.And(), later, c(ew.Not(), nan_a)))
            return [c.e.where(later, q, p) for p, q in zip(a, b, strict=True)]

        return _scan(c, [x, positions], axis, combine)


_cumulative_extremum("cummax", largest=True)
_cumulative_extremum("cummin", largest=False)


@aten("sort", "sort.stable")
def _sort(
    c: Context, x: Value, dim: int = -1, descending: bool = False, *, stable: bool | None = None
) -> list[Value]:
    if x.type.rank == 0:
        return [x, c.e.scalar(0, DType.i64)]
    axis = c.axis(dim, x.type.rank)
    if x.type.dtype is DType.boolean:
        values, positions = c.e.multi(TopK(x.type.shape[axis], axis, descending), c.value(x, DType.u8))
        return [c.value(values, DType.boolean), positions]
    return list(c.e.multi(TopK(x.type.shape[axis], axis, descending), x))


@aten("argsort", "argsort.stable")
def _argsort(c: Context, x: Value, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Value:
    return _sort(c, x, dim, descending)[1]


@aten("topk")
def _topk(
    c: Context, x: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> list[Value]:
    if x.type.rank == 0:
        return [x, c.e.scalar(0, DType.i64)]
    return list(c.e.multi(TopK(k, c.axis(dim, x.type.rank), largest), x))


def _nth(c: Context, x: Value, axis: int, n: int, keepdim: bool) -> list[Value]:
    """The n-th least element along an axis, and its position."""
    if x.type.rank == 0:
        return [x, c.e.scalar(0, DType.i64)]
    results = c.e.multi(TopK(n + 1, axis, False), x)
    picked = [c.e.slice(v, axis, n, n + 1) for v in results]
    return picked if keepdim else [c.e.reshape(v, c.shape) for v in picked]


@aten("kthvalue")
def _kthvalue(c: Context, x: Value, k: int, dim: int = -1, keepdim: bool = False) -> list[Value]:
    return _nth(c, x, c.axis(dim, x.type.rank), k - 1, keepdim)


@aten("median", "median.dim")
def _median(c: Context, x: Value, dim: int | None = None, keepdim: bool = False) -> Value | list[Value]:
    """The lower of the two middle elements; NaN where there is one."""
    if dim is None:
        flat = c.e.reshape(x, (x.type.size,))
        value, _ = _nth(c, flat, 0, (x.type.size - 1) // 2, keepdim=False)
        return _nan_wins(c, x, value, tuple(range(x.type.rank)))
    axis = c.axis(dim, x.type.rank)
    size = x.type.shape[axis] if x.type.rank else 1
    value, position = _nth(c, x, axis, (size - 1) // 2, keepdim)
    if x.type.dtype.is_float and x.type.rank:
        nan = c(ew.IsNan(), x)
        some = c.e.reshape(c(ReduceMax((axis,)), nan), c.shape)
        first = c.e.reshape(c(ArgMax(axis), c.value(nan, DType.u8)), c.shape)
        return [c.e.where(some, math.nan, value), c.e.where(some, first, position)]
    return [value, position]


def _nan_wins(c: Context, x: Value, value: Value, axes: tuple[int, ...]) -> Value:
    if not x.type.dtype.is_float:
        return value
    return c.e.where(c(ReduceMax(axes), c(ew.IsNan(), x)), math.nan, value)


@aten("take_along_dim")
def _take_along_dim(c: Context, x: Value, indices: Value, dim: int | None = None) -> Value:
    if dim is None:
        x, indices, dim = c.e.reshape(x, (x.type.size,)), c.e.reshape(indices, (indices.type.size,)), 0
    axis = c.axis(dim, x.type.rank)
    shape = broadcast_shapes(
        *[tuple(1 if i == axis else n for i, n in enumerate(v.type.shape)) for v in (x, indices)]
    )
    full = [tuple(v.type.shape[axis] if i == axis else n for i, n in enumerate(shape)) for v in (x, indices)]
    return c(GatherElements(axis), c.e.broadcast(x, full[0]), c.e.broadcast(indices, full[1]))


@aten("count_nonzero", "count_nonzero.dim_IntList")
def _count_nonzero(c: Context, x: Value, dim: Axes = None) -> Value:
    return reduce(c, ReduceSum, c.value(c.value(x, DType.boolean), DType.i64), dim)
