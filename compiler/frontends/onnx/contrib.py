"""The operators of onnxruntime (domain com.microsoft) that its optimizer and quantizer write most.

Source: docs/ContribOperators.md of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable

from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.frontends.onnx.linear import matmul
from hardy.compiler.frontends.onnx.quant import IMPORTERS as QUANT
from hardy.compiler.frontends.onnx.quant import integer_matmul, per_tensor
from hardy.compiler.ir import Value
from hardy.compiler.ops import activation as act
from hardy.compiler.ops.norm import LayerNorm, ReduceMean, RmsNorm
from hardy.compiler.ops.quant import Dequantize, Quantize
from hardy.compiler.types import DType


def _gelu(ctx: Context) -> Value:
    """Gelu and, with a second operand, BiasGelu."""
    x = ctx.e.add(ctx[0], ctx[1]) if ctx.has(1) else ctx[0]
    return ctx(act.Gelu(), x)


def _fast_gelu(ctx: Context) -> Value:
    x = ctx.e.add(ctx[0], ctx[1]) if ctx.has(1) else ctx[0]
    return ctx(act.Gelu("tanh"), x)


def _quick_gelu(ctx: Context) -> Value:
    x = ctx[0]
    return ctx.e.mul(x, ctx(act.Sigmoid(), ctx.e.mul(x, ctx.real("alpha", 1.702))))


def _fused_matmul(ctx: Context) -> Value:
    """alpha A' B'; the operands may also have their batch axis moved behind the rows."""
    if ctx.integer("transBatchA", 0) or ctx.integer("transBatchB", 0):
        ctx.unsupported(
            "FusedMatMul with transposed batch axes", hint="export without onnxruntime's optimizations"
        )
    a, b = (
        ctx.e.transpose(v, (*range(v.type.rank - 2), v.type.rank - 1, v.type.rank - 2))
        if ctx.integer(name, 0) and v.type.rank > 1
        else v
        for v, name in ((ctx[0], "transA"), (ctx[1], "transB"))
    )
    y = matmul(ctx, a, b)
    alpha = ctx.real("alpha", 1.0)
    return y if alpha == 1 else ctx.e.mul(y, alpha)


def _skip_layer_norm(ctx: Context) -> list[Item | None]:
    """The norm of x + skip + bias, and that sum."""
    e = ctx.e
    total = e.add(ctx[0], ctx[1])
    total = e.add(total, ctx[4]) if ctx.has(4) else total
    _no_statistics(ctx)
    op = LayerNorm(total.type.rank - 1, ctx.real("epsilon", 1e-12))
    return [ctx(op, total, *[ctx[i] for i in (2, 3) if ctx.has(i)]), None, None, total]


def _skip_rms_norm(ctx: Context) -> list[Item | None]:
    e = ctx.e
    total = e.add(ctx[0], ctx[1])
    total = e.add(total, ctx[3]) if ctx.has(3) else total
    _no_statistics(ctx)
    return [ctx(RmsNorm(total.type.rank - 1, ctx.real("epsilon", 1e-12)), total, ctx[2]), None, None, total]


def _no_statistics(ctx: Context) -> None:
    if ctx.wants(1) or ctx.wants(2):
        ctx.unsupported(f"the mean and deviation that {ctx.node.op_type} gives for training")


def _rms_norm(ctx: Context) -> Value:
    """SimplifiedLayerNormalization, which onnxruntime puts into the standard's own domain."""
    x = ctx[0]
    return ctx(RmsNorm(ctx.axis(ctx.integer("axis", -1), x.type.rank), ctx.real("epsilon", 1e-5)), x, ctx[1])


# Quantized operators: defined as the float operator between dequantize and quantize.


def _real(ctx: Context, index: int) -> Value:
    """The real numbers that operand, scale and zero point stand for, from `index` on."""
    parameters = [per_tensor(ctx, ctx[i]) for i in (index + 1, index + 2) if ctx.has(i)]
    return ctx(Dequantize(), ctx[index], *parameters)


def _quantized(ctx: Context, y: Value, index: int, dtype: DType) -> Value:
    """`y` under the scale and zero point at `index`."""
    zero = [per_tensor(ctx, ctx[index + 1])] if ctx.has(index + 1) else []
    return ctx(Quantize(dtype), y, per_tensor(ctx, ctx[index]), *zero)


def _qlinear_binary(combine: Callable[[Context, Value, Value], Value]) -> Importer:
    def importer(ctx: Context) -> Value:
        return _quantized(ctx, combine(ctx, _real(ctx, 0), _real(ctx, 3)), 6, ctx[0].type.dtype)

    return importer


def _qlinear_unary(apply: Callable[[Context, Value], Value]) -> Importer:
    def importer(ctx: Context) -> Value:
        return _quantized(ctx, apply(ctx, _real(ctx, 0)), 3, ctx[0].type.dtype)

    return importer


def _average(ctx: Context, x: Value) -> Value:
    if ctx.integer("channels_last", 0):
        return ctx(ReduceMean(tuple(range(1, x.type.rank - 1)), True), x)
    return ctx(ReduceMean(tuple(range(2, x.type.rank)), True), x)


def _qlinear_concat(ctx: Context) -> Value:
    """Scale and zero point of the result, then tensor, scale and zero point of each part."""
    parts = [_real(ctx, i) for i in range(2, len(ctx.inputs), 3)]
    y = ctx.e.concat(parts, ctx.axis(ctx.integer("axis"), parts[0].type.rank))
    return _quantized(ctx, y, 0, ctx[2].type.dtype)


def _matmul_integer_to_float(ctx: Context) -> Value:
    """(A - a_zero) (B - b_zero) a_scale b_scale + bias."""
    e = ctx.e
    total = integer_matmul(ctx, ctx[0], ctx[1], ctx.optional(4), ctx.optional(5))
    scale = e.mul(per_tensor(ctx, ctx[2]), per_tensor(ctx, ctx[3]))
    y = e.mul(e.cast(total, DType.f32), scale)
    return e.add(y, ctx[6]) if ctx.has(6) else y


STANDARD: dict[str, Importer] = {"SimplifiedLayerNormalization": _rms_norm}
IMPORTERS: dict[str, Importer] = {
    "BiasGelu": _gelu,
    "DequantizeLinear": QUANT["DequantizeLinear"],
    "FastGelu": _fast_gelu,
    "FusedMatMul": _fused_matmul,
    "Gelu": _gelu,
    "MatMulIntegerToFloat": _matmul_integer_to_float,
    "QLinearAdd": _qlinear_binary(lambda ctx, x, y: ctx.e.add(x, y)),
    "QLinearConcat": _qlinear_concat,
    "QLinearGlobalAveragePool": _qlinear_unary(_average),
    "QLinearLeakyRelu": _qlinear_unary(lambda ctx, x: ctx(act.LeakyRelu(ctx.real("alpha", 0.01)), x)),
    "QLinearMul": _qlinear_binary(lambda ctx, x, y: ctx.e.mul(x, y)),
    "QLinearSigmoid": _qlinear_unary(lambda ctx, x: ctx(act.Sigmoid(), x)),
    "QuantizeLinear": QUANT["QuantizeLinear"],
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
}
