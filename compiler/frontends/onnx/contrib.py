"""The operators of onnxruntime (domain com.microsoft) that its optimizer writes most.

Source: docs/ContribOperators.md of onnxruntime.
"""

from __future__ import annotations

from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.frontends.onnx.linear import matmul
from hardy.compiler.ir import Value
from hardy.compiler.ops import activation as act
from hardy.compiler.ops.norm import LayerNorm, RmsNorm


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


STANDARD: dict[str, Importer] = {"SimplifiedLayerNormalization": _rms_norm}
IMPORTERS: dict[str, Importer] = {
    "BiasGelu": _gelu,
    "FastGelu": _fast_gelu,
    "FusedMatMul": _fused_matmul,
    "Gelu": _gelu,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
}
