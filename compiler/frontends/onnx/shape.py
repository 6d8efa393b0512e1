"""Shapes and layouts: reshape, transpose, slice, pad, tile and the like."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from hardy.compiler.frontends.onnx.context import Context, Importer, Item
from hardy.compiler.ir import Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.elementwise import And
from hardy.compiler.ops.shape import Gather, Pad, Reverse, ScatterElements, Slice
from hardy.compiler.types import DType, TensorType, broadcast_shapes


def _reshape(ctx: Context) -> Value:
    x = ctx[0]
    wanted = list(ctx.constant_ints(1, "the shape"))
    copies = not ctx.integer("allowzero", 0)
    for i, size in enumerate(wanted):
        if size == 0 and copies:
            if i >= x.type.rank:
                ctx.fail(f"shape {wanted} copies axis {i}, which {x.type} does not have")
            wanted[i] = x.type.shape[i]
    if wanted.count(-1) > 1 or min(wanted, default=0) < -1:
        ctx.fail(f"shape {wanted} may hold one -1 and no other negative size")
    if -1 in wanted:
        rest = -math.prod(wanted)
        if rest == 0 or x.type.size % rest:
            ctx.fail(f"{x.type} does not fill shape {wanted}")
        wanted[wanted.index(-1)] = x.type.size // rest
    return ctx.e.reshape(x, wanted)


def _transpose(ctx: Context) -> Value:
    x = ctx[0]
    return ctx.e.transpose(x, ctx.axes(ctx.integers("perm", range(x.type.rank)[::-1]), x.type.rank))


def _flatten(ctx: Context) -> Value:
    x = ctx[0]
    axis = ctx.integer("axis", 1)
    if not -x.type.rank <= axis <= x.type.rank:
        ctx.fail(f"axis {axis} is outside {x.type}")
    axis = axis + x.type.rank if axis < 0 else axis
    return ctx.e.reshape(x, (math.prod(x.type.shape[:axis]), math.prod(x.type.shape[axis:])))


def _squeeze(ctx: Context) -> Value:
    x = ctx[0]
    axes = ctx.ints_operand_or_attribute(1, "axes")
    ones = [i for i, n in enumerate(x.type.shape) if n == 1]
    gone = ones if axes is None else list(ctx.axes(axes, x.type.rank))
    for axis in gone:
        if axis not in ones:
            ctx.fail(f"cannot squeeze axis {axis} of {x.type}: its size is not 1")
    return ctx.e.reshape(x, [n for i, n in enumerate(x.type.shape) if i not in gone])


def _unsqueeze(ctx: Context) -> Value:
    x = ctx[0]
    given = ctx.ints_operand_or_attribute(1, "axes")
    if given is None:
        ctx.fail("axes are missing")
    axes = ctx.axes(given, x.type.rank + len(given))
    sizes = iter(x.type.shape)
    return ctx.e.reshape(x, [1 if i in axes else next(sizes) for i in range(x.type.rank + len(axes))])


def _concat(ctx: Context) -> Value:
    xs = ctx.tensors()
    return ctx.e.concat(xs, ctx.axis(ctx.integer("axis", 1 if ctx.opset < 4 else None), xs[0].type.rank))


def split_sizes(ctx: Context, size: int, parts: int) -> list[int]:
    """Equal parts, the last one smaller where they do not divide the size."""
    if parts <= 0:
        ctx.fail("cannot split into no parts")
    step = -(-size // parts)
    sizes = [min(step, size - i * step) for i in range(parts)]
    if min(sizes) < 0:
        ctx.fail(f"cannot split an axis of {size} into {parts} parts of {step}")
    return sizes


def _split(ctx: Context) -> list[Item | None]:
    x = ctx[0]
    axis = ctx.axis(ctx.integer("axis", 0), x.type.rank)
    sizes = ctx.ints_operand_or_attribute(1, "split")
    if sizes is None:
        sizes = tuple(split_sizes(ctx, x.type.shape[axis], ctx.integer("num_outputs", len(ctx.node.output))))
    if sum(sizes) != x.type.shape[axis] or min(sizes, default=0) < 0:
        ctx.fail(f"parts {list(sizes)} do not add up to axis {axis} of {x.type}")
    return list(ctx.e.split(x, axis, sizes))


def _slice(ctx: Context) -> Value:
    x = ctx[0]
    rank = x.type.rank
    if ctx.opset < 10:
        starts, stops = ctx.integers("starts"), ctx.integers("ends")
        axes = ctx.integers("axes", range(len(starts)))
        steps: tuple[int, ...] = (1,) * len(starts)
    else:
        starts, stops = ctx.constant_ints(1, "starts"), ctx.constant_ints(2, "ends")
        axes = ctx.constant_ints(3, "axes") if ctx.has(3) else tuple(range(len(starts)))
        steps = ctx.constant_ints(4, "steps") if ctx.has(4) else (1,) * len(starts)
    if not len(starts) == len(stops) == len(axes) == len(steps):
        ctx.fail("starts, ends, axes and steps have different lengths")
    if 0 in steps:
        ctx.fail("a step must not be 0")
    return slice_axes(
        ctx, x, dict(zip(ctx.axes(axes, rank), zip(starts, stops, steps, strict=True), strict=True))
    )


def slice_axes(ctx: Context, x: Value, parts: dict[int, tuple[int, int, int]]) -> Value:
    """Python slices of some axes; a negative step turns the axis round first."""
    low, high, every = [0] * x.type.rank, list(x.type.shape), [1] * x.type.rank
    turned = []
    for axis, (start, stop, step) in parts.items():
        size = x.type.shape[axis]
        if step > 0:
            first, last, _ = slice(start, stop, step).indices(size)
        else:
            first, last, _ = slice(start, stop, step).indices(size)
            first, last = size - 1 - first, size - 1 - last
            turned.append(axis)
        low[axis], high[axis], every[axis] = min(first, size), min(max(last, first), size), abs(step)
    if turned:
        x = ctx(Reverse(tuple(turned)), x)
    if tuple(high) == x.type.shape and not any(low) and set(every) <= {1}:
        return x
    return ctx(Slice(tuple(low), tuple(high), tuple(every)), x)


def _expand(ctx: Context) -> Value:
    shape = ctx.constant_ints(1, "the shape")
    return ctx.e.broadcast(ctx[0], broadcast_shapes(ctx[0].type.shape, shape))


def _tile(ctx: Context) -> Value:
    x, e = ctx[0], ctx.e
    repeats = ctx.constant_ints(1, "the repeats")
    if len(repeats) != x.type.rank or min(repeats, default=0) < 0:
        ctx.fail(f"repeats {list(repeats)} do not fit {x.type}")
    split = [s for n in x.type.shape for s in (1, n)]
    wide = [s for n, r in zip(x.type.shape, repeats, strict=True) for s in (r, n)]
    return e.reshape(
        e.broadcast(e.reshape(x, split), wide), [n * r for n, r in zip(x.type.shape, repeats, strict=True)]
    )


def _shape(ctx: Context) -> Value:
    shape = ctx[0].type.shape
    start, end = ctx.integer("start", 0), ctx.integer("end", len(shape))
    return ctx.e.constant(torch.tensor(shape[slice(start, end)], dtype=torch.int64))


def _size(ctx: Context) -> Value:
    return ctx.e.constant(torch.tensor(ctx[0].type.size))


def _constant(ctx: Context) -> Value:
    e, given = ctx.e, ctx.attributes
    if "value" in given:
        literal = ctx.tensor("value")
        assert literal is not None
        return e.constant(literal)
    if "sparse_value" in given:
        return e.constant(ctx.scope.reader.sparse(given["sparse_value"].sparse_tensor))
    if "value_int" in given:
        return e.constant(torch.tensor(ctx.integer("value_int")))
    if "value_ints" in given:
        return e.constant(torch.tensor(ctx.integers("value_ints"), dtype=torch.int64))
    if "value_float" in given:
        return e.constant(torch.tensor(ctx.real("value_float"), dtype=torch.float32))
    if "value_string" in given or "value_strings" in given:
        ctx.unsupported("string tensors do not exist in hardy")
    return e.constant(torch.tensor(ctx.reals("value_floats"), dtype=torch.float32))


def _constant_of_shape(ctx: Context) -> Value:
    shape = ctx.constant_ints(0, "the shape")
    literal = ctx.tensor("value")
    if literal is None:
        literal = Literal(torch.zeros(1, dtype=torch.float32))
    if literal.type.size != 1:
        ctx.fail(f"the value must have one element, got {literal.type}")
    one = ctx.e.constant(Literal(literal.tensor.reshape(()), literal.type.dtype))
    return ctx.e.broadcast(one, shape)


def _range(ctx: Context) -> Value:
    start, limit, step = (ctx.require(ctx[i], "Range needs its bounds at compile time") for i in range(3))
    if step.item() == 0:
        ctx.fail("a Range with step 0")
    dtype = ctx[0].type.dtype
    length = max(math.ceil((limit.item() - start.item()) / step.item()), 0)
    if length > 2**31:
        ctx.fail(f"a Range of {length} elements")
    exact = torch.float64 if dtype.is_float else torch.int64
    values = start.to(exact).reshape(()) + torch.arange(length, dtype=exact) * step.to(exact).reshape(())
    return ctx.e.constant(Literal(values.to(dtype.torch), dtype))


def _eye_like(ctx: Context) -> Value:
    t = ctx[0].type
    if t.rank != 2:
        ctx.fail(f"EyeLike needs a matrix, got {t}")
    dtype = ctx.dtype("dtype", t.dtype)
    rows, columns = torch.arange(t.shape[0]), torch.arange(t.shape[1])
    eye = columns[None, :] == rows[:, None] + ctx.integer("k", 0)
    return ctx.e.constant(Literal(eye.to(dtype.torch), dtype))


def _trilu(ctx: Context) -> Value:
    x = ctx[0]
    k = ctx.constant_int(1, "k") if ctx.has(1) else 0
    if x.type.rank < 2:
        ctx.fail(f"Trilu needs matrices, got {x.type}")
    ahead = torch.arange(x.type.shape[-1])[None, :] - torch.arange(x.type.shape[-2])[:, None]
    kept = ctx.e.constant(ahead >= k if ctx.integer("upper", 1) else ahead <= k)
    if x.type.dtype is DType.boolean:
        return ctx(And(), x, kept)
    return ctx.e.where(kept, x, 0)


def _pad(ctx: Context) -> Value:
    x = ctx[0]
    rank = x.type.rank
    mode = ctx.text("mode", "constant")
    pads = ctx.ints_operand_or_attribute(1, "pads")
    if pads is None:
        ctx.fail("pads are missing")
    axes = ctx.axes(ctx.constant_ints(3, "axes"), rank) if ctx.has(3) else tuple(range(rank))
    if len(pads) != 2 * len(axes):
        ctx.fail(f"{len(pads)} pads do not fit {len(axes)} axes")
    low, high = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        low[axis], high[axis] = pads[i], pads[i + len(axes)]
    if mode == "constant":
        value: float = ctx.real("value", 0.0)
        if ctx.has(2):
            value = ctx.require(ctx[2], "Pad needs its value at compile time").reshape(()).item()
        return pad_constant(ctx, x, low, high, value)
    if mode not in ("reflect", "edge", "wrap"):
        ctx.fail(f"unknown padding mode {mode!r}")
    for axis in range(rank):
        if low[axis] or high[axis]:
            x = ctx(
                Gather(axis),
                x,
                ctx.e.constant(_padded_positions(x.type.shape[axis], low[axis], high[axis], mode)),
            )
    return x


def pad_constant(
    ctx: Context, x: Value, low: Sequence[int], high: Sequence[int], value: float = 0.0
) -> Value:
    """Pad with one value; a negative amount cuts off."""
    if min((*low, *high, 0)) < 0:
        parts = {
            i: (max(-a, 0), n - max(-b, 0), 1)
            for i, (a, b, n) in enumerate(zip(low, high, x.type.shape, strict=True))
        }
        x = slice_axes(ctx, x, parts)
        low, high = [max(a, 0) for a in low], [max(b, 0) for b in high]
    if not any(low) and not any(high):
        return x
    return ctx(Pad(tuple(low), tuple(high), value), x)


def _padded_positions(size: int, low: int, high: int, mode: str) -> torch.Tensor:
    """Which element of an axis each element of the padded axis copies."""
    cut_low, cut_high = max(-low, 0), max(-high, 0)
    kept = np.arange(cut_low, size - cut_high)
    return torch.from_numpy(np.pad(kept, (max(low, 0), max(high, 0)), mode=mode))  # type: ignore[call-overload]


def _depth_to_space(ctx: Context) -> Value:
    x, e, n = ctx[0], ctx.e, ctx.integer("blocksize")
    batch, channels, height, width = _image(ctx, x)
    if n < 1 or channels % (n * n):
        ctx.fail(f"{channels} channels do not split into blocks of {n} by {n}")
    rest = channels // (n * n)
    if ctx.text("mode", "DCR") == "DCR":
        parts = e.transpose(e.reshape(x, (batch, n, n, rest, height, width)), (0, 3, 4, 1, 5, 2))
    else:
        parts = e.transpose(e.reshape(x, (batch, rest, n, n, height, width)), (0, 1, 4, 2, 5, 3))
    return e.reshape(parts, (batch, rest, height * n, width * n))


def _space_to_depth(ctx: Context) -> Value:
    x, e, n = ctx[0], ctx.e, ctx.integer("blocksize")
    batch, channels, height, width = _image(ctx, x)
    if n < 1 or height % n or width % n:
        ctx.fail(f"{x.type} does not split into blocks of {n} by {n}")
    parts = e.reshape(x, (batch, channels, height // n, n, width // n, n))
    order = (0, 3, 5, 1, 2, 4) if ctx.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return e.reshape(e.transpose(parts, order), (batch, channels * n * n, height // n, width // n))


def _image(ctx: Context, x: Value) -> tuple[int, int, int, int]:
    if x.type.rank != 4:
        ctx.fail(f"expected [batch, channels, height, width], got {x.type}")
    batch, channels, height, width = x.type.shape
    return batch, channels, height, width


def _col2im(ctx: Context) -> Value:
    """Sums sliding blocks into an image: the positions are known, so it is one scatter."""
    x, e = ctx[0], ctx.e
    image, block = ctx.constant_ints(1, "image_shape"), ctx.constant_ints(2, "block_shape")
    rank = len(image)
    dilations = ctx.integers("dilations", (1,) * rank)
    strides = ctx.integers("strides", (1,) * rank)
    pads = ctx.integers("pads", (0,) * (2 * rank))
    padded = [n + pads[i] + pads[i + rank] for i, n in enumerate(image)]
    position = torch.zeros((), dtype=torch.int64)
    for i, n in enumerate(padded):
        windows = (n - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
        at = torch.arange(block[i])[:, None] * dilations[i] + torch.arange(windows) * strides[i]
        view = [1] * (2 * rank)
        view[i], view[rank + i] = block[i], windows
        position = position * n + at.reshape(view)
    batch, total = x.type.shape[0], math.prod(block)
    if x.type.rank != 3 or position.numel() != total * x.type.shape[2] or x.type.shape[1] % total:
        ctx.fail(f"{x.type} does not hold the blocks {list(block)} of an image {list(image)}")
    channels = x.type.shape[1] // total
    rows = e.reshape(x, (batch * channels, position.numel()))
    index = e.broadcast(e.constant(position.reshape(1, -1)), rows.type.shape)
    empty = e.zeros(TensorType(x.type.dtype, (batch * channels, math.prod(padded))))
    image_padded = e.reshape(ctx(ScatterElements(1, "add"), empty, index, rows), (batch, channels, *padded))
    return slice_axes(ctx, image_padded, {2 + i: (pads[i], pads[i] + n, 1) for i, n in enumerate(image)})


IMPORTERS: dict[str, Importer] = {
    "Col2Im": _col2im,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
