"""Reductions, scans and selections along axes."""

from __future__ import annotations

import math
from collections.abc import Callable

from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.ir import Value
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops import reduce as red
from hardy.compiler.ops import transcendental as tr
from hardy.compiler.ops.norm import ReduceMean

Reduce = Callable[[Context, Value, tuple[int, ...], bool], Value]


def _over_axes(reduce: Reduce) -> Importer:
    """Axes from an attribute or an operand; none means all, or with `noop_with_empty_axes` none."""

    def importer(ctx: Context) -> Value:
        x = ctx[0]
        axes = ctx.ints_operand_or_attribute(1, "axes")
        if not axes:
            noop = bool(ctx.integer("noop_with_empty_axes", 0))
            axes = () if noop else tuple(range(x.type.rank))
        return reduce(ctx, x, ctx.axes(axes, x.type.rank), bool(ctx.integer("keepdims", 1)))

    return importer


def _simple(op: type[red.Reduction]) -> Reduce:
    return lambda ctx, x, axes, keep: ctx(op(axes, keep), x)


def _mean(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    if x.type.dtype.is_float:
        return ctx(ReduceMean(axes, keep), x)
    count = math.prod(x.type.shape[a] for a in axes)
    return ctx.e.div(ctx(red.ReduceSum(axes, keep), x), count)


def _l1(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    return ctx(red.ReduceSum(axes, keep), ctx(ew.Abs(), x))


def _sum_square(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    return ctx(red.ReduceSum(axes, keep), ctx.e.mul(x, x))


def _l2(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    return ctx(ew.Sqrt(), _sum_square(ctx, x, axes, keep))


def _log_sum(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    return ctx(tr.Log(), ctx(red.ReduceSum(axes, keep), x))


def _log_sum_exp(ctx: Context, x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    """Without overflow: the greatest element is taken out first where it is finite."""
    e = ctx.e
    greatest = ctx(red.ReduceMax(axes, True), x)
    finite = e.less(ctx(ew.Abs(), greatest), math.inf)
    greatest = e.where(finite, greatest, 0)
    total = ctx(red.ReduceSum(axes, keep), ctx(tr.Exp(), e.sub(x, greatest)))
    return e.add(ctx(tr.Log(), total), e.reshape(greatest, total.type.shape))


def _arg(op: type[red.ArgExtremum]) -> Importer:
    def importer(ctx: Context) -> Value:
        axis = ctx.axis(ctx.integer("axis", 0), ctx[0].type.rank)
        return ctx(
            op(axis, bool(ctx.integer("keepdims", 1)), bool(ctx.integer("select_last_index", 0))), ctx[0]
        )

    return importer


def _top_k(ctx: Context) -> list[Item | None]:
    x = ctx[0]
    k = ctx.integer("k") if ctx.opset < 10 else ctx.constant_int(1, "k")
    axis = ctx.axis(ctx.integer("axis", -1), x.type.rank)
    return list(ctx.multi(red.TopK(k, axis, bool(ctx.integer("largest", 1))), x))


def _cumulative_axis(ctx: Context) -> int:
    return ctx.axis(ctx.constant_int(1, "the axis"), ctx[0].type.rank)


def _cum_sum(ctx: Context) -> Value:
    exclusive, reverse = bool(ctx.integer("exclusive", 0)), bool(ctx.integer("reverse", 0))
    return ctx(red.CumSum(_cumulative_axis(ctx), exclusive, reverse), ctx[0])


def _cum_prod(ctx: Context) -> Value:
    """Products over runs of 1, 2, 4, ... elements (Hillis and Steele's scan)."""
    x, e, axis = ctx[0], ctx.e, _cumulative_axis(ctx)
    size, reverse = x.type.shape[axis], bool(ctx.integer("reverse", 0))

    def shifted(y: Value, by: int) -> Value:
        ones = e.full([by if i == axis else n for i, n in enumerate(y.type.shape)], 1, y.type.dtype)
        if reverse:
            return e.concat([e.slice(y, axis, by, size), ones], axis)
        return e.concat([ones, e.slice(y, axis, 0, size - by)], axis)

    y = shifted(x, 1) if ctx.integer("exclusive", 0) and size else x
    run = 1
    while run < size:
        y = e.mul(y, shifted(y, run))
        run *= 2
    return y


IMPORTERS: dict[str, Importer] = {
    "ArgMax": _arg(red.ArgMax),
    "ArgMin": _arg(red.ArgMin),
    "CumProd": _cum_prod,
    "CumSum": _cum_sum,
    "ReduceL1": _over_axes(_l1),
    "ReduceL2": _over_axes(_l2),
    "ReduceLogSum": _over_axes(_log_sum),
    "ReduceLogSumExp": _over_axes(_log_sum_exp),
    "ReduceMax": _over_axes(_simple(red.ReduceMax)),
    "ReduceMean": _over_axes(_mean),
    "ReduceMin": _over_axes(_simple(red.ReduceMin)),
    "ReduceProd": _over_axes(_simple(red.ReduceProd)),
    "ReduceSum": _over_axes(_simple(red.ReduceSum)),
    "ReduceSumSquare": _over_axes(_sum_square),
    "TopK": _top_k,
}
