"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

from hardy.compiler.frontends.torch.context import Context, aten
from hardy.compiler.ir import Value
from hardy.compiler.ops.attention import Attention
from hardy.compiler.types import DType


@aten("scaled_dot_product_attention")
def sdpa(
    c: Context,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Leading axes beyond [batch, heads] become one batch.

    A query whose keys are all masked has no defined result; hardy gives it some average of the values.
    """
    if dropout_p > 0:
        c.unsupported("attention with dropout draws random numbers", hint="call model.eval()")
    e = c.e
    lead = c.shape[:-2]
    d = query.type.shape[-1]
    heads = lead[-1] if lead else 1
    batch = math.prod(lead[:-1])
    kv_heads = key.type.shape[-3] if enable_gqa and lead else heads

    def four_axes(x: Value, count: int) -> Value:
        x = e.broadcast(x, (*lead[:-1], count, *x.type.shape[-2:]) if lead else x.type.shape)
        return e.reshape(x, (batch, count, *x.type.shape[-2:]))

    q, k, v = four_axes(query, heads), four_axes(key, kv_heads), four_axes(value, kv_heads)
    masks = []
    if attn_mask is not None:
        mask = attn_mask
        if mask.type.dtype is not DType.boolean:
            mask = c.value(mask, q.type.dtype)
        if mask.type.rank > 2:
            full = (1,) * (len(lead) + 2 - mask.type.rank) + mask.type.shape
            mask = e.reshape(mask, full)
            if len(lead) != 2:
                mask = e.broadcast(mask, (*lead, *full[-2:]))
                mask = e.reshape(mask, (batch, heads, *full[-2:]))
        masks.append(mask)
    factor = 1 / math.sqrt(d) if scale is None else float(scale)
    y = c(Attention(factor, causal=is_causal), q, k, v, *masks)
    return e.reshape(y, c.shape)


@aten(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_fused_attention_overrideable",
)
def _sdpa_kernel(
    c: Context, query: Value, key: Value, value: Value, *rest: Any, **options: Any
) -> list[Value | None]:
    c.unsupported("a device's own attention kernel", hint="export through scaled_dot_product_attention")


@aten("_native_multi_head_attention", "_transformer_encoder_layer_fwd")
def _fast_path(c: Context, *args: Any, **options: Any) -> list[Value | None]:
    c.unsupported(
        "torch's fused encoder layer",
        hint="call torch.backends.mha.set_fastpath_enabled(False) before torch.export",
    )
