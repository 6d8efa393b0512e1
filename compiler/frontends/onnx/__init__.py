"""The ONNX frontend: a model file as a graph.

Every node keeps the ONNX node it came from. Shapes are static, so that free dimensions must be
bound; what computes shapes is evaluated during import and leaves no nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, ValueInfoProto

from hardy.compiler.errors import ModelError, UnsupportedError, UsageError
from hardy.compiler.frontends.emit import Emitter
from hardy.compiler.frontends.onnx.context import ConstantRequiredError, EmptyOptional, TensorList
from hardy.compiler.frontends.onnx.model import Body, opsets, read
from hardy.compiler.frontends.onnx.scope import Scope
from hardy.compiler.frontends.onnx.tensors import (
    TensorReader,
    checked_shape,
    dtype_of,
    dtype_of_array,
    from_array,
)
from hardy.compiler.ir import Graph, Value
from hardy.compiler.literal import Literal
from hardy.compiler.types import TensorType

__all__ = ["ConstantRequiredError", "load"]


def load(
    source: Path | str | bytes | ModelProto,
    *,
    dims: Mapping[str, int] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    bind: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> Graph:
    """Import an ONNX model of operator set 7 or later (6 where it differs only in broadcasting).

    `dims` gives sizes to free dimensions by name, `shapes` whole shapes to inputs; `bind` makes
    inputs constants of the graph. External data must lie in the model's folder.

    Raises ModelError for a damaged or ill-formed model or an unbound dimension, UnsupportedError
    for what hardy does not take, ConstantRequiredError (a ModelError) where an operator needs a value at
    compile time that depends on an input, UsageError for a name that the model does not have.
    """
    model, folder = read(source)
    dims, shapes, bind = dims or {}, shapes or {}, bind or {}
    graph = model.graph
    body = Body.of_graph(graph)
    emitter = Emitter(graph.name or "main")
    functions = {
        ("" if f.domain == "ai.onnx" else f.domain, f.name, getattr(f, "overload", "")): f
        for f in model.functions
    }
    scope = Scope(emitter, TensorReader(folder), opsets(model), functions, tensors=body.tensors)
    free = [i for i in graph.input if i.name not in body.tensors]
    _check_names(free, dims, shapes, bind)
    bound = {i.name: _bound_literal(i, bind[i.name]) for i in free if i.name in bind}
    types = _input_types([i for i in free if i.name not in bound], dims, shapes)
    for info in free:
        where = f"onnx:input {info.name!r}"
        if info.name in bound:
            value = emitter.builder.constant(bound[info.name], name=info.name, source=where)
        else:
            value = emitter.builder.input(info.name, types[info.name], source=where)
        scope.names[info.name] = value
    outputs: dict[str, Value] = {}
    for name, item in zip(body.outputs, scope.run(body), strict=True):
        if name in outputs:
            raise ModelError(f"two outputs have the name {name!r}")
        if not isinstance(item, Value):
            kind = {TensorList: "a sequence", EmptyOptional: "an empty optional"}.get(type(item), "left out")
            raise UnsupportedError(
                f"output {name!r} is {kind}; a graph returns tensors", hint="return the tensors themselves"
            )
        outputs[name] = item
    return emitter.finish(outputs)


def _check_names(
    inputs: list[ValueInfoProto],
    dims: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
    bind: Mapping[str, object],
) -> None:
    names = [i.name for i in inputs]
    for name in (*shapes, *bind):
        if name not in names:
            raise UsageError(
                f"the model has no input {name!r}", hint=f"its inputs are {', '.join(names) or 'none'}"
            )
    known = dict.fromkeys(
        d.dim_param for i in inputs for d in i.type.tensor_type.shape.dim if d.HasField("dim_param")
    )
    for name, size in dims.items():
        if name not in known:
            listing = ", ".join(map(repr, known)) or "none"
            raise UsageError(
                f"the model has no free dimension {name!r}", hint=f"its free dimensions are {listing}"
            )
        if size < 0:
            raise UsageError(f"dimension {name!r} must not be negative, got {size}")


def _bound_literal(info: ValueInfoProto, given: np.ndarray[Any, Any]) -> Literal:
    """The value of an input that becomes a constant; UsageError where it is not what the model declares."""
    array = np.asarray(given)
    literal = from_array(array, dtype_of_array(array, f"input {info.name!r}"))
    t, declared = literal.type, info.type.tensor_type
    expected = dtype_of(declared.elem_type, f"input {info.name!r}")
    fits = not declared.HasField("shape") or (
        len(declared.shape.dim) == t.rank
        and all(
            not d.HasField("dim_value") or d.dim_value in (-1, n)
            for d, n in zip(declared.shape.dim, t.shape, strict=True)
        )
    )
    if t.dtype is not expected or not fits:
        raise UsageError(f"the value bound to {info.name!r} is {t}, the model declares {_declared(info)}")
    return literal


def _declared(info: ValueInfoProto) -> str:
    t = info.type.tensor_type
    dtype = dtype_of(t.elem_type, f"input {info.name!r}")
    if not t.HasField("shape"):
        return f"{dtype} of any shape"
    return (
        f"{dtype}[{','.join(str(d.dim_value) if _is_bound(d) else d.dim_param or '?' for d in t.shape.dim)}]"
    )


def _is_bound(dim: Any) -> bool:
    return bool(dim.HasField("dim_value")) and dim.dim_value >= 0


def _input_types(
    inputs: list[ValueInfoProto], dims: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, TensorType]:
    """The static type of each input; one error lists every dimension that is still free."""
    types: dict[str, TensorType] = {}
    unbound: list[str] = []
    flags: dict[str, None] = {}
    for info in inputs:
        where = f"input {info.name!r}"
        if info.type.WhichOneof("value") != "tensor_type":
            kind = (
                (info.type.WhichOneof("value") or "an unknown type").removesuffix("_type").replace("_", " ")
            )
            raise UnsupportedError(
                f"input {info.name!r} is not a tensor but {kind}", hint="pass its tensors one by one"
            )
        t = info.type.tensor_type
        dtype = dtype_of(t.elem_type, where)
        if info.name in shapes:
            shape = checked_shape(shapes[info.name], where)
            _check_shape(info, shape)
            types[info.name] = TensorType(dtype, shape)
            continue
        if not t.HasField("shape"):
            unbound.append(f"{info.name}: {_declared(info)}")
            flags[f"--shape {info.name}=..."] = None
            continue
        sizes: list[int] = []
        for d in t.shape.dim:
            if _is_bound(d):
                sizes.append(d.dim_value)
            elif d.dim_param in dims:
                sizes.append(dims[d.dim_param])
        if len(sizes) == len(t.shape.dim):
            types[info.name] = TensorType(dtype, checked_shape(sizes, where))
            continue
        unbound.append(f"{info.name}: {_declared(info)}")
        params = [d.dim_param for d in t.shape.dim if not _is_bound(d)]
        if all(params):
            flags.update(dict.fromkeys(f"--dim {_quoted(f'{p}=1')}" for p in params if p not in dims))
        else:
            example = "x".join(str(d.dim_value) if _is_bound(d) else "1" for d in t.shape.dim)
            flags[f"--shape {_quoted(f'{info.name}={example}')}"] = None
    if unbound:
        raise ModelError(
            f"free dimensions are not bound: {'; '.join(unbound)}", hint=f"give {' '.join(flags)}"
        )
    return types


def _quoted(text: str) -> str:
    """An argument as a shell takes it."""
    return f"'{text}'" if set(text) & set(" ?*()[]{}$&|;<>") else text


def _check_shape(info: ValueInfoProto, shape: tuple[int, ...]) -> None:
    t = info.type.tensor_type
    if not t.HasField("shape"):
        return
    fixed = [d.dim_value if _is_bound(d) else None for d in t.shape.dim]
    if len(fixed) != len(shape) or any(f not in (None, s) for f, s in zip(fixed, shape, strict=True)):
        raise UsageError(
            f"shape {list(shape)} does not fit input {info.name!r}: the model declares {_declared(info)}"
        )
