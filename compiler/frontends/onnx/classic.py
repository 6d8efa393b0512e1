"""Feature extraction from before deep learning: n-grams and the simple ops of ai.onnx.ml."""

from __future__ import annotations

import torch

from hardy.compiler.frontends.onnx.context import Context, Importer
from hardy.compiler.ir import Value
from hardy.compiler.ops.elementwise import And
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.shape import Gather, Slice
from hardy.compiler.types import DType


def _tf_idf(ctx: Context) -> Value:
    """How often each n-gram of the pool occurs, with gaps of up to max_skip_count between its words."""
    x, e = ctx[0], ctx.e
    if "pool_strings" in ctx.attributes:
        ctx.unsupported("TfIdfVectorizer of strings", hint="look the words up outside of the model")
    pool, starts = ctx.integers("pool_int64s"), ctx.integers("ngram_counts")
    slots = ctx.integers("ngram_indexes")
    shortest, longest = ctx.integer("min_gram_length"), ctx.integer("max_gram_length")
    mode = ctx.text("mode")
    rows = x if x.type.rank == 2 else e.reshape(x, (1, x.type.size))
    words = rows.type.shape[1]
    counts: list[Value] = []
    places: list[int] = []
    seen = 0
    for n, start in enumerate(starts, 1):
        stop = starts[n] if n < len(starts) else len(pool)
        grams = torch.tensor(pool[start:stop], dtype=x.type.dtype.torch).reshape(-1, n)
        if shortest <= n <= longest and len(grams):
            found = [
                _occurrences(ctx, rows, grams, skip + 1)
                for skip in range(ctx.integer("max_skip_count") + 1 if n > 1 else 1)
                if (n - 1) * (skip + 1) < words
            ]
            for count in found:
                counts.append(count)
                places.extend(slots[seen : seen + len(grams)])
        seen += len(grams)
    width = max(slots) + 1
    total = e.full((rows.type.shape[0], width), 0, DType.f32)
    if counts:
        placed = torch.zeros(len(places), width)
        placed[torch.arange(len(places)), torch.tensor(places)] = 1
        total = ctx(Matmul(), e.concat(counts, 1), e.constant(placed))
    if mode != "TF":
        weights = torch.ones(width)
        for slot, weight in zip(slots, ctx.reals("weights", ()), strict=False):
            weights[slot] = weight
        # IDF asks whether a gram occurs, TFIDF how often.
        total = total if mode == "TFIDF" else e.cast(e.less(0, total), DType.f32)
        total = e.mul(total, e.constant(weights))
    return e.reshape(total, (*x.type.shape[:-1], width))


def _occurrences(ctx: Context, rows: Value, grams: torch.Tensor, gap: int) -> Value:
    """f32 [rows, grams]: at how many positions a gram's words stand `gap` apart."""
    e = ctx.e
    count, words = rows.type.shape
    length = grams.shape[1]
    positions = words - (length - 1) * gap
    match = None
    for i in range(length):
        word = ctx(Slice((0, i * gap), (count, i * gap + positions), (1, 1)), rows)
        same = e.equal(e.reshape(word, (count, positions, 1)), e.constant(grams[:, i].contiguous()))
        match = same if match is None else ctx(And(), match, same)
    assert match is not None
    return ctx(ReduceSum((1,)), e.cast(match, DType.f32))


def _array_feature_extractor(ctx: Context) -> Value:
    x, e = ctx[0], ctx.e
    index = e.reshape(ctx[1], (ctx[1].type.size,))
    y = ctx(Gather(x.type.rank - 1), x, index)
    return e.reshape(y, (1, *y.type.shape)) if x.type.rank == 1 else y


def _binarizer(ctx: Context) -> Value:
    x, e = ctx[0], ctx.e
    above = e.less(e.scalar(ctx.real("threshold", 0.0), x.type.dtype), x)
    return e.cast(above, x.type.dtype)


def _scaler(ctx: Context) -> Value:
    """(x - offset) * scale by feature, in f32."""
    e = ctx.e
    x = e.cast(ctx[0], DType.f32)
    for name, apply in (("offset", e.sub), ("scale", e.mul)):
        if name in ctx.attributes:
            x = apply(x, e.constant(torch.tensor(ctx.reals(name))))
    return x


STANDARD: dict[str, Importer] = {"TfIdfVectorizer": _tf_idf}
IMPORTERS: dict[str, Importer] = {
    "ArrayFeatureExtractor": _array_feature_extractor,
    "Binarizer": _binarizer,
    "Scaler": _scaler,
}
