"""Matrix products."""

from __future__ import annotations

from hardy.compiler.frontends.torch.context import Context, aten
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
