"""A module as a functional ATen program, through torch.export.

Export runs the module's Python once on tensors without data ("non-strict" mode, which takes more
models than compiling its bytecode does) and records the operators.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, PendingUnbackedSymbolNotFound
from torch.utils import _pytree as pytree

from hardy.compiler.errors import ModelError, UnsupportedError, UsageError
from hardy.compiler.frontends.torch.decompose import decompositions
from hardy.compiler.frontends.torch.inplace import is_simple
from hardy.compiler.frontends.torch.source import user_line

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

# What tracing without data meets where the program depends on it.
_DATA_DEPENDENT = (
    GuardOnDataDependentSymNode,
    PendingUnbackedSymbolNotFound,
    DataDependentOutputException,
    DynamicOutputShapeException,
)

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
    with quiet(), torch.no_grad():
        try:
            return torch.export.export(model, inputs[0], inputs[1], strict=False)
        except _DATA_DEPENDENT as error:
            raise UnsupportedError(
                f"what the model does depends on the data: {_first_line(error)}",
                where=user_line(str(error)) or _raised_at(error),
                hint="replace the branch by torch.where, or make what it reads an attribute of the module",
            ) from error
        except _FAILURES as error:
            raise ModelError(
                f"torch.export cannot trace {type(model).__name__}: "
                f"{type(error).__name__}: {_first_line(error)}",
                where=_raised_at(error),
                hint="run the module on its example inputs first; this error's cause has torch's message",
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
    """The program without mutation; the same one where only tensors that nothing shares are written to."""
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    if all(is_simple(graph) for graph in graphs):
        return program
    with quiet(), torch.no_grad():
        result: ExportedProgram = program.run_decompositions(decompositions())
        return result


@contextmanager
def quiet() -> Iterator[None]:
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


def free_dimensions(program: ExportedProgram) -> dict[str, sympy.Expr]:
    """The free sizes of the inputs: `input.axis` -> a symbol, or an expression such as 2*s0."""
    return {
        f"{node.name}.{axis}": size.node.expr
        for node in program.graph.nodes
        if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor)
        for axis, size in enumerate(node.meta["val"].shape)
        if not isinstance(size, int)
    }


def bind(program: ExportedProgram, dims: Mapping[str, int]) -> ExportedProgram:
    """The program for fixed sizes, traced again; `dims` names them by symbol or by `input.axis`.

    ModelError lists what is still free; UsageError for a name that the program does not have, or a
    size that it does not take.
    """
    free = free_dimensions(program)
    symbols = {str(symbol): symbol for expr in free.values() for symbol in expr.free_symbols}
    listing = ", ".join(f"{place} = {expr}" for place, expr in free.items())
    sizes: dict[sympy.Symbol, int] = {}
    for name, size in dims.items():
        expr = free.get(name, symbols.get(name))
        if expr is None:
            raise UsageError(
                f"the program has no free dimension {name!r}",
                hint=f"its free dimensions are {listing or 'none'}",
            )
        for symbol, value in _solve(expr, size, name).items():
            if sizes.setdefault(symbol, value) != value:
                raise UsageError(f"dimension {symbol} is bound to {sizes[symbol]} and to {value}")
    if not free:
        return program
    if unbound := [name for name, symbol in symbols.items() if symbol not in sizes]:
        flags = " ".join(f"--dim {name}=1" for name in unbound)
        raise ModelError(
            f"free dimensions are not bound: {listing}", hint=f"give {flags}, or name them by place"
        )
    for symbol, value in sizes.items():
        allowed = program.range_constraints.get(symbol)
        if allowed is not None and not allowed.lower <= value <= allowed.upper:
            raise UsageError(f"dimension {symbol} must be {allowed.lower} to {allowed.upper}, got {value}")
    return export(program.module(check_guards=False), _resized(program, sizes))


def _solve(expr: sympy.Expr, size: int, name: str) -> dict[sympy.Symbol, int]:
    """The symbol's value for which an expression of it is `size`."""
    if len(expr.free_symbols) > 1:
        raise UsageError(f"{name} is {expr}", hint="bind the symbols in it")
    (symbol,) = expr.free_symbols
    for value in sympy.solve(expr - size, symbol):
        if value.is_Integer:
            return {symbol: int(value)}
    raise UsageError(f"{name} is {expr}, which cannot be {size}")


def _resized(program: ExportedProgram, sizes: Mapping[sympy.Symbol, int]) -> Arguments:
    """Example inputs of the bound sizes."""
    tensors: dict[str, torch.Tensor] = {}
    names = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in names and isinstance(value, torch.Tensor):
            shape = [n if isinstance(n, int) else int(n.node.expr.subs(sizes)) for n in value.shape]
            tensors[node.name] = torch.zeros(shape, dtype=value.dtype)
    leaves = [
        tensors[s.arg.name] if isinstance(s.arg, TensorArgument) else s.arg.value
        for s in program.graph_signature.input_specs
        if s.kind is InputKind.USER_INPUT
    ]
    args, kwargs = pytree.tree_unflatten(leaves, program.call_spec.in_spec)
    return args, kwargs
