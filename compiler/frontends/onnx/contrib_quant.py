"""The operators of onnxruntime (domain com.microsoft) that its quantizer writes.

Source: docs/ContribOperators.md of onnxruntime. Those with fixed scales are defined as the float operator
between dequantize and quantize, which the pass `lower_quantization` turns into integer ops.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hardy.compiler.frontends.onnx import activation, pool, recurrent
from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.frontends.onnx.quant import IMPORTERS as QUANT
from hardy.compiler.frontends.onnx.quant import dynamic_quantize, integer_matmul, per_tensor
from hardy.compiler.ir import Value
from hardy.compiler.ops import activation as act
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.quant import Dequantize, Quantize
from hardy.compiler.types import DType


def _real(ctx: Context, index: int) -> Value:
    """The real numbers that operand, scale and zero point stand for, from `index` on."""
    parameters = [per_tensor(ctx, ctx[i]) for i in (index + 1, index + 2) if ctx.has(i)]
    return ctx(Dequantize(), ctx[index], *parameters)


def _quantized(ctx: Context, y: Value, index: int, dtype: DType) -> Value:
    """`y` under the scale and zero point at `index`."""
    zero = [per_tensor(ctx, ctx[index + 1])] if ctx.has(index + 1) else []
    return ctx(Quantize(dtype), y, per_tensor(ctx, ctx[index]), *zero)


def _binary(combine: Callable[[Context, Value, Value], Value]) -> Importer:
    def importer(ctx: Context) -> Value:
        return _quantized(ctx, combine(ctx, _real(ctx, 0), _real(ctx, 3)), 6, ctx[0].type.dtype)

    return importer


def _unary(apply: Callable[[Context, Value], Value]) -> Importer:
    def importer(ctx: Context) -> Value:
        return _quantized(ctx, apply(ctx, _real(ctx, 0)), 3, ctx[0].type.dtype)

    return importer


def _of(ctx: Context, *inputs: Item | None) -> Context:
    """The node with other operands, for the importer of its float operator."""
    return dataclasses.replace(ctx, inputs=list(inputs))


def _global_average(ctx: Context, x: Value) -> Value:
    if ctx.integer("channels_last", 0):
        return ctx(ReduceMean(tuple(range(1, x.type.rank - 1)), True), x)
    return ctx(ReduceMean(tuple(range(2, x.type.rank)), True), x)


def _average_pool(ctx: Context, x: Value) -> Value:
    rank = x.type.rank
    if not ctx.integer("channels_last", 0):
        return pool.average_pool(_of(ctx, x))
    y = pool.average_pool(_of(ctx, ctx.e.transpose(x, (0, rank - 1, *range(1, rank - 1)))))
    return ctx.e.transpose(y, (0, *range(2, rank), 1))


def _softmax(ctx: Context, x: Value) -> Value:
    """`opset` says which operator set's softmax is meant: older ones flatten the axes from `axis` on."""
    return activation.softmax(dataclasses.replace(_of(ctx, x), opset=ctx.integer("opset")))


def _concat(ctx: Context) -> Value:
    """Scale and zero point of the result, then tensor, scale and zero point of each part."""
    parts = [_real(ctx, i) for i in range(2, len(ctx.inputs), 3)]
    y = ctx.e.concat(parts, ctx.axis(ctx.integer("axis"), parts[0].type.rank))
    return _quantized(ctx, y, 0, ctx[2].type.dtype)


def _where(ctx: Context) -> Value:
    y = ctx.e.where(ctx[0], _real(ctx, 1), _real(ctx, 4))
    return _quantized(ctx, y, 7, ctx[1].type.dtype)


