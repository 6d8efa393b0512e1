"""Picking and placing elements by index tensors."""

from __future__ import annotations

from collections.abc import Sequence

from hardy.compiler.frontends.torch.context import Context, Operand, aten, promoted
from hardy.compiler.frontends.torch.elementwise import floor_divide
from hardy.compiler.ir import Value
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops.reduce import CumSum, ReduceSum
from hardy.compiler.ops.shape import Gather, GatherElements, GatherNd, ScatterElements, ScatterNd
from hardy.compiler.types import DType, broadcast_shapes

_REDUCTIONS = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


@aten("embedding")
def _embedding(
    c: Context,
    weight: Value,
    indices: Value,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Value:
    return c(Gather(0), weight, indices)


@aten("index_select")
def _index_select(c: Context, x: Value, dim: int, index: Value) -> Value:
    if x.type.rank == 0:
        return x
    if index.type.rank == 0:
        index = c.e.reshape(index, (1,))
    return c(Gather(c.axis(dim, x.type.rank)), x, index)


@aten("gather")
def _gather(c: Context, x: Value, dim: int, index: Value, *, sparse_grad: bool = False) -> Value:
    if x.type.rank == 0:
        return (
            c.e.broadcast(x, index.type.shape) if index.type.rank == 0 else c.e.reshape(x, index.type.shape)
        )
    if index.type.rank == 0:
        index = c.e.reshape(index, (1,))
    if index.type.size == 0:
        return c.e.zeros(c.type)
    picked = c(GatherElements(c.axis(dim, x.type.rank)), x, index)
    return c.e.reshape(picked, c.shape)


@aten("take")
def _take(c: Context, x: Value, index: Value) -> Value:
    return c(Gather(0), c.e.reshape(x, (x.type.size,)), index)


class _Indexing:
    """x[indices] where some axes have an index tensor: the indexed axes moved to the front."""

    def __init__(self, c: Context, x: Value, indices: Sequence[Value | None]) -> None:
        self.c = c
        expanded = _without_masks(c, indices)
        self.axes = [i for i, index in enumerate(expanded) if index is not None]
        given = [index for index in expanded if index is not None]
        self.block = broadcast_shapes(*[v.type.shape for v in given])
        self.rest = [i for i in range(x.type.rank) if i not in self.axes]
        self.order = self.axes + self.rest
        self.given = given
        adjacent = self.axes == list(range(self.axes[0], self.axes[0] + len(self.axes)))
        # Where the axes of the index tensors stand in the result: in place, or in front.
        self.position = self.axes[0] if adjacent else 0

    def tuples(self) -> Value:
        """The index tuples: i64 [*block, indexed axes]."""
        e = self.c.e
        columns = [e.broadcast(e.cast(v, DType.i64), self.block) for v in self.given]
        return e.stack(columns, len(self.block))

    def is_grid(self) -> bool:
        """Whether each index tensor varies along an axis of its own, in order, so that one axis can
        be indexed after the other."""
        k = len(self.block)
        varying = [[i + k - v.type.rank for i, n in enumerate(v.type.shape) if n != 1] for v in self.given]
        axes = [a[0] for a in varying if a]
        return all(len(a) <= 1 for a in varying) and axes == sorted(set(axes))

    def to_result(self, picked: Value) -> Value:
        """[*block, *rest] with the block where torch puts it."""
        k = len(self.block)
        rest = list(range(k, picked.type.rank))
        return self.c.e.transpose(picked, rest[: self.position] + list(range(k)) + rest[self.position :])

    def from_result(self, values: Value) -> Value:
        """The inverse of `to_result`."""
        k, p = len(self.block), self.position
        axes = list(range(values.type.rank))
        return self.c.e.transpose(values, axes[p : p + k] + axes[:p] + axes[p + k :])


def _pick(c: Context, x: Value, axis: int, index: Value) -> Value:
    """x at a vector of positions along an axis; x itself where they are all of them in order."""
    n = x.type.shape[axis]
    known = c.e.known(index) if index.type.size == n else None
    if known is not None and known.tensor.tolist() == list(range(n)):
        return x
    return c(Gather(axis), x, index)


def _without_masks(c: Context, indices: Sequence[Value | None]) -> list[Value | None]:
    """Index tensors, with a constant mask as the positions that it selects."""
    result: list[Value | None] = []
    for index in indices:
        if index is None or index.type.dtype not in (DType.boolean, DType.u8):
            result.append(index)
            continue
        literal = c.e.known(index)
        if literal is None:
            c.unsupported(
                "the shape of what a mask selects depends on the data; shapes are static",
                hint="use torch.where(mask, x, other), which keeps the shape",
            )
        result += [c.e.constant(p) for p in literal.tensor.bool().nonzero(as_tuple=True)]
    return result


@aten("index.Tensor", "_unsafe_index.Tensor")
def _index(c: Context, x: Value, indices: Sequence[Value | None]) -> Value:
    if all(index is None for index in indices):
        return x
    plan = _Indexing(c, x, indices)
    if len(plan.axes) == 1:
        return c(Gather(plan.axes[0]), x, plan.given[0])
    if plan.is_grid():
        for axis, index in zip(plan.axes, plan.given, strict=True):
            x = _pick(c, x, axis, c.e.reshape(index, (index.type.size,)))
        x = c.e.transpose(x, plan.order)
        return plan.to_result(c.e.reshape(x, plan.block + x.type.shape[len(plan.axes) :]))
    return plan.to_result(c(GatherNd(), c.e.transpose(x, plan.order), plan.tuples()))


@aten("_unsafe_masked_index")
def _masked_index(c: Context, x: Value, mask: Value, indices: Sequence[Value | None], fill: float) -> Value:
    """x[indices] where the mask holds, else `fill`; indices elsewhere may lie outside."""
    zero = c.e.scalar(0, DType.i64)
    safe = [None if i is None else c(ew.Where(), mask, c.e.cast(i, DType.i64), zero) for i in indices]
    return c.e.where(mask, _index(c, x, safe), fill)


@aten("index_put", "_unsafe_index_put")
def _index_put(
    c: Context, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False
) -> Value:
    mask = _leading_mask(indices)
    if mask is not None and c.e.known(mask) is None and values.type.size == 1 and not accumulate:
        spread = c.e.reshape(mask, mask.type.shape + (1,) * (x.type.rank - mask.type.rank))
        return c(ew.Where(), spread, c.e.reshape(c.value(values, x.type.dtype), ()), x)
    if mask is not None and mask.type.shape == x.type.shape and values.type.rank == 1 and not accumulate:
        return _masked_scatter(c, x, mask, c.value(values, x.type.dtype))
    if all(index is None for index in indices):
        values = c.e.broadcast(c.value(values, x.type.dtype), x.type.shape)
        return c.e.add(x, values) if accumulate else values
    plan = _Indexing(c, x, indices)
    rest = tuple(x.type.shape[i] for i in plan.rest)
    full = rest[: plan.position] + plan.block + rest[plan.position :]
    updates = plan.from_result(c.e.broadcast(c.value(values, x.type.dtype), full))
    moved = c.e.transpose(x, plan.order)
    placed = c(ScatterNd("add" if accumulate else "none"), moved, plan.tuples(), updates)
    return c.e.transpose(placed, [plan.order.index(i) for i in range(x.type.rank)])


def _leading_mask(indices: Sequence[Value | None]) -> Value | None:
    """The mask of x[mask] or x[mask, ...], None for any other indexing."""
    first, *others = indices
    is_mask = first is not None and first.type.dtype is DType.boolean
    return first if is_mask and all(o is None for o in others) else None


@aten("_unsafe_masked_index_put_accumulate")
def _masked_index_put(
    c: Context, x: Value, mask: Value, indices: Sequence[Value | None], values: Value
) -> Value:
    zero = c.e.scalar(0, DType.i64)
    safe = [None if i is None else c(ew.Where(), mask, c.e.cast(i, DType.i64), zero) for i in indices]
    return _index_put(c, x, safe, c.e.where(mask, values, 0), accumulate=True)


def _scatter_elements(c: Context, x: Value, dim: int, index: Value, updates: Value, reduction: str) -> Value:
    """Updates beyond the index tensor's shape are ignored."""
    if index.type.size == 0:
        return x
    if x.type.rank == 0:
        flat = _scatter_elements(
            c, c.e.reshape(x, (1,)), 0, c.e.reshape(index, (1,)), c.e.reshape(updates, (1,)), reduction
        )
        return c.e.reshape(flat, ())
    if index.type.rank == 0:
        index, updates = c.e.reshape(index, (1,)), c.e.reshape(updates, (1,))
    for axis, n in enumerate(index.type.shape):
        updates = c.e.slice(updates, axis, 0, n)
    return c(ScatterElements(c.axis(dim, x.type.rank), reduction), x, index, c.value(updates, x.type.dtype))


@aten("scatter.src", "scatter.value", "scatter.reduce", "scatter.value_reduce")
def _scatter(c: Context, x: Value, dim: int, index: Value, src: Operand, *, reduce: str = "none") -> Value:
    if not isinstance(src, Value):
        src = c.e.full(index.type.shape, src, x.type.dtype)
    return _scatter_elements(c, x, dim, index, src, _REDUCTIONS.get(reduce, "none"))


@aten("scatter_add")
def _scatter_add(c: Context, x: Value, dim: int, index: Value, src: Value) -> Value:
    return _scatter_elements(c, x, dim, index, src, "add")


@aten("scatter_reduce.two")
def _scatter_reduce(
    c: Context, x: Value, dim: int, index: Value, src: Value, reduce: str, *, include_self: bool = True
) -> Value:
    if index.type.size == 0:
        return x
    mean = reduce == "mean"
    reduction = "add" if mean else _REDUCTIONS[reduce]
    start = x
    if not include_self:
        # Places that an update reaches start from the reduction's neutral element instead of x.
        neutral = {"add": 0.0, "mul": 1.0, "max": _extreme(x, lowest=True), "min": _extreme(x, lowest=False)}
        fill = c.e.full(index.type.shape, neutral[reduction], x.type.dtype)
        start = _scatter_elements(c, x, dim, index, fill, "none")
    result = _scatter_elements(c, start, dim, index, src, reduction)
    if not mean:
        return result
    ones = c.e.full(x.type.shape, 1 if include_self else 0, x.type.dtype)
    more = c.e.full(index.type.shape, 1, x.type.dtype)
    count = c.e.max(_scatter_elements(c, ones, dim, index, more, "add"), 1)
    if x.type.dtype.is_float:
        return c.e.div(result, count)
    return floor_divide(c, result, count)


def _extreme(x: Value, *, lowest: bool) -> float:
    dtype = x.type.dtype
    if dtype.is_float:
        return float("-inf") if lowest else float("inf")
    return dtype.range[0 if lowest else 1]


@aten("index_add")
def _index_add(c: Context, x: Value, dim: int, index: Value, source: Value, *, alpha: float = 1) -> Value:
    source = source if alpha == 1 else c.e.mul(source, alpha)
    return _along(c, x, dim, index, source, "add")


@aten("index_copy")
def _index_copy(c: Context, x: Value, dim: int, index: Value, source: Value) -> Value:
    return _along(c, x, dim, index, source, "none")


@aten("index_fill.int_Scalar", "index_fill.int_Tensor")
def _index_fill(c: Context, x: Value, dim: int, index: Value, value: Operand) -> Value:
    axis = c.axis(dim, x.type.rank)
    shape = list(x.type.shape) or [1]
    shape[axis] = max(index.type.size, 0)
    return _along(c, x, dim, index, c.e.broadcast(c.value(value, x.type.dtype), shape), "none")


@aten("index_reduce")
def _index_reduce(
    c: Context, x: Value, dim: int, index: Value, source: Value, reduce: str, *, include_self: bool = True
) -> Value:
    if x.type.rank == 0:
        index, source = c.e.reshape(index, ()), c.e.reshape(source, ())
        return _scatter_reduce(c, x, 0, index, source, reduce, include_self=include_self)
    positions = _spread(c, index, c.axis(dim, x.type.rank), source.type.shape)
    return _scatter_reduce(c, x, dim, positions, source, reduce, include_self=include_self)


def _along(c: Context, x: Value, dim: int, index: Value, source: Value, reduction: str) -> Value:
    """x with slices along `dim` set to, or increased by, those of `source`."""
    shape = x.type.shape
    if not shape:
        x, source = c.e.reshape(x, (1,)), c.e.reshape(source, (1,))
    axis = c.axis(dim, x.type.rank)
    if source.type.rank == 0:
        source = c.e.reshape(source, (1,) * x.type.rank)
    if source.type.size == 0:
        return c.e.reshape(x, shape)
    positions = _spread(c, index, axis, source.type.shape)
    result = c(ScatterElements(axis, reduction), x, positions, c.value(source, x.type.dtype))
    return c.e.reshape(result, shape)


def _spread(c: Context, index: Value, axis: int, shape: Sequence[int]) -> Value:
    """A vector of positions along an axis, for every element of `shape`."""
    view = [1] * len(shape)
    view[axis] = index.type.size
    return c.e.broadcast(c.e.reshape(index, view), shape)


@aten("masked_scatter")
def _masked_scatter(c: Context, x: Value, mask: Value, source: Value) -> Value:
    """The n-th place that the mask selects takes the n-th element of `source`."""
    e = c.e
    mask = e.broadcast(mask, c.shape)
    x = e.broadcast(x, c.shape)
    flat = e.cast(e.reshape(mask, (mask.type.size,)), DType.i64)
    nth = e.max(e.sub(c(CumSum(0), flat), 1), 0)
    nth = e.min(nth, max(source.type.size - 1, 0))
    picked = c(Gather(0), e.reshape(source, (source.type.size,)), nth)
    return c(ew.Where(), mask, e.reshape(picked, c.shape), x)


@aten("put")
def _put(c: Context, x: Value, index: Value, source: Value, accumulate: bool = False) -> Value:
    if index.type.size == 0:
        return x
    flat = c.e.reshape(x, (x.type.size,))
    index, source = c.e.reshape(index, (index.type.size,)), c.e.reshape(source, (source.type.size,))
    result = c(ScatterElements(0, "add" if accumulate else "none"), flat, index, source)
    return c.e.reshape(result, x.type.shape)


@aten("searchsorted.Tensor", "searchsorted.Scalar", "bucketize.Tensor", "bucketize.Scalar")
def _searchsorted(
    c: Context,
    first: Value,
    second: Operand,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value | None = None,
) -> Value:
    """How many boundaries lie below (or not above) each value: comparisons with all of them, added up."""
    e = c.e
    bucketize = "bucketize" in str(c.node.target)
    boundaries, values = (second, first) if bucketize else (first, second)
    if sorter is not None:
        assert isinstance(boundaries, Value)
        boundaries = c(GatherElements(boundaries.type.rank - 1), boundaries, sorter)
    dtype = promoted(boundaries, values)
    edges, v = c.value(boundaries, dtype), c.value(values, dtype)
    n = edges.type.shape[-1]
    lead = edges.type.shape[:-1]
    edges = e.reshape(edges, (*lead, 1, n) if lead else (n,))
    v = e.reshape(v, (*v.type.shape, 1))
    past = c(ew.LessEqual(), edges, v) if right or side == "right" else c(ew.Less(), edges, v)
    return e.reshape(c(ReduceSum((past.type.rank - 1,)), e.cast(past, c.dtype)), c.shape)
