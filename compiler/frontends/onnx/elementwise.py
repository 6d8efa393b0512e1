"""Elementwise arithmetic, comparison, logic and casts."""

from __future__ import annotations

import math

import torch

from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.ir import Op, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops import elementwise as ew
from hardy.compiler.ops import transcendental as tr
from hardy.compiler.ops.activation import Clamp, Mod
from hardy.compiler.types import DType, broadcast_shapes


def _unary(op: Op) -> Importer:
    return lambda ctx: ctx(op, ctx[0])


def _operands(ctx: Context) -> tuple[Value, Value]:
    """Two operands; before operator set 7 `broadcast` laid the second along `axis` of the first."""
    x, y = ctx[0], ctx[1]
    if ctx.opset < 7 and ctx.integer("broadcast", 0) and y.type.rank:
        axis = ctx.axis(ctx.integer("axis", x.type.rank - y.type.rank), x.type.rank)
        y = ctx.e.reshape(y, (*y.type.shape, *[1] * (x.type.rank - axis - y.type.rank)))
    return x, y


def _binary(op: Op) -> Importer:
    return lambda ctx: ctx(op, *_operands(ctx))


def _fold(op: Op) -> Importer:
    """Any number of operands, combined from the left."""

    def importer(ctx: Context) -> Value:
        result, *rest = ctx.tensors()
        for x in rest:
            result = ctx(op, result, x)
        return result

    return importer


def _greater(ctx: Context) -> Value:
    x, y = _operands(ctx)
    return ctx.e.less(y, x)


def _greater_or_equal(ctx: Context) -> Value:
    return ctx.e.less_equal(ctx[1], ctx[0])


def _mean(ctx: Context) -> Value:
    return ctx.e.div(_as_value(_fold(ew.Add())(ctx)), len(ctx.inputs))


def _as_value(item: object) -> Value:
    if not isinstance(item, Value):
        raise TypeError("an elementwise importer gives one tensor")
    return item


def _reciprocal(ctx: Context) -> Value:
    return ctx.e.div(1.0, ctx[0])


def _pow(ctx: Context) -> Value:
    x, y = _operands(ctx)
    dtype = x.type.dtype
    if y.type.dtype is dtype:
        return ctx(ew.Pow(), x, y)
    if dtype.is_float:
        return ctx(ew.Pow(), x, ctx.e.cast(y, dtype))
    # An integer base with another exponent: computed where neither loses anything, then cut.
    common = DType.f64 if y.type.dtype.is_float else DType.i64
    return ctx.e.cast(ctx(ew.Pow(), ctx.e.cast(x, common), ctx.e.cast(y, common)), dtype)


def _mod(ctx: Context) -> Value:
    op = ew.Rem() if ctx.integer("fmod", 0) else Mod()
    return ctx(op, ctx[0], ctx[1])


def _bit_shift(ctx: Context) -> Value:
    direction = ctx.text("direction")
    if direction not in ("LEFT", "RIGHT"):
        ctx.fail(f"direction must be LEFT or RIGHT, got {direction!r}")
    x, amount, e = ctx[0], ctx[1], ctx.e
    shift = ew.ShiftLeft() if direction == "LEFT" else ew.ShiftRight()
    dtype, width = x.type.dtype, x.type.dtype.bits
    known = ctx.known(1)
    if known is not None and bool(((known.tensor >= 0) & (known.tensor < width)).all()):
        return ctx(shift, x, amount)
    # Outside the width only copies of the sign bit are left; the shift itself must stay inside.
    beyond = e.less_equal(width, amount)
    if dtype.range[0] < 0:
        beyond = ctx(ew.Or(), beyond, e.less(amount, 0))
    inside = ctx(shift, x, e.where(beyond, 0, amount))
    sign = e.where(e.less(x, 0), -1, e.scalar(0, dtype)) if direction == "RIGHT" and dtype.range[0] < 0 else 0
    return e.where(beyond, sign, inside)


def _is_inf(ctx: Context) -> Value:
    x, e = ctx[0], ctx.e
    if x.type.dtype is DType.f8e4m3:
        return e.full(x.type.shape, False, DType.boolean)
    found = []
    if ctx.integer("detect_positive", 1):
        found.append(e.equal(x, math.inf))
    if ctx.integer("detect_negative", 1):
        found.append(e.equal(x, -math.inf))
    if not found:
        return e.full(x.type.shape, False, DType.boolean)
    return found[0] if len(found) == 1 else ctx(ew.Or(), *found)


def _where(ctx: Context) -> Value:
    return ctx(ew.Where(), ctx[0], ctx[1], ctx[2])


def _cast_to(ctx: Context, dtype: DType) -> Value:
    x = ctx[0]
    saturate = dtype in (DType.f8e4m3, DType.f8e5m2) and bool(ctx.integer("saturate", 1))
    if x.type.dtype is dtype:
        return x
    if dtype in (DType.i4, DType.u4) and x.type.dtype.is_float:
        x = ctx(
            ew.Round(), x if x.type.dtype not in (DType.f8e4m3, DType.f8e5m2) else ctx.e.cast(x, DType.f32)
        )
    return ctx(ew.Cast(dtype, saturate), x)


def _cast(ctx: Context) -> Value:
    return _cast_to(ctx, ctx.dtype("to"))


def _cast_like(ctx: Context) -> Value:
    return _cast_to(ctx, ctx[1].type.dtype)


