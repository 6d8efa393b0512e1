"""Composite scaled dot-product attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.ir import Builder, Op, Value
from hardy.compiler.ops.activation import Softmax
from hardy.compiler.ops.elementwise import Add, Div, Mul, Where
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.rules import require, require_float, same_dtype
from hardy.compiler.ops.shape import Reshape
from hardy.compiler.ops.transcendental import Tanh
from hardy.compiler.types import DType, TensorType, broadcast_shapes

# What masked scores become. A finite value keeps a fully masked row free of NaN.
MASKED = -1e30


@dataclass(frozen=True)
class Attention(Op):
    """softmax(scale q k^T + mask) v ("Attention Is All You Need", section 3.2).

    q: [batch, heads, queries, d]; k: [batch, kv_heads, keys, d]; v: [batch, kv_heads, keys, dv].
    Fewer key-value heads than heads share theirs in runs (GQA). `mask` broadcasts to
    [batch, heads, queries, keys]: a float is added to the scores, a bool keeps them where true.
    With `causal` query i sees keys 0..i + offset. `softcap` > 0 bends scores to
    softcap tanh(score / softcap) before the mask.
    """

    scale: float
    causal: bool = False
    offset: int = 0
    softcap: float = 0.0

    def infer(
        self, q: TensorType, k: TensorType, v: TensorType, mask: TensorType | None = None
    ) -> TensorType:
        require_float(self.name, q)
        same_dtype(q, k, v)
        require(q.rank == k.rank == v.rank == 4, f"q, k and v must have four axes, got {q}, {k}, {v}")
        batch, heads, queries, d = q.shape
        kv_heads, keys = k.shape[1:3]
        require(
            k.shape == (batch, kv_heads, keys, d) and v.shape[:3] == (batch, kv_heads, keys),
            f"k {k} and v {v} do not fit q {q}",
        )
        require(
            kv_heads > 0 and heads % kv_heads == 0, f"{kv_heads} key-value heads do not divide {heads} heads"
        )
        if mask is not None:
            scores = (batch, heads, queries, keys)
            require(mask.dtype in (q.dtype, DType.boolean), f"mask must be {q.dtype} or bool, got {mask}")
            require(
                broadcast_shapes(mask.shape, scores) == scores, f"mask {mask} does not broadcast to {scores}"
            )
        return q.with_shape((batch, heads, queries, v.shape[3]))

    def visible(self, queries: int, keys: int) -> Tensor:
        """Which key each query sees under the causal rule: bool [queries, keys]."""
        return torch.arange(keys)[None, :] <= torch.arange(queries)[:, None] + self.offset

    def probabilities(self, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
        """How much of each value goes into each result: [batch, heads, queries, keys], rows of sum 1."""
        scores = (q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT) * self.scale
        if self.softcap:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if mask is not None:
            scores = (
                scores + mask
                if mask.is_floating_point()
                else scores.masked_fill(~mask, self._masked(q.dtype))
            )
        if self.causal:
            visible = self.visible(q.shape[2], k.shape[2])
            scores = scores.masked_fill(~visible, self._masked(q.dtype))
        return scores.softmax(-1)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.probabilities(q, k, mask) @ v.repeat_interleave(q.shape[1] // k.shape[1], 1)

    @staticmethod
    def _masked(dtype: torch.dtype) -> float:
        return max(MASKED, torch.finfo(dtype).min)

    def decompose(self, b: Builder, q: Value, k: Value, v: Value, mask: Value | None = None) -> Value:
        batch, heads, queries, d = q.type.shape
        kv_heads, keys = k.type.shape[1:3]
        dtype = q.type.dtype
        shared = heads // kv_heads
        # The heads that share a key-value head become rows of one matrix.
        rows = b(Reshape((batch, kv_heads, shared * queries, d)), q)
        scores = b(Mul(), b(Matmul(transpose_b=True), rows, k), b.scalar(self.scale, dtype))
        scores = b(Reshape((batch, heads, queries, keys)), scores)
        if self.softcap:
            cap = b.scalar(self.softcap, dtype)
            scores = b(Mul(), b(Tanh(), b(Div(), scores, cap)), cap)
        masked = b.scalar(self._masked(dtype.torch), dtype)
        if mask is not None:
            float_mask = mask.type.dtype.is_float
            scores = b(Add(), scores, mask) if float_mask else b(Where(), mask, scores, masked)
        if self.causal:
            scores = b(Where(), b.constant(self.visible(queries, keys)), scores, masked)
        weights = b(Softmax(3), scores)
        weights = b(Reshape((batch, kv_heads, shared * queries, keys)), weights)
        return b(Reshape((batch, heads, queries, v.type.shape[3])), b(Matmul(), weights, v))

    def macs(self, q: TensorType, k: TensorType, v: TensorType, mask: TensorType | None = None) -> int:
        batch, heads, queries, d = q.shape
        return batch * heads * queries * k.shape[2] * (d + v.shape[3])
