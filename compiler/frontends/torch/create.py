"""Operators without tensor operands, and those that only take a tensor's shape and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from hardy.compiler.frontends.torch.context import Context, Operand, aten
from hardy.compiler.ir import Value


def evaluate(c: Context, values: Mapping[fx.Node, Any]) -> Value | list[Value] | None:
    """An operator of numbers and known tensors, computed now; None where a tensor is not known.

    A result of equal elements becomes a broadcast.
    """
    known: dict[fx.Node, torch.Tensor] = {}
    for node in c.node.all_input_nodes:
        value = values[node]
        literal = c.e.known(value) if isinstance(value, Value) else None
        if literal is None:
            return None
        known[node] = literal.tensor
    if not known and any(isinstance(a, str) for a in c.node.args):
        c.unsupported("an operator that reads from outside the program")
    args, kwargs = fx.node.map_arg((c.node.args, c.node.kwargs), known.__getitem__)
    options = {k: torch.device("cpu") if k == "device" else v for k, v in kwargs.items()}
    with torch.no_grad():
        results = c.node.target(*args, **options)  # type: ignore[operator]  # an overload
    if isinstance(results, torch.Tensor):
        return _constant(c, results)
    return [_constant(c, r) for r in results]


def _constant(c: Context, tensor: torch.Tensor) -> Value:
    if tensor.numel() > 1 and bool((tensor == tensor.reshape(-1)[0]).all()):
        tensor = tensor.reshape(-1)[0].clone()
        return c.e.broadcast(c.e.constant(tensor), c.shape)
    return c.e.constant(tensor)


@aten("full_like", "fill.Scalar", "fill.Tensor")
def _full_like(c: Context, x: Value, value: Operand, **options: Any) -> Value:
    return c.e.broadcast(c.value(value, c.dtype), c.shape)


@aten("copy")
def _copy(c: Context, x: Value, source: Value, non_blocking: bool = False) -> Value:
    """The source in the type and shape of x."""
    return c.e.broadcast(c.value(source, c.dtype), c.shape)


@aten("new_full")
def _new_full(c: Context, x: Value, size: Sequence[int], value: Operand, **options: Any) -> Value:
    return c.e.broadcast(c.value(value, c.dtype), c.shape)


@aten("full")
def _full(c: Context, size: Sequence[int], value: Operand, **options: Any) -> Value:
    return c.e.broadcast(c.value(value, c.dtype), c.shape)


@aten("zeros_like", "new_zeros", "zero")
def _zeros_like(c: Context, x: Value, *size: Any, **options: Any) -> Value:
    return c.e.full(c.shape, 0, c.dtype)


@aten("ones_like", "new_ones")
def _ones_like(c: Context, x: Value, *size: Any, **options: Any) -> Value:
    return c.e.full(c.shape, 1, c.dtype)


@aten(
    "empty_like", "new_empty", "new_empty_strided", "empty.memory_format", "empty_strided", "empty_permuted"
)
def _empty(c: Context, *args: Any, **options: Any) -> Value:
    """Memory that nobody has written yet: zeros, as good as any."""
    return c.e.full(c.shape, 0, c.dtype)


@aten("item", "_local_scalar_dense")
def _item(c: Context, x: Value) -> None:
    c.unsupported(
        "the model reads a tensor's value into Python",
        hint="keep it a tensor, or make it an attribute of the module",
    )


@aten(
    "nonzero",
    "nonzero_numpy",
    "argwhere",
    "masked_select",
    "unique_dim",
    "_unique2",
    "unique_consecutive",
    "unique_dim_consecutive",
    "repeat_interleave.Tensor",
    "bincount",
)
def _data_dependent(c: Context, *args: Any, **options: Any) -> None:
    c.unsupported(
        "the shape of the result depends on the data; shapes are static",
        hint="run this part outside of hardy, or use an operator that keeps the shape, such as torch.where",
    )
