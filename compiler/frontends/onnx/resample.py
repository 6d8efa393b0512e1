"""Resizing images by a known factor: Resize and its predecessor Upsample."""

from __future__ import annotations

import math

from hardy.compiler.frontends.onnx.context import Context, Importer
from hardy.compiler.ir import Value
from hardy.compiler.ops.resize import Resize


def _upsample(ctx: Context) -> Value:
    scales = ctx.reals("scales") if "scales" in ctx.attributes else _floats(ctx, 1, "scales")
    return _legacy(ctx, scales)


def _legacy(ctx: Context, scales: tuple[float, ...]) -> Value:
    """Resize before operator set 11: corners at the element's edge, nearest rounds down."""
    x = ctx[0]
    if len(scales) != x.type.rank:
        ctx.fail(f"{len(scales)} scales do not fit {x.type}")
    shape = tuple(math.floor(n * s) for n, s in zip(x.type.shape, scales, strict=True))
    mode = "nearest" if ctx.text("mode", "nearest") == "nearest" else "linear"
    return ctx(Resize(shape, scales, mode, "asymmetric", "floor"), x)


def _floats(ctx: Context, index: int, what: str) -> tuple[float, ...]:
    return tuple(ctx.constant(index, what).double().reshape(-1).tolist())


def _resize(ctx: Context) -> Value:
    x = ctx[0]
    if ctx.opset < 11:
        return _legacy(ctx, _floats(ctx, 1, "scales"))
    rank = x.type.rank
    axes = ctx.axes(ctx.integers("axes", range(rank)), rank)
    scales, shape = [1.0] * rank, list(x.type.shape)
    given = _floats(ctx, 2, "scales") if ctx.has(2) and ctx[2].type.size else ()
    if given:
        if len(given) != len(axes):
            ctx.fail(f"{len(given)} scales do not fit {len(axes)} axes")
        for axis, scale in zip(axes, given, strict=True):
            scales[axis], shape[axis] = scale, math.floor(x.type.shape[axis] * scale)
    elif ctx.has(3):
        _from_sizes(ctx, x, axes, scales, shape)
    else:
        ctx.fail("Resize needs scales or sizes")
    coordinates = ctx.text("coordinate_transformation_mode", "half_pixel")
    roi: tuple[tuple[float, float], ...] = ()
    if coordinates == "tf_crop_and_resize":
        spans = _floats(ctx, 1, "the region")
        if len(spans) != 2 * len(axes):
            ctx.fail(f"a region of {len(spans)} numbers does not fit {len(axes)} axes")
        by_axis = {axis: (spans[i], spans[i + len(axes)]) for i, axis in enumerate(axes)}
        roi = tuple(by_axis.get(axis, (0.0, 1.0)) for axis in range(rank))
    op = Resize(
        tuple(shape),
        tuple(scales),
        ctx.text("mode", "nearest"),
        coordinates,
        ctx.text("nearest_mode", "round_prefer_floor"),
        ctx.real("cubic_coeff_a", -0.75),
        bool(ctx.integer("antialias", 0)),
        bool(ctx.integer("exclude_outside", 0)),
        ctx.real("extrapolation_value", 0.0),
        roi,
    )
    return ctx(op, x)


def _from_sizes(ctx: Context, x: Value, axes: tuple[int, ...], scales: list[float], shape: list[int]) -> None:
    sizes = ctx.constant_ints(3, "sizes")
    if len(sizes) != len(axes):
        ctx.fail(f"{len(sizes)} sizes do not fit {len(axes)} axes")
    quotients = [size / x.type.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
    policy = ctx.text("keep_aspect_ratio_policy", "stretch")
    for axis, size, quotient in zip(axes, sizes, quotients, strict=True):
        scales[axis], shape[axis] = quotient, size
        if policy != "stretch":
            common = min(quotients) if policy == "not_larger" else max(quotients)
            scales[axis], shape[axis] = common, math.floor(common * x.type.shape[axis] + 0.5)


IMPORTERS: dict[str, Importer] = {"Resize": _resize, "Upsample": _upsample}
