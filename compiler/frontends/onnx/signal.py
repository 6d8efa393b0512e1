"""Fourier transforms as products with constant matrices, and the mel filter bank."""

from __future__ import annotations

import math

import torch

from hardy.compiler.frontends.onnx.context import Context, Importer
from hardy.compiler.frontends.onnx.shape import pad_constant
from hardy.compiler.ir import Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.shape import Gather
from hardy.compiler.types import DType


def _angles(n: int, rows: int, columns: int) -> torch.Tensor:
    """2 pi i j / n; the product is reduced first, so that large ones lose nothing."""
    products = torch.arange(rows)[:, None] * torch.arange(columns)[None, :] % n
    return products.double() * (2 * math.pi / n)


def _times(ctx: Context, x: Value, matrix: torch.Tensor) -> Value:
    """x [..., n] by a constant [n, m]."""
    return ctx(Matmul(), x, ctx.e.constant(matrix.to(x.type.dtype.torch)))


def transform(ctx: Context, x: Value, length: int, *, inverse: bool, onesided: bool) -> Value:
    """The discrete Fourier transform over the second last axis; the last is real and imaginary part.

    x is cut or filled with zeros to `length`. One-sided, the forward transform of real x gives the
    length // 2 + 1 first terms, and the inverse takes those and gives real numbers.
    """
    e = ctx.e
    axis = x.type.rank - 2
    parts = [e.pick(x, axis + 1, i) for i in range(x.type.shape[-1])]
    taken = length // 2 + 1 if inverse and onesided else length
    parts = [_resized(ctx, p, taken) for p in parts]
    if x.type.rank == 2:
        parts = [e.reshape(p, (1, taken)) for p in parts]
    real, imaginary = parts[0], parts[1] if len(parts) == 2 else None
    if inverse and onesided:
        angles = _angles(length, taken, length)
        weights = torch.full((taken, 1), 2.0, dtype=torch.float64)
        weights[0] = 1
        if length % 2 == 0:
            weights[-1] = 1
        y = _times(ctx, real, torch.cos(angles) * weights / length)
        if imaginary is not None:
            y = e.sub(y, _times(ctx, imaginary, torch.sin(angles) * weights / length))
        results = [y]
    else:
        angles = _angles(length, taken, length // 2 + 1 if onesided else length)
        scale = 1 / length if inverse else 1.0
        cosine, sine = torch.cos(angles) * scale, torch.sin(angles) * (scale if inverse else -scale)
        results = [_times(ctx, real, cosine), _times(ctx, real, sine)]
        if imaginary is not None:
            results[0] = e.sub(results[0], _times(ctx, imaginary, sine))
            results[1] = e.add(results[1], _times(ctx, imaginary, cosine))
    if x.type.rank == 2:
        results = [e.reshape(r, r.type.shape[1:]) for r in results]
    return e.stack(results, axis + 1)


def _resized(ctx: Context, x: Value, length: int) -> Value:
    axis = x.type.rank - 1
    high = [length - x.type.shape[axis] if i == axis else 0 for i in range(x.type.rank)]
    return pad_constant(ctx, x, [0] * x.type.rank, high)


def _dft(ctx: Context) -> Value:
    x, e = ctx[0], ctx.e
    rank = x.type.rank
    axis = ctx.integer("axis", 1 if ctx.opset < 20 else -2)
    axis = ctx.axis(ctx.constant_int(2, "the axis") if ctx.has(2) else axis, rank)
    if axis == rank - 1 or x.type.shape[-1] not in (1, 2):
        ctx.fail(f"DFT along axis {axis} of {x.type}, whose last axis must hold the real and imaginary part")
    inverse, onesided = bool(ctx.integer("inverse", 0)), bool(ctx.integer("onesided", 0))
    size = x.type.shape[axis]
    length = 2 * (size - 1) if inverse and onesided else size
    if ctx.has(1):
        length = ctx.constant_int(1, "the length")
    if length < 1:
        ctx.fail(f"a transform of length {length}")
    y = transform(ctx, e.move_axis(x, axis, rank - 2), length, inverse=inverse, onesided=onesided)
    return e.move_axis(y, rank - 2, axis)


def _stft(ctx: Context) -> Value:
    """Transforms of windows that start every `step` elements."""
    x, e = ctx[0], ctx.e
    step = ctx.constant_int(1, "the step")
    if x.type.rank == 2:
        x = e.reshape(x, (*x.type.shape, 1))
    _, size, parts = x.type.shape
    if ctx.has(3):
        length = ctx.constant_int(3, "the frame length")
    elif ctx.has(2):
        length = ctx[2].type.shape[0]
    else:
        ctx.fail("STFT needs a window or a frame length")
    if not (0 < length <= size and step > 0):
        ctx.fail(f"frames of {length} every {step} of a signal of {size}")
    starts = torch.arange((size - length) // step + 1) * step
    index = starts[:, None] + torch.arange(length)[None, :]
    frames = ctx(Gather(1), x, e.constant(index))
    if ctx.has(2):
        frames = e.mul(frames, e.reshape(ctx[2], (ctx[2].type.shape[0], 1)))
    return transform(
        ctx, frames, length, inverse=False, onesided=bool(ctx.integer("onesided", 1)) and parts == 1
    )


def _mel_weight_matrix(ctx: Context) -> Value:
    """Triangular filters, evenly spaced on the mel scale: [dft_length // 2 + 1, bins]."""
    bins, length, rate = (ctx.constant_int(i) for i in range(3))
    low, high = (2595 * math.log10(1 + ctx.constant_float(i) / 700) for i in (3, 4))
    if bins < 1 or length < 1 or rate < 1:
        ctx.fail(f"{bins} bins over a transform of {length} at {rate} Hz")
    step = (high - low) / (bins + 2)
    hertz = [700 * (10 ** ((low + i * step) / 2595) - 1) for i in range(bins + 2)]
    edges = [int((length + 1) * f // rate) for f in hertz]
    matrix = torch.zeros(length // 2 + 1, bins, dtype=torch.float64)
    if edges[-1] > len(matrix):
        ctx.fail(f"the upper edge lies above half of the sample rate {rate}")
    for i, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        if left == centre:
            matrix[centre, i] = 1
        for j in range(left, centre + 1):
            if left != centre:
                matrix[j, i] = (j - left) / (centre - left)
        for j in range(centre, right):
            matrix[j, i] = (right - j) / (right - centre)
    dtype = ctx.dtype("output_datatype", DType.f32)
    return ctx.e.constant(Literal(matrix.to(dtype.torch), dtype))


IMPORTERS: dict[str, Importer] = {"DFT": _dft, "MelWeightMatrix": _mel_weight_matrix, "STFT": _stft}
