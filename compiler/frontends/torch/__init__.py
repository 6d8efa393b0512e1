"""The PyTorch frontend: a module, an exported program or a .pt2 file as a graph.

A model goes through torch.export to ATen operators. Those that hardy has (layer_norm, attention,
lstm, resize, ...) are kept whole; torch decomposes the others. Every node keeps the user's line and
the module it comes from; parameters are constants under their qualified names and are not copied.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.export import ExportedProgram

from hardy.compiler.errors import UsageError
from hardy.compiler.frontends.torch import (  # each module registers its importers
    activation,
    attention,
    conv,
    create,
    diagonal,
    elementwise,
    index,
    linear,
    logic,
    norm,
    pad,
    pool,
    prims,
    recurrent,
    reduce,
    resize,
    shape,
    slice_scatter,
    transcendental,
)
from hardy.compiler.frontends.torch.capture import arguments, bind, export, functional, spelling
from hardy.compiler.frontends.torch.program import to_graph
from hardy.compiler.frontends.torch.pt2 import load_pt2
from hardy.compiler.ir import Graph

FAMILIES = (
    elementwise,
    logic,
    transcendental,
    shape,
    pad,
    diagonal,
    slice_scatter,
    index,
    reduce,
    linear,
    conv,
    pool,
    norm,
    activation,
    attention,
    recurrent,
    resize,
    create,
    prims,
)

__all__ = ["load_pt2", "trace"]


def trace(
    model: nn.Module | ExportedProgram,
    inputs: object = None,
    *,
    dims: Mapping[str, int] | None = None,
    name: str = "",
) -> Graph:
    """The graph of a module run on example inputs, or of an exported program.

    inputs: a tuple of positional or a dict of keyword arguments, whose tensors may stand in nested
        tuples, lists, dicts and dataclasses; None for an exported program.
    dims: sizes for an exported program's free dimensions, by symbol or as `input.axis`.

    The graph's inputs are named as in `forward`, its outputs by the keys of what it returns. What is
    not a tensor in the inputs is part of the program. Tensors that the model writes to in place are
    left as they are.

    Raises ModelError where torch cannot trace the module or a dimension is free, UnsupportedError for
    operators and data-dependent shapes that hardy does not take, with the user's line.
    """
    spelled: Mapping[str, str] = {}
    if isinstance(model, ExportedProgram):
        if inputs is not None:
            raise UsageError("an exported program takes no example inputs")
        program = bind(model, dims or {})
        name = name or "main"
    else:
        if inputs is None:
            raise UsageError("a module needs example inputs", hint="hardy.trace(module, (x, y))")
        if dims:
            raise UsageError(
                "a module's example inputs fix all dimensions", hint="export it for free dimensions"
            )
        program = export(model, arguments(inputs))
        spelled = spelling(model, program)
        name = name or type(model).__name__
    return to_graph(functional(program), name, spelled)
