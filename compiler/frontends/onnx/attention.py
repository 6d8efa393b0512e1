"""Attention of the standard: the composite where that says the same, else the schema's function body."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.ir import Value
from hardy.compiler.ops.attention import Attention
from hardy.compiler.types import DType, broadcast_shapes


def _attention(ctx: Context) -> Sequence[Item | None]:
    if not _is_plain(ctx):
        return ctx.scope.expand(ctx)
    e = ctx.e
    three = ctx[0].type.rank == 3
    q = _heads(ctx, ctx[0], "q_num_heads")
    k, v = (_heads(ctx, ctx[i], "kv_num_heads") for i in (1, 2))
    past = 0
    if ctx.has(4):
        past = ctx[4].type.shape[2]
        k, v = e.concat([ctx[4], k], 2), e.concat([ctx[5], v], 2)
    scale = ctx.real("scale", 0.0) or 1 / math.sqrt(q.type.shape[3])
    op = Attention(scale, bool(ctx.integer("is_causal", 0)), past, ctx.real("softcap", 0.0))
    y = ctx(op, q, k, v, *([ctx[3]] if ctx.has(3) else []))
    if three:
        batch, heads, queries, width = y.type.shape
        y = e.reshape(e.transpose(y, (0, 2, 1, 3)), (batch, queries, heads * width))
    return [y, k, v]


def _is_plain(ctx: Context) -> bool:
    """Whether the composite computes the same.

    Rows in which everything is masked give zeros here and a mean there, so that a mask must be known
    to leave something in every row.
    """
    q = ctx[0]
    if ctx.wants(3) or ctx.has(6) or q.type.dtype not in (DType.f32, DType.f64):
        return False
    if ctx.has(4) != ctx.has(5) or q.type.rank not in (3, 4):
        return False
    if any(ctx.integer(name, -1) != -1 for name in ("left_window_size", "right_window_size")):
        return False
    if not ctx.has(3):
        return True
    mask = ctx.known(3)
    if mask is None or ctx.integer("is_causal", 0):
        return False
    keys = ctx[1].type.shape[-2] + (ctx[4].type.shape[2] if ctx.has(4) else 0)
    if mask.type.rank < 2 or mask.type.shape[-1] != keys or mask.type.rank > 4:
        return False
    if mask.type.rank == 3:
        return False
    kept = mask.tensor if mask.type.dtype is DType.boolean else mask.tensor > -math.inf
    heads = q.type.shape[1] if q.type.rank == 4 else ctx.integer("q_num_heads")
    scores = (q.type.shape[0], heads, q.type.shape[-2], keys)
    return bool(kept.any(-1).all()) and broadcast_shapes(mask.type.shape, scores) == scores


def _heads(ctx: Context, x: Value, attribute: str) -> Value:
    """[batch, heads, length, width] from that, or from [batch, length, heads * width]."""
    if x.type.rank == 4:
        return x
    batch, length, width = x.type.shape
    heads = ctx.integer(attribute)
    if heads < 1 or width % heads:
        ctx.fail(f"{attribute} {heads} does not divide {x.type}")
    return ctx.e.transpose(ctx.e.reshape(x, (batch, length, heads, width // heads)), (0, 2, 1, 3))


IMPORTERS: dict[str, Importer] = {"Attention": _attention}
