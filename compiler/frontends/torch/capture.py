"""A module as a functional ATen program, through torch.export.

Export runs the module's Python once on tensors without data ("non-strict" mode, which takes more
models than compiling its bytecode does) and records the operators.
"""

from __future__ import annotations

import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from hardy.compiler.errors import ModelError, UnsupportedError, UsageError
from hardy.compiler.frontends.torch.context import IMPORTERS
from hardy.compiler.frontends.torch.source import user_line

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

# What a module's own code and torch.export raise when a model cannot be traced.
_FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    LookupError,
    NotImplementedError,
    ArithmeticError,
)


def arguments(inputs: object) -> Arguments:
    """Example inputs as positional and keyword arguments: a tuple, a dict, or one tensor."""
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    raise UsageError(
        f"example inputs must be a tuple, a dict or a tensor, got {type(inputs).__name__}",
        hint="hardy.trace(module, (x, y)) or hardy.trace(module, {'input_ids': ids})",
    )


def export(model: nn.Module, inputs: Arguments) -> ExportedProgram:
    """Trace a module; ModelError with the reason where torch.export cannot."""
    _require_eval(model)
    with _quiet(), torch.no_grad():
        try:
            return torch.export.export(model, inputs[0], inputs[1], strict=False)
        except torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode as error:
            raise UnsupportedError(
                f"what the model does depends on the data: {_first_line(error)}",
                where=user_line(str(error)),
                hint="replace the branch by torch.where, or make what it reads an attribute of the module",
            ) from error
        except _FAILURES as error:
            raise ModelError(
                f"torch.export cannot trace {type(model).__name__}: {type(error).__name__}: {_first_line(error)}",
                where=_raised_at(error),
                hint="run the module on its example inputs first; torch's message is in the cause of this error",
            ) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _raised_at(error: BaseException) -> str:
    """The innermost user line of the traceback."""
    lines = []
    at = error.__traceback__
    while at is not None:
        lines.append(f'File "{at.tb_frame.f_code.co_filename}", line {at.tb_lineno}')
        at = at.tb_next
    return user_line("\n".join(line for line in lines if not line.startswith(f'File "{__file__}"')))


def _require_eval(model: nn.Module) -> None:
    """ModelError for layers that behave differently in training."""
    for name, module in model.named_modules():
        changes = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        drops = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        between = isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0
        if module.training and (changes or drops or between):
            raise ModelError(
                f"{name or type(module).__name__} ({type(module).__name__}) is in training mode",
                hint="call model.eval() before tracing",
            )


def functional(program: ExportedProgram) -> ExportedProgram:
    """The program without mutation, in the operators that have an importer and others that have none."""
    with _quiet(), torch.no_grad():
        return program.run_decompositions(decompositions())


@functools.cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """torch's decompositions of every operator that has no importer of its own."""
    from torch._decomp import decomposition_table

    table: dict[Any, Callable[..., Any]] = dict(torch.export.default_decompositions().items())
    for op, decompose in decomposition_table.items():
        table.setdefault(op, decompose)
    return {op: decompose for op, decompose in table.items() if str(op) not in IMPORTERS}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's notices about its own internals, and without its fused encoder layer."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast)


def spelling(model: nn.Module, program: ExportedProgram) -> dict[str, str]:
    """Export writes the names of inputs in lower case; this gives them as `forward` spells them."""
    parameters = {name.lower(): name for name in inspect.signature(model.forward).parameters}
    result = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument):
            label = spec.arg.name
            for low, name in parameters.items():
                if label == low or label.startswith(f"{low}_"):
                    result[label] = name + label[len(low) :]
    return result


def free_dimensions(program: ExportedProgram) -> dict[str, list[str]]:
    """The free sizes: symbol -> the `input.axis` places where it stands."""
    result: dict[str, list[str]] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor):
            for axis, size in enumerate(node.meta["val"].shape):
                if not isinstance(size, int):
                    result.setdefault(str(size), []).append(f"{node.name}.{axis}")
    return result


def bind(program: ExportedProgram, dims: Mapping[str, int]) -> ExportedProgram:
    """The program for fixed sizes, traced again; `dims` names them by symbol or by `input.axis`.

    ModelError lists what is still free; UsageError for a name that the program does not have.
    """
    free = free_dimensions(program)
    places = {place: symbol for symbol, found in free.items() for place in found}
    listing = "; ".join(f"{symbol} ({', '.join(found)})" for symbol, found in free.items())
    sizes: dict[str, int] = {}
    for name, size in dims.items():
        symbol = places.get(name, name)
        if symbol not in free:
            raise UsageError(
                f"the program has no free dimension {name!r}", hint=f"its free dimensions are {listing or 'none'}"
            )
        if sizes.setdefault(symbol, size) != size:
            raise UsageError(f"dimension {symbol} is bound to {sizes[symbol]} and to {size}")
    if not free:
        return program
    unbound = [s for s in free if s not in sizes]
    if unbound:
        flags = " ".join(f"--dim {free[s][0]}=1" for s in unbound)
        raise ModelError(f"free dimensions are not bound: {listing}", hint=f"give {flags}")
    return export(program.module(check_guards=False), _resized(program, sizes))


def _resized(program: ExportedProgram, sizes: Mapping[str, int]) -> Arguments:
    """Example inputs of the bound sizes."""
    tensors: dict[str, torch.Tensor] = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor):
            shape = [n if isinstance(n, int) else _size(n, sizes) for n in value.shape]
            tensors[node.name] = torch.zeros(shape, dtype=value.dtype)
    leaves = [
        tensors[s.arg.name] if isinstance(s.arg, TensorArgument) else s.arg.value  # type: ignore[union-attr]
        for s in program.graph_signature.input_specs
        if s.kind is InputKind.USER_INPUT
    ]
    args, kwargs = pytree.tree_unflatten(leaves, program.call_spec.in_spec)  # type: ignore[arg-type]
    return args, kwargs


def _size(size: torch.SymInt, sizes: Mapping[str, int]) -> int:
    """A symbolic size, such as 2*s0, under bound symbols."""
    expression = size.node.expr
    return int(expression.subs({s: sizes[str(s)] for s in expression.free_symbols}))