def _bit_cast(ctx: Context) -> Value:
    x, dtype = ctx[0], ctx.dtype("to")
    if x.type.dtype.bits != dtype.bits:
        ctx.fail(f"cannot view {x.type} as {dtype}: the sizes differ")
    if x.type.dtype is dtype:
        return x
    literal = ctx.e.known(x)
    if literal is None:
        ctx.unsupported("reinterpreting the bits of a tensor", hint="bind it to a constant")
    return ctx.e.constant(Literal(literal.tensor.view(dtype.torch), dtype))


def _clip(ctx: Context) -> Value:
    x, e = ctx[0], ctx.e
    if ctx.opset < 11:
        limits = torch.finfo(torch.float32)
        return ctx(Clamp(ctx.real("min", limits.min), ctx.real("max", limits.max)), x)
    low, high = (None if not ctx.has(i) else ctx.known(i) for i in (1, 2))
    if low is not None and high is not None:
        return ctx(Clamp(low.item(), high.item()), x)
    if ctx.has(1):
        x = e.max(x, e.reshape(ctx[1], ()))
    if ctx.has(2):
        x = e.min(x, e.reshape(ctx[2], ()))
    return x


def _prelu(ctx: Context) -> Value:
    x, slope = ctx[0], ctx[1]
    if ctx.opset < 7 and slope.type.rank == 1 and slope.type.size > 1:
        slope = ctx.e.reshape(slope, (slope.type.size, *[1] * (x.type.rank - 2)))
    if broadcast_shapes(x.type.shape, slope.type.shape) != x.type.shape:
        ctx.fail(f"slope {slope.type} does not broadcast to {x.type}")
    return ctx.e.where(ctx.e.less(x, 0), ctx.e.mul(x, slope), x)


def _identity(ctx: Context) -> list[Item | None]:
    return [ctx.item(0)]


def _dropout(ctx: Context) -> list[Value | None]:
    """Nothing is dropped at inference; dropping at random is refused."""
    x, e = ctx[0], ctx.e
    training = ctx.opset >= 12 and ctx.has(2) and bool(ctx.constant_int(2, "training_mode"))
    training = training or (ctx.opset < 7 and not ctx.integer("is_test", 0) and "is_test" in ctx.attributes)
    if training and (ctx.constant_float(1, "ratio") if ctx.has(1) else 0.5):
        ctx.unsupported("Dropout in training mode is random", hint="export the model in inference mode")
    mask = None
    if ctx.wants(1):
        mask = (
            e.full(x.type.shape, True, DType.boolean)
            if ctx.opset >= 10
            else e.full(x.type.shape, 1, x.type.dtype)
        )
    return [x, mask]


def _random(ctx: Context) -> Value:
    ctx.unsupported(
        f"{ctx.node.op_type} is random: no two runs or targets would agree", hint="make its result an input"
    )


IMPORTERS: dict[str, Importer] = {
    **{
        name: _unary(op)
        for name, op in {
            "Abs": ew.Abs(),
            "Acos": tr.Acos(),
            "Acosh": tr.Acosh(),
            "Asin": tr.Asin(),
            "Asinh": tr.Asinh(),
            "Atan": tr.Atan(),
            "Atanh": tr.Atanh(),
            "BitwiseNot": ew.Not(),
            "Ceil": ew.Ceil(),
            "Cos": tr.Cos(),
            "Cosh": tr.Cosh(),
            "Erf": tr.Erf(),
            "Exp": tr.Exp(),
            "Floor": ew.Floor(),
            "IsNaN": ew.IsNan(),
            "Log": tr.Log(),
            "Neg": ew.Neg(),
            "Not": ew.Not(),
            "Round": ew.Round(),
            "Sign": ew.Sign(),
            "Sin": tr.Sin(),
            "Sinh": tr.Sinh(),
            "Sqrt": ew.Sqrt(),
            "Tan": tr.Tan(),
            "Tanh": tr.Tanh(),
        }.items()
    },
    **{
        name: _binary(op)
        for name, op in {
            "Add": ew.Add(),
            "And": ew.And(),
            "BitwiseAnd": ew.And(),
            "BitwiseOr": ew.Or(),
            "BitwiseXor": ew.Xor(),
            "Div": ew.Div(),
            "Equal": ew.Equal(),
            "Less": ew.Less(),
            "LessOrEqual": ew.LessEqual(),
            "Mul": ew.Mul(),
            "Or": ew.Or(),
            "Sub": ew.Sub(),
            "Xor": ew.Xor(),
        }.items()
    },
    "Bernoulli": _random,
    "BitCast": _bit_cast,
    "BitShift": _bit_shift,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Dropout": _dropout,
    "Greater": _greater,
    "GreaterOrEqual": _greater_or_equal,
    "Identity": _identity,
    "IsInf": _is_inf,
    "Max": _fold(ew.Max()),
    "Mean": _mean,
    "Min": _fold(ew.Min()),
    "Mod": _mod,
    "Multinomial": _random,
    "PRelu": _prelu,
    "Pow": _pow,
    "RandomNormal": _random,
    "RandomNormalLike": _random,
    "RandomUniform": _random,
    "RandomUniformLike": _random,
    "Reciprocal": _reciprocal,
    "Sum": _fold(ew.Add()),
    "Where": _where,
}
