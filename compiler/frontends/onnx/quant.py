"""Models that are quantized already."""

from __future__ import annotations

from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.frontends.onnx.conv import cropped, window
from hardy.compiler.ir import Value
from hardy.compiler.ops.activation import Clamp
from hardy.compiler.ops.dynamic import DynamicQuantize
from hardy.compiler.ops.elementwise import Round
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.quant import (
    Dequantize,
    IntegerConv,
    IntegerMatmul,
    Quantize,
    Requantize,
)
from hardy.compiler.types import DType, TensorType


def _parameter(ctx: Context, value: Value, x: TensorType, axis: int, block: int) -> Value:
    """A scale or zero point; one element is per tensor, whatever its rank."""
    return ctx.e.reshape(value, ()) if value.type.size == 1 and not block else value


def _axis(ctx: Context, x: TensorType, scale: Value) -> int:
    return ctx.axis(ctx.integer("axis", 1), x.rank) if scale.type.size > 1 or scale.type.rank > 1 else 0


def _quantize_linear(ctx: Context) -> Value:
    x, e = ctx[0], ctx.e
    if not x.type.dtype.is_float:
        x = e.cast(x, DType.f32)
    axis, block = _axis(ctx, x.type, ctx[1]), ctx.integer("block_size", 0)
    scale = _parameter(ctx, ctx[1], x.type, axis, block)
    zero = _parameter(ctx, ctx[2], x.type, axis, block) if ctx.has(2) else None
    dtype = DType.u8
    if "output_dtype" in ctx.attributes and ctx.integer("output_dtype"):
        dtype = ctx.dtype("output_dtype")
    if zero is not None:
        dtype = zero.type.dtype
    if dtype.is_float:
        if not ctx.integer("saturate", 1):
            ctx.unsupported("QuantizeLinear to an 8-bit float without saturation")
        zero = None
    return ctx(Quantize(dtype, axis, block), x, scale, *([] if zero is None else [zero]))


def _dequantize_linear(ctx: Context) -> Value:
    x = ctx[0]
    axis, block = _axis(ctx, x.type, ctx[1]), ctx.integer("block_size", 0)
    operands = [_parameter(ctx, ctx[i], x.type, axis, block) for i in (1, 2) if ctx.has(i)]
    y = ctx(Dequantize(axis, block), x, *operands)
    if "output_dtype" in ctx.attributes and ctx.integer("output_dtype"):
        return ctx.e.cast(y, ctx.dtype("output_dtype"))
    return y


def per_tensor(ctx: Context, value: Value) -> Value:
    """A per-tensor parameter as a scalar."""
    return ctx.e.reshape(value, ()) if value.type.size == 1 else value


def _conv_integer(ctx: Context) -> Value:
    return _integer_conv(ctx, ctx[0], ctx[1], ctx.optional(2), ctx.optional(3))


def _integer_conv(ctx: Context, x: Value, weight: Value, x_zero: Value | None, w_zero: Value | None) -> Value:
    w = window(ctx, x.type.shape[2:], weight.type.shape[2:])
    x, padding = cropped(ctx, x, w.padding)
    zeros = _zeros(ctx, x, weight, x_zero, w_zero)
    return ctx(IntegerConv(w.strides, padding, w.dilations, ctx.integer("group", 1)), x, weight, *zeros)


def _zeros(ctx: Context, x: Value, y: Value, x_zero: Value | None, y_zero: Value | None) -> list[Value]:
    """The zero points as trailing operands; those that are left out in the middle become 0."""
    if y_zero is not None and x_zero is None:
        x_zero = ctx.e.scalar(0, x.type.dtype)
    return [per_tensor(ctx, z) for z in (x_zero, y_zero) if z is not None]


def _qlinear_conv(ctx: Context) -> Value:
    e = ctx.e
    total = _integer_conv(ctx, ctx[0], ctx[3], ctx[2], ctx[5])
    if ctx.has(8):
        shape = (ctx[8].type.shape[0], *[1] * (total.type.rank - 2))
        total = e.add(total, e.reshape(ctx[8], shape))
    scale = e.div(e.mul(per_tensor(ctx, ctx[1]), per_tensor(ctx, ctx[4])), per_tensor(ctx, ctx[6]))
    return ctx(Requantize(ctx[7].type.dtype, axis=1), total, scale, per_tensor(ctx, ctx[7]))


def integer_matmul(ctx: Context, a: Value, b: Value, a_zero: Value | None, b_zero: Value | None) -> Value:
    e = ctx.e
    if a.type.rank == 1 or b.type.rank == 1:
        ctx.unsupported("an integer matrix product of vectors", hint="give them two axes")
    zeros = _zeros(ctx, a, b, a_zero, b_zero)
    if any(z.type.rank > 1 for z in zeros):
        # One zero point for each row or column of every matrix: centred before the product.
        wide = [e.cast(v, DType.i32) for v in (a, b)]
        wide = [e.sub(v, e.cast(z, DType.i32)) for v, z in zip(wide, zeros, strict=False)] + wide[
            len(zeros) :
        ]
        return ctx(Matmul(), *wide)
    return ctx(IntegerMatmul(), a, b, *zeros)


def _matmul_integer(ctx: Context) -> Value:
    return integer_matmul(ctx, ctx[0], ctx[1], ctx.optional(2), ctx.optional(3))


def _qlinear_matmul(ctx: Context) -> Value:
    e = ctx.e
    total = integer_matmul(ctx, ctx[0], ctx[3], ctx[2], ctx[5])
    scales = [e.cast(per_tensor(ctx, ctx[i]), DType.f32) for i in (1, 4, 6)]
    zero = per_tensor(ctx, ctx[7])
    if not scales[0].type.rank and scales[1].type.rank < 2 and not scales[2].type.rank and not zero.type.rank:
        scale = e.div(e.mul(scales[0], scales[1]), scales[2])
        return ctx(Requantize(zero.type.dtype, axis=total.type.rank - 1), total, scale, zero)
    # One scale for each row of A and of the result, and for each column of B.
    left, right, result = _rows(ctx, scales[0]), scales[1], _rows(ctx, scales[2])
    q = ctx(Round(), e.mul(e.cast(total, DType.f32), e.div(e.mul(left, right), result)))
    q = e.add(q, e.cast(_rows(ctx, zero), DType.f32))
    return e.cast(ctx(Clamp(*zero.type.dtype.range), q), zero.type.dtype)


def _rows(ctx: Context, parameter: Value) -> Value:
    """A parameter with one entry a row, as a column."""
    return ctx.e.reshape(parameter, (parameter.type.size, 1)) if parameter.type.rank == 1 else parameter


def dynamic_quantize(ctx: Context, x: Value) -> tuple[Value, Value, Value]:
    """x as u8 by its own range, with the scale and zero point."""
    q, scale, zero = ctx.multi(DynamicQuantize(DType.u8), x)
    return q, scale, zero


def _dynamic_quantize_linear(ctx: Context) -> list[Item | None]:
    return list(dynamic_quantize(ctx, ctx[0]))


IMPORTERS: dict[str, Importer] = {
    "ConvInteger": _conv_integer,
    "DequantizeLinear": _dequantize_linear,
    "DynamicQuantizeLinear": _dynamic_quantize_linear,
    "MatMulInteger": _matmul_integer,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "QuantizeLinear": _quantize_linear,
}
