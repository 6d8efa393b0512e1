"""Operators that have no importer, in terms of those that have one: torch's own decompositions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from hardy.compiler.frontends.torch.context import IMPORTERS


@functools.cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """torch's decompositions of every operator that has no importer of its own."""
    table: dict[Any, Callable[..., Any]] = dict(torch.export.default_decompositions())
    for op, decompose in decomposition_table.items():
        table.setdefault(op, decompose)
    # What writes in place is made functional first.
    return {
        op: decompose
        for op, decompose in table.items()
        if str(op) not in IMPORTERS and isinstance(op, torch._ops.OpOverload) and not op._schema.is_mutable
    }


def decompose(node: fx.Node) -> tuple[fx.GraphModule, list[fx.Node]] | None:
    """One operator as a graph over its tensors, and those tensors; None where torch knows no pieces."""
    leaves, spec = pytree.tree_flatten((list(node.args), dict(node.kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, fx.Node)]
    target = node.target

    def call(*given: torch.Tensor) -> Any:
        rest = iter(given)
        filled = [next(rest) if isinstance(leaf, fx.Node) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(filled, spec)
        result = target(*args, **kwargs)  # type: ignore[operator]  # an overload
        return result if isinstance(result, tuple | list) else (result,)

    fakes = [leaf.meta["val"] for leaf in tensors]
    traced = _trace(call, fakes)
    if any(n.op == "call_function" and n.target is target for n in traced.graph.nodes):
        return None
    return traced, tensors


def _trace(call: Callable[..., Any], tensors: Sequence[Any]) -> fx.GraphModule:
    modes = [t.fake_mode for t in tensors if isinstance(t, FakeTensor)]
    functional = torch.func.functionalize(call, remove="mutations")
    with torch.no_grad():
        if not modes:
            return make_fx(functional, decompositions(), tracing_mode="fake")(*tensors)
        with modes[0]:
            return make_fx(functional, decompositions())(*tensors)
