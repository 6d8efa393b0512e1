"""Normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch

from hardy.compiler.frontends.torch.context import Context, aten
from hardy.compiler.frontends.torch.reduce import variance
from hardy.compiler.ir import Value
from hardy.compiler.ops.elementwise import Sqrt
from hardy.compiler.ops.norm import BatchNorm, GroupNorm, LayerNorm, RmsNorm
from hardy.compiler.types import DType, TensorType


def _vector(c: Context, x: Value | None, fill: float, t: TensorType) -> Value:
    """A vector operand, or a constant where it is left out."""
    return c.e.full(t.shape, fill, t.dtype) if x is None else c.value(x, t.dtype)


def _normalize(
    c: Context, x: Value, weight: Value | None, bias: Value | None, mean: Value, var: Value, eps: float
) -> Value:
    t = TensorType(x.type.dtype, (x.type.shape[1],))
    vectors = [
        _vector(c, weight, 1.0, t),
        _vector(c, bias, 0.0, t),
        c.value(mean, t.dtype),
        c.value(var, t.dtype),
    ]
    return c(BatchNorm(eps, 1), x, *vectors)


@aten("_native_batch_norm_legit_no_training", "native_batch_norm", "cudnn_batch_norm")
def _batch_norm(
    c: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    var: Value | None,
    *rest: float | bool,
) -> list[Value | None]:
    *flags, _, eps = rest
    if any(flags) or mean is None or var is None:
        refuse_training(c)
    y = _normalize(c, x, weight, bias, mean, var, float(eps))
    # Outside of training the statistics have no elements.
    return [y, *[c.e.zeros(t) if t is not None and t.size == 0 else None for t in c.types[1:]]]


@aten("batch_norm")
def _batch_norm_composite(
    c: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    var: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value:
    if not training and x.type.size == 0:
        return x
    if not training and mean is not None and var is not None:
        return _normalize(c, x, weight, bias, mean, var, eps)
    if mean is not None or var is not None:
        refuse_training(c)
    return _by_batch(c, x, weight, bias, eps)


def _by_batch(c: Context, x: Value, weight: Value | None, bias: Value | None, eps: float) -> Value:
    """Batch normalization by the batch's own statistics, which leaves nothing behind."""
    axes = tuple(a for a in range(x.type.rank) if a != 1)
    var, mean = variance(c, x, axes, 0.0, keepdim=False)
    return _normalize(c, x, weight, bias, mean, var, eps)


@aten("_native_batch_norm_legit.no_stats")
def _batch_norm_no_stats(
    c: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    training: bool,
    momentum: float,
    eps: float,
) -> list[Value | None]:
    y = _by_batch(c, x, weight, bias, eps)
    if not (c.used(1) or c.used(2)):
        return [y, None, None]
    return [y, *_statistics(c, x, tuple(a for a in range(x.type.rank) if a != 1), eps)]


@aten("_native_batch_norm_legit", "_native_batch_norm_legit_functional", "_batch_norm_with_update_functional")
def _batch_norm_training(c: Context, *args: object) -> None:
    refuse_training(c)


def refuse_training(c: Context) -> NoReturn:
    c.unsupported(
        "batch normalization in training mode changes its statistics", hint="call model.eval() first"
    )


@aten("instance_norm")
def _instance_norm(
    c: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    var: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value:
    if not use_input_stats and mean is not None and var is not None:
        return _normalize(c, x, weight, bias, mean, var, eps)
    if mean is not None or var is not None:
        refuse_training(c)
    return _group_norm(c, x, x.type.shape[1], weight, bias, eps)


@aten("group_norm")
def _group_norm(
    c: Context,
    x: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    t = TensorType(x.type.dtype, (x.type.shape[1],))
    return c(GroupNorm(num_groups, eps), x, *_affine(c, weight, bias, t))


@aten("native_group_norm")
def _native_group_norm(
    c: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    n: int,
    channels: int,
    hxw: int,
    group: int,
    eps: float,
) -> list[Value | None]:
    y = _group_norm(c, x, group, weight, bias, eps)
    if not (c.used(1) or c.used(2)):
        return [y, None, None]
    grouped = c.e.reshape(x, (n, group, channels // group * hxw))
    return [y, *_statistics(c, grouped, (2,), eps)]


def _statistics(c: Context, x: Value, axes: tuple[int, ...], eps: float) -> list[Value]:
    """Mean and 1 / sqrt(variance + eps), in the shapes that torch gives them."""
    var, mean = variance(c, x, axes, 0.0, keepdim=False)
    scale = c.e.div(1, c(Sqrt(), c.e.add(var, eps)))
    return [c.e.reshape(v, t.shape) for v, t in zip((mean, scale), c.types[1:], strict=True) if t is not None]


def _affine(c: Context, weight: Value | None, bias: Value | None, t: TensorType) -> list[Value]:
    """The optional operands: nothing where both are left out."""
    if weight is None and bias is None:
        return []
    if bias is None:
        return [_vector(c, weight, 1.0, t)]
    return [_vector(c, weight, 1.0, t), c.value(bias, t.dtype)]


@aten("layer_norm")
def layer_norm(
    c: Context,
    x: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Value:
    x = c.value(x, c.dtype)
    t = TensorType(c.dtype, tuple(normalized_shape))
    axis = x.type.rank - len(normalized_shape)
    return c(LayerNorm(axis, eps), x, *_affine(c, weight, bias, t))


@aten("native_layer_norm")
def _native_layer_norm(
    c: Context, x: Value, shape: Sequence[int], weight: Value | None, bias: Value | None, eps: float
) -> list[Value | None]:
    y = layer_norm(c, x, shape, weight, bias, eps)
    if not (c.used(1) or c.used(2)):
        return [y, None, None]
    axes = tuple(range(x.type.rank - len(shape), x.type.rank))
    return [y, *_statistics(c, x, axes, eps)]


@aten("rms_norm")
def _rms_norm(
    c: Context,
    x: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    eps: float | None = None,
) -> Value:
    computed = DType.f32 if x.type.dtype in (DType.f16, DType.bf16) else x.type.dtype
    if eps is None:
        eps = torch.finfo(x.type.dtype.torch).eps
    axis = x.type.rank - len(normalized_shape)
    y = c(RmsNorm(axis, eps), c.value(x, computed), *([] if weight is None else [c.value(weight, computed)]))
    return c.value(y, c.dtype)
