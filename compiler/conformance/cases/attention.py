"""Attention: masks, causality, shared heads."""

from __future__ import annotations

from collections.abc import Iterator

from hardy.compiler.conformance.case import Case, case, exactly
from hardy.compiler.ops.attention import Attention


def cases() -> Iterator[Case]:
    qkv = ("f32[2,4,9,16]", "f32[2,4,13,16]", "f32[2,4,13,8]")
    yield case(Attention(0.25), *qkv)
    yield case(Attention(0.25), *qkv, "f32[2,1,1,13]", label="float_mask")
    yield case(Attention(0.25), *qkv, "bool[9,13]", label="bool_mask", fill={3: exactly(1, 0, 1)})
    yield case(Attention(0.25, causal=True), *["f32[1,4,9,16]"] * 3, label="causal")
    yield case(Attention(0.25, causal=True, offset=4), *qkv, label="causal_offset")
    yield case(Attention(0.25), "f32[1,6,5,8]", "f32[1,2,7,8]", "f32[1,2,7,8]", label="shared_heads")
    yield case(Attention(0.25, softcap=2.0), *qkv, label="softcap")
