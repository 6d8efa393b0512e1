"""Narrower floats: for weights in storage, or for all that is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hardy.compiler.errors import GraphError, UnsupportedError, UsageError
from hardy.compiler.ir import Builder, Graph, Node, Value, make_node, transform
from hardy.compiler.literal import Literal
from hardy.compiler.notes import note
from hardy.compiler.ops.activation import LogSoftmax, Softmax
from hardy.compiler.ops.elementwise import Cast
from hardy.compiler.ops.norm import BatchNorm, GroupNorm, LayerNorm, ReduceMean, RmsNorm
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.ops.reduce import CumSum, ReduceProd, ReduceSum
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.layers import Layer, layers, select

HALF = (DType.f16, DType.bf16)
EIGHT = (DType.f8e4m3, DType.f8e5m2)
# They sum or square what they read, in the type that they read.
NORMS = (RmsNorm, LayerNorm, GroupNorm, BatchNorm)
WIDE = (*NORMS, Softmax, LogSoftmax, ReduceSum, ReduceMean, ReduceProd, CumSum)


@dataclass(frozen=True)
class CastFloats(Pass):
    """Store the weights of layers in a narrower float type, or compute in it.

    `dtype` is bf16, f16, f8e4m3 or f8e5m2. By default the f32 weights of layers are stored in it and
    widened where they are used; those of 8 bits with a scale for each output channel. With `compute`
    (bf16 and f16) all f32 values become `dtype`; inputs and outputs of the graph keep their types,
    products sum in f32 as their ops do, and normalizations, softmax and sums stay f32. Constants that
    are too large for f16 become its largest number. `only` and `skip` select layers, and with
    `compute` those that stay f32 are the ones not selected.
    """

    exact: ClassVar[bool] = False

    dtype: DType = DType.bf16
    compute: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph) -> Graph:
        if self.dtype not in (*HALF, *EIGHT):
            raise UsageError(f"cannot cast to {self.dtype}", hint="use bf16, f16, f8e4m3 or f8e5m2")
        if self.compute and self.dtype in EIGHT:
            raise UsageError(f"products of {self.dtype} do not exist", hint="leave out compute")
        found = list(layers(graph))
        chosen = [
            layer for layer in select(found, self.only, self.skip) if layer.weight.type.dtype is DType.f32
        ]
        note("layers", len(chosen))
        for layer in chosen:
            if not bool(layer.data.isfinite().all()):
                raise UnsupportedError(
                    f"the weight of {layer.name} holds NaN or infinity", where=layer.node.source
                )
        if self.compute:
            kept = {layer.node for layer in found} - {layer.node for layer in chosen}
            return _Narrowing(self.dtype, kept).run(graph)
        return self._store({layer.node: layer for layer in chosen}, graph)

    def _store(self, chosen: dict[Node, Layer], graph: Graph) -> Graph:
        made: dict[tuple[Value, int], Value] = {}

        def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            layer = chosen.get(node)
            if layer is None:
                return None
            key = (layer.weight, layer.out_axis)
            if key not in made:
                made[key] = self._stored(b, layer)
            new = list(operands)
            new[layer.place] = made[key]
            return b.append(replace(node, operands=tuple(new)))

        after = transform(graph, rewrite)
        return EliminateDeadCode().run(after)

    def _stored(self, b: Builder, layer: Layer) -> Value:
        name, source = layer.weight.node.name, layer.weight.node.source
        if self.dtype in HALF:
            literal = Literal(_narrow(layer.data, self.dtype), self.dtype)
            return b(Cast(DType.f32), b.constant(literal, name=name, source=source))
        rows = layer.rows().float()
        largest = float(torch.finfo(self.dtype.torch).max)
        scale = rows.abs().amax(1) / largest
        scale = torch.where(scale == 0, 1.0, scale.clamp(min=2.0**-100))
        stored = layer.unrows(_narrow(rows / scale[:, None], self.dtype))
        parameter = b.constant(scale, name=name and f"{name}.scale")
        return b(Dequantize(layer.out_axis), b.constant(Literal(stored), name=name, source=source), parameter)


def _narrow(x: Tensor, dtype: DType) -> Tensor:
    """x in the type, what is finite but too large at its ends."""
    largest = torch.finfo(dtype.torch).max
    return torch.where(x.isfinite(), x.clamp(-largest, largest), x).to(dtype.torch)


@dataclass
class _Narrowing:
    """A sweep that turns f32 into another type wherever the ops allow."""

    dtype: DType
    kept: set[Node]

    def run(self, graph: Graph) -> Graph:
        outputs = {v: v.type.dtype for v in graph.outputs}
        b = Builder(graph.name)
        now: dict[Value, Value] = {}
        cache: dict[tuple[Value, DType], Value] = {}

        def cast(v: Value, dtype: DType) -> Value:
            if v.type.dtype is dtype or not v.type.dtype.is_float:
                return v
            key = (v, dtype)
            if key not in cache:
                literal = v.literal
                if literal is not None:
                    new = Literal(_narrow(literal.tensor, dtype), dtype)
                    cache[key] = b.constant(new, name=v.node.name, source=v.node.source)
                else:
                    cache[key] = b(Cast(dtype), v, source=v.node.source)
            return cache[key]

        def narrowed(v: Value) -> Value:
            return cast(v, self.dtype) if v.type.dtype is DType.f32 else v

        wide = 0
        for node in graph.nodes:
            if not node.operands:
                for v in b.append(node):
                    now[v] = v
                continue
            operands = [now[v] for v in node.operands]
            new = None
            if node not in self.kept and not isinstance(node.op, WIDE):
                new = self._try(node, [narrowed(v) for v in operands])
            if new is None:
                given = [cast(v, old.type.dtype) for v, old in zip(operands, node.operands, strict=True)]
                new = node if tuple(given) == node.operands else replace(node, operands=tuple(given))
                wide += any(t.dtype is DType.f32 for t in node.types)
            b.append(new)
            now.update(zip(node.values, new.values, strict=True))
        note("nodes_kept_f32", wide)
        results = [cast(now[v], outputs[v]) for v in graph.outputs]
        return EliminateDeadCode().run(graph.with_nodes(b._nodes, results))

    def _try(self, node: Node, operands: Sequence[Value]) -> Node | None:
        """The node over narrower operands, None where its op does not take them or would give f32."""
        if not any(v.type.dtype is self.dtype for v in operands):
            return None
        op: Any = node.op
        if isinstance(op, Cast):
            return None
        try:
            new = make_node(op, operands, node.name, node.source)
        except GraphError:
            return None
        same = all(a.shape == c.shape for a, c in zip(new.types, node.types, strict=True))
        return new if same and not any(t.dtype is DType.f32 for t in new.types) else None
