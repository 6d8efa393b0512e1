"""Scaled dot-product attention from its pieces."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import torch

from hardy.compiler.ir import Builder, Node, Value
from hardy.compiler.matching.rounding import same_number
from hardy.compiler.ops.activation import Softmax
from hardy.compiler.ops.attention import MASKED, Attention
from hardy.compiler.ops.elementwise import Add, Div, Mul, Not, Where
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.shape import BroadcastTo, Reshape, Transpose
from hardy.compiler.ops.transcendental import Tanh
from hardy.compiler.rewrite import Match, Pattern, Rule, Term
from hardy.compiler.types import DType, TensorType

# A score that replaces, or is added to, what may not be seen is at most this; its exponential is zero.
INVISIBLE = -1e4


@dataclass
class _Scores:
    """What is found between the product of queries and keys and the softmax."""

    product: Node
    scale: float = 1.0
    softcap: float = 0.0
    masks: list[tuple[Value, bool]] = field(default_factory=list)
    causal: int | None = None
    # Whether what the causal mask hides scores as `Attention` says.
    causal_is_ours: bool = False


@dataclass(frozen=True)
class _Plan:
    """Operands of the attention as values and the four axes they are read with."""

    scores: _Scores
    query: Value
    key: Value
    value: Value
    batch: int
    heads: int
    queries: int
    keys: int
    scale: float

    @property
    def kv_heads(self) -> int:
        *lead, _, _ = self.value.type.shape
        return math.prod(lead) // self.batch


class FindAttention(Rule):
    """softmax(mask(softcap(scale q k^T))) v.

    Scores may be reshaped on the way, as libraries do that fold batch and heads into one axis or run
    the heads that share a key as rows of one product. Repeated keys and values (a broadcast along a
    new axis that is then merged) are used unrepeated. A constant triangular mask becomes `causal`.
    """

    def pattern(self, p: Pattern, scores: Term, value: Term) -> Term:
        weights = p(Softmax, scores, name="softmax")
        return p(Matmul, p.maybe(Reshape, weights), value, transpose_a=False, transpose_b=False)

    def check(self, m: Match) -> bool | str:
        plan = _plan(m)
        return plan if isinstance(plan, str) else True

    def rewrite(self, b: Builder, m: Match) -> Value:
        plan = _plan(m)
        assert isinstance(plan, _Plan)
        kv_heads = plan.kv_heads
        depth = plan.query.type.shape[-1]
        q = _reshaped(b, plan.query, (plan.batch, plan.heads, plan.queries, depth))
        k = plan.key
        if not plan.scores.product.op.transpose_b:  # type: ignore[attr-defined]
            rank = k.type.rank
            k = b(Transpose((*range(rank - 2), rank - 1, rank - 2)), k)
        k = _reshaped(b, k, (plan.batch, kv_heads, plan.keys, depth))
        v = _reshaped(b, plan.value, (plan.batch, kv_heads, plan.keys, plan.value.type.shape[-1]))
        mask = [_mask(b, v_, negated, m) for v_, negated in plan.scores.masks]
        op = Attention(
            plan.scale,
            causal=plan.scores.causal is not None,
            offset=plan.scores.causal or 0,
            softcap=plan.scores.softcap,
        )
        return _reshaped(b, b(op, q, k, v, *mask, name=m.root.name), m.type.shape)


def _reshaped(b: Builder, v: Value, shape: tuple[int, ...]) -> Value:
    return v if v.type.shape == shape else b(Reshape(shape), v)


def _mask(b: Builder, mask: Value, negated: bool, m: Match) -> Value:
    if negated:
        mask = b(Not(), mask)
    scores = m["scores"].type
    if scores.rank == 3 and mask.type.rank == 3:
        lead, queries, keys = mask.type.shape
        return _reshaped(b, mask, (lead, 1, queries, keys))
    return mask


def _plan(m: Match) -> _Plan | str:
    t = m["scores"].type
    if m.node("softmax").op != Softmax(t.rank - 1):
        return "the softmax is not along the last axis"
    if t.rank not in (3, 4):
        return f"the scores {t} have neither three axes nor four"
    batch, heads = (t.shape[0], 1) if t.rank == 3 else t.shape[:2]
    queries, keys = t.shape[-2:]
    scores = _read_scores(m)
    if isinstance(scores, str):
        return scores
    q, k = scores.product.operands
    product = scores.product.type
    if product.shape[-1] != keys or t.size == 0:
        return "the scores are reshaped along the keys"
    if q.type.shape[:-1] != product.shape[:-1]:
        return "the queries broadcast"
    v = m["value"]
    groups = math.prod(product.shape[:-2])
    if groups % batch or (batch * heads) % groups or product.shape[-2] != queries * (batch * heads // groups):
        return "the product's axes are not batch and heads"
    scale = scores.scale
    q, factor = _unscaled(q, m)
    scale *= factor
    k, factor = _unscaled(k, m)
    scale *= factor
    weights = m.root.operands[0].type.shape
    if weights[:-2] != product.shape[:-2]:
        return "the two products group the heads differently"
    k_axes = (keys, q.type.shape[-1])
    if not scores.product.op.transpose_b:  # type: ignore[attr-defined]
        k_axes = k_axes[::-1]
    shared_k, shared_v = _unrepeated(k), _unrepeated(v)
    if shared_k is not None and shared_v is not None and shared_k.type.shape[:2] == shared_v.type.shape[:2]:
        k, v = shared_k, shared_v
    if k.type.shape[-2:] != k_axes or k.type.shape[:-2] != v.type.shape[:-2]:
        return "keys and values differ in batch or heads"
    count = math.prod(k.type.shape[:-2])
    if count % batch or heads % (count // batch) or groups % count:
        return "the key-value heads do not divide the heads"
    if count != groups and k.type.shape[:-2] != (batch, count // batch):
        return "keys broadcast in another way than by head"
    return _Plan(scores, q, k, v, batch, heads, queries, keys, scale)


def _read_scores(m: Match) -> _Scores | str:
    """Walk up from the softmax to the product of queries and keys."""
    v = m["scores"]
    found = _Scores(v.node)
    while True:
        if not m.only_use(v):
            return f"the result of {v.op.name} is needed outside of the attention"
        op, operands = v.op, v.node.operands
        if isinstance(op, Matmul):
            if op.transpose_a:
                return "the queries are transposed"
            found.product = v.node
            return found
        untouched = found.scale == 1.0 and not found.softcap and v.type == m["scores"].type
        if isinstance(op, Reshape):
            v = operands[0]
        elif isinstance(op, Where) and untouched:
            step = _read_where(v, found, m["scores"].type)
            if isinstance(step, str):
                return step
            v = step
        elif isinstance(op, Add) and untouched:
            side = _towards_product(operands)
            if side is None:
                return "no operand of the addition comes from a product"
            if not _take_mask(found, operands[1 - side], False, m["scores"].type):
                return "there are two masks, or one that does not fit"
            v = operands[side]
        elif isinstance(op, Mul | Div):
            other = operands[1]
            side = 0
            if isinstance(op, Mul) and operands[0].literal is not None:
                other, side = operands[0], 1
            if other.literal is None or other.type.size != 1:
                return "the scale is not a constant"
            number = float(other.literal.item())
            inner = operands[side]
            if isinstance(op, Mul) and isinstance(inner.op, Tanh):
                cap = _softcap(inner, number, m)
                if cap is None or found.softcap or found.scale != 1.0:
                    return "the hyperbolic tangent is not a softcap"
                found.softcap, v = number, cap
            else:
                found.scale *= number if isinstance(op, Mul) else 1 / number
                v = inner
        else:
            return f"there is a {op.name} between the product and the softmax"


def _softcap(tanh: Value, cap: float, m: Match) -> Value | None:
    """x of tanh(x / cap)."""
    (inner,) = tanh.node.operands
    if not (m.only_use(tanh) and m.only_use(inner) and isinstance(inner.op, Div | Mul)):
        return None
    x, divisor = inner.node.operands
    if divisor.literal is None or divisor.type.size != 1:
        return None
    number = float(divisor.literal.item())
    number = number if isinstance(inner.op, Div) else 1 / number
    return x if math.isclose(number, cap, rel_tol=1e-6) else None


def _towards_product(operands: tuple[Value, ...]) -> int | None:
    """Which operand of an addition leads up to a matrix product through what scores pass."""
    for side in (0, 1):
        v = operands[side]
        while isinstance(v.op, Reshape | Where | Add | Mul | Div | Tanh):
            inner = v.node.operands
            if isinstance(v.op, Where):
                v = inner[1] if inner[1].type.size > 1 else inner[2]
            elif inner[0].literal is not None or inner[0].type.size < v.type.size:
                v = inner[1]
            else:
                v = inner[0]
        if isinstance(v.op, Matmul):
            return side
    return None


def _read_where(v: Value, found: _Scores, scores: TensorType) -> Value | str:
    condition, x, y = v.node.operands
    for inside, outside, negated in ((x, y, False), (y, x, True)):
        if outside.literal is not None and outside.type.size == 1:
            number = float(outside.literal.item())
            if number > INVISIBLE:
                return f"what is masked scores {number:g}"
            if number == -math.inf and not _always_sees(condition, negated):
                return "a row that is masked all over would be NaN"
            if inside.type.shape != v.type.shape:
                return "the mask broadcasts the scores"
            if not _take_mask(found, condition, negated, scores, number):
                return "there are two masks, or one that does not fit"
            return inside
    return "no branch of the selection is a constant"


def _always_sees(condition: Value, negated: bool) -> bool:
    """Whether a constant condition leaves at least one key to each query."""
    if condition.literal is None:
        return False
    visible = condition.literal.tensor
    visible = ~visible if negated else visible
    return bool(visible.any(-1).all())


def _take_mask(
    found: _Scores, mask: Value, negated: bool, scores: TensorType, outside: float | None = None
) -> bool:
    if mask.type.rank > scores.rank or mask.type.dtype not in (DType.boolean, scores.dtype):
        return False
    offset = _causal_offset(mask, negated, scores.shape[-2:])
    if offset is not None and found.causal is None and not found.masks:
        found.causal = offset
        found.causal_is_ours = outside is not None and same_number(
            outside, max(MASKED, torch.finfo(scores.dtype.torch).min), scores.dtype
        )
        return True
    if found.masks:
        return False
    # A query that sees no key at all spreads its attention by what masked keys score, so a second
    # mask is taken only where that agrees with the definition of attention.
    if found.causal is not None and not found.causal_is_ours:
        return False
    found.masks.append((mask, negated))
    return True


def _causal_offset(mask: Value, negated: bool, square: tuple[int, ...]) -> int | None:
    """The offset of a constant triangular mask: query i sees keys 0..i + offset. None for any other mask."""
    literal = mask.literal
    if literal is None or literal.type.shape[-2:] != square or literal.type.size != math.prod(square):
        return None
    queries, keys = square
    tensor = literal.tensor.reshape(queries, keys)
    if literal.type.dtype is DType.boolean:
        visible = ~tensor if negated else tensor
    else:
        visible = tensor == 0
        if not bool(((tensor <= INVISIBLE) | visible).all()):
            return None
    offset = int(visible[0].sum()) - 1
    if offset < 0:
        return None
    expected = torch.arange(keys)[None, :] <= torch.arange(queries)[:, None] + offset
    return offset if bool((visible == expected).all()) and not bool(visible.all()) else None


def _unscaled(v: Value, m: Match) -> tuple[Value, float]:
    """Queries or keys without a constant factor, and that factor."""
    if isinstance(v.op, Mul | Div) and m.only_use(v):
        x, other = v.node.operands
        if isinstance(v.op, Mul) and x.literal is not None:
            x, other = other, x
        if other.literal is not None and other.type.size == 1 and x.type == v.type:
            number = float(other.literal.item())
            return x, number if isinstance(v.op, Mul) else 1 / number
    return v, 1.0


def _unrepeated(v: Value) -> Value | None:
    """Keys or values [batch, kv_heads, 1, ...] before they are repeated into [batch, heads, ...], with the
    axis of one left out as [batch, kv_heads, ...] where a reshape put it in."""
    if not isinstance(v.op, Reshape) or v.type.rank != 4:
        return None
    spread = v.node.operands[0]
    if not isinstance(spread.op, BroadcastTo) or spread.type.rank != 5:
        return None
    inner = spread.node.operands[0]
    batch, kv_heads, _, rows, columns = spread.type.shape
    if inner.type.shape != (batch, kv_heads, 1, rows, columns) or v.type.shape[2:] != (rows, columns):
        return None
    if not isinstance(inner.op, Reshape):
        return None
    (original,) = inner.node.operands
    return original if original.type.shape == (batch, kv_heads, rows, columns) else None


class AttentionOfRepeated(Rule):
    """Attention repeats shared keys and values by itself."""

    shares = True

    def pattern(self, p: Pattern, q: Term, k: Term, v: Term, mask: Term) -> Term:
        return p.either(p(Attention, q, k, v), p(Attention, q, k, v, mask))

    def check(self, m: Match) -> bool | str:
        k, v = _unrepeated(m["k"]), _unrepeated(m["v"])
        if k is None or v is None:
            return "keys and values are not both repeated"
        return k.type.shape[:2] == v.type.shape[:2] or "keys and values are repeated differently"

    def rewrite(self, b: Builder, m: Match) -> Value:
        k, v = _unrepeated(m["k"]), _unrepeated(m["v"])
        assert k is not None
        assert v is not None
        return b(m.root.op, m["q"], k, v, *m.root.operands[3:])


class AttentionMaskKnown(Rule):
    """A constant mask that hides nothing goes; one that is triangular becomes `causal`."""

    def pattern(self, p: Pattern, q: Term, k: Term, v: Term) -> Term:
        return p(Attention, q, k, v, p.constant("mask"), causal=False)

    @staticmethod
    def _offset(m: Match) -> int | None:
        return _causal_offset(m["mask"], False, (m["q"].type.shape[2], m["k"].type.shape[2]))

    @staticmethod
    def _hides_nothing(m: Match) -> bool:
        mask = m.literal("mask")
        return bool((mask.tensor if mask.type.dtype is DType.boolean else mask.tensor == 0).all())

    def check(self, m: Match) -> bool | str:
        known = self._hides_nothing(m) or self._offset(m) is not None
        return known or "the mask is neither empty nor triangular"

    def rewrite(self, b: Builder, m: Match) -> Value:
        op = m.op(Attention)
        if not self._hides_nothing(m):
            op = dataclasses.replace(op, causal=True, offset=self._offset(m) or 0)
        return b(op, m["q"], m["k"], m["v"])


RULES: tuple[Rule, ...] = (FindAttention(), AttentionOfRepeated(), AttentionMaskKnown())