def _gemm(ctx: Context) -> Value:
    """alpha A' B' + C, where C counts in units of alpha a_scale b_scale; quantized if y_scale is given.

    B may have a scale and a zero point for each column of the result.
    """
    e = ctx.e
    transposes = bool(ctx.integer("transA", 0)), bool(ctx.integer("transB", 0))
    axis = 0 if transposes[1] else 1
    scale, zero = per_tensor(ctx, ctx[4]), per_tensor(ctx, ctx[5])
    y = ctx(Matmul(*transposes), _real(ctx, 0), ctx(Dequantize(axis), ctx[3], scale, zero))
    alpha = ctx.real("alpha", 1.0)
    y = y if alpha == 1 else e.mul(y, alpha)
    if ctx.has(6):
        unit = e.mul(e.mul(per_tensor(ctx, ctx[1]), scale), alpha)
        y = e.add(y, e.mul(e.cast(ctx[6], DType.f32), unit))
    return _quantized(ctx, y, 7, ctx[8].type.dtype) if ctx.has(7) else y


def _matmul_integer_to_float(ctx: Context) -> Value:
    """(A - a_zero) (B - b_zero) a_scale b_scale + bias."""
    e = ctx.e
    total = integer_matmul(ctx, ctx[0], ctx[1], ctx.optional(4), ctx.optional(5))
    scale = e.mul(per_tensor(ctx, ctx[2]), per_tensor(ctx, ctx[3]))
    y = e.mul(e.cast(total, DType.f32), scale)
    return e.add(y, ctx[6]) if ctx.has(6) else y


def _dynamic_matmul(ctx: Context) -> Value:
    """A is quantized by its own range; operands: A, B, b_scale, b_zero, bias."""
    q, scale, zero = dynamic_quantize(ctx, ctx[0])
    inputs = (q, ctx[1], scale, ctx[2], zero, ctx.optional(3), ctx.optional(4))
    return _matmul_integer_to_float(_of(ctx, *inputs))


def _dynamic_lstm(ctx: Context) -> list[Item | None]:
    """An LSTM with packed weights [directions, inputs, 4 hidden], scaled per direction or also per column.

    The weights are unpacked; x and the state stay floats, which onnxruntime rounds to 8 bits at every step.
    """
    weight, recurrence = (ctx.e.transpose(_unpacked(ctx, i, at), (0, 2, 1)) for i, at in ((1, 8), (2, 10)))
    rest = [ctx.item(i) for i in range(3, 8)]
    return recurrent.lstm(_of(ctx, ctx[0], weight, recurrence, *rest))


def _unpacked(ctx: Context, index: int, parameters: int) -> Value:
    """Weights [directions, ...] with a scale and zero point for each direction, or each of its columns."""
    e, q = ctx.e, ctx[index]
    directions, _, columns = q.type.shape
    scale, zero = ctx[parameters], ctx[parameters + 1]
    shape = (directions, 1, scale.type.size // directions)
    if shape[2] not in (1, columns):
        ctx.fail(f"a scale {scale.type} for weights {q.type}")
    centred = e.sub(e.cast(q, DType.i32), e.cast(e.reshape(zero, shape), DType.i32))
    return e.mul(e.cast(centred, DType.f32), e.reshape(scale, shape))


IMPORTERS: dict[str, Importer] = {
    "DequantizeLinear": QUANT["DequantizeLinear"],
    "DynamicQuantizeLSTM": _dynamic_lstm,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulIntegerToFloat": _matmul_integer_to_float,
    "QGemm": _gemm,
    "QLinearAdd": _binary(lambda ctx, x, y: ctx.e.add(x, y)),
    "QLinearAveragePool": _unary(_average_pool),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _unary(_global_average),
    "QLinearLeakyRelu": _unary(lambda ctx, x: ctx(act.LeakyRelu(ctx.real("alpha", 0.01)), x)),
    "QLinearMul": _binary(lambda ctx, x, y: ctx.e.mul(x, y)),
    "QLinearSigmoid": _unary(lambda ctx, x: ctx(act.Sigmoid(), x)),
    "QLinearSoftmax": _unary(_softmax),
    "QLinearWhere": _where,
    "QuantizeLinear": QUANT["QuantizeLinear"],
}
