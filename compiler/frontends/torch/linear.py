"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence

from hardy.compiler.frontends.torch.context import Context, aten
from hardy.compiler.frontends.torch.reduce import vector_norm
from hardy.compiler.ir import Value
from hardy.compiler.ops.linear import Matmul, is_arithmetic
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.types import DType


def product(c: Context, a: Value, b: Value, transpose_b: bool = False) -> Value:
    """A matrix product in the result's type; narrow integers multiply as i32, which wraps alike."""
    dtype = c.dtype if is_arithmetic(c.dtype) else DType.i32
    y = c(Matmul(transpose_b=transpose_b), c.value(a, dtype), c.value(b, dtype))
    return c.value(y, c.dtype)


def _plus(c: Context, y: Value, term: Value, alpha: float, beta: float) -> Value:
    """beta term + alpha y; a beta of zero ignores the term, even NaN in it."""
    y = y if alpha == 1 else c.e.mul(y, alpha)
    if beta == 0:
        return y
    term = c.value(term, c.dtype)
    return c.e.add(y, term if beta == 1 else c.e.mul(term, beta))


@aten("mm", "bmm")
def _mm(c: Context, a: Value, b: Value) -> Value:
    return product(c, a, b)


@aten("matmul")
def matmul(c: Context, a: Value, b: Value) -> Value:
    """A vector counts as a row on the left and as a column on the right."""
    if a.type.rank == 1:
        a = c.e.reshape(a, (1, a.type.size))
    if b.type.rank == 1:
        b = c.e.reshape(b, (b.type.size, 1))
    return c.e.reshape(product(c, a, b), c.shape)


@aten("mv", "dot", "vdot")
def _mv(c: Context, a: Value, b: Value) -> Value:
    return matmul(c, a, b)


@aten("linear")
def _linear(c: Context, x: Value, weight: Value, bias: Value | None = None) -> Value:
    if weight.type.rank == 1:
        y = matmul(c, x, weight)
    elif x.type.rank == 1:
        y = c.e.reshape(product(c, c.e.reshape(x, (1, x.type.size)), weight, True), c.shape)
    else:
        y = product(c, x, weight, True)
    return y if bias is None else c.e.add(y, bias)


@aten("addmm", "addmv", "baddbmm")
def _addmm(c: Context, term: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    return _plus(c, matmul(c, a, b), term, alpha, beta)


@aten("addbmm")
def _addbmm(c: Context, term: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    return _plus(c, c(ReduceSum((0,)), product(c, a, b)), term, alpha, beta)


@aten("addr")
def _addr(c: Context, term: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    column = c.e.reshape(c.value(a, c.dtype), (a.type.size, 1))
    return _plus(c, c.e.mul(column, c.value(b, c.dtype)), term, alpha, beta)


@aten("_trilinear")
def _trilinear(
    c: Context,
    x: Value,
    y: Value,
    z: Value,
    expand_x: Sequence[int],
    expand_y: Sequence[int],
    expand_z: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> Value:
    """The sum of x y z over some axes, each operand first given axes of size one."""
    rank = x.type.rank + len(expand_x)
    wide = []
    for v, new in ((x, expand_x), (y, expand_y), (z, expand_z)):
        sizes = iter(v.type.shape)
        shape = [1 if axis in new else next(sizes) for axis in range(rank)]
        wide.append(c.e.reshape(v, shape))
    total = c.e.mul(c.e.mul(wide[0], wide[2]), wide[1])
    return c(ReduceSum(tuple(sorted(sumdim))), total) if sumdim else total


@aten("_cdist_forward", "cdist")
def _cdist(c: Context, x: Value, y: Value, p: float = 2, compute_mode: int | None = None) -> Value:
    """The p-norm of each row of x minus each row of y."""
    e = c.e
    if 0 in c.shape or x.type.shape[-1] == 0:
        return e.full(c.shape, 0, c.dtype)
    rows = e.reshape(x, (*x.type.shape[:-1], 1, x.type.shape[-1]))
    columns = e.reshape(y, (*y.type.shape[:-2], 1, *y.type.shape[-2:]))
    return vector_norm(c, e.sub(rows, columns), p, -1)
