"""The graph: typed, static, immutable SSA, built once through a `Builder`.

A `Graph` is a tuple of nodes in topological order. A `Node` applies an `Op` to the `Value`s of
earlier nodes and has one or more results. Nodes are immutable and know only their operands, so
graphs share every node that a pass left alone.
"""

from __future__ import annotations

import functools
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch

from hardy.compiler.errors import GraphError
from hardy.compiler.literal import Literal
from hardy.compiler.types import DType, TensorType

Types = TensorType | tuple[TensorType, ...]


@dataclass(frozen=True)
class Signature:
    """The operands of an op: names, how many may be left out at the end, and if the last repeats."""

    names: tuple[str, ...]
    optional: int
    variadic: bool


@dataclass(frozen=True)
class Op(ABC):
    """An operation and its attributes, defined once as a frozen dataclass.

    The parameter names of `infer` are the operand names: a default of None marks an operand that
    may be left out (only at the end), `*names` one that repeats. Attributes are the dataclass
    fields; they print, hash and compare, so equal ops on equal operands compute the same thing.
    Ops that are not core define `decompose` as well.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @abstractmethod
    def infer(self, *operands: Any, **unused: Any) -> Types:
        """The result types for these operand types; raises GraphError where they do not fit."""

    @abstractmethod
    def reference(self, *operands: Any, **unused: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Compute the results with torch, differentiably where the maths is."""

    def macs(self, *operands: Any, **unused: Any) -> int:
        """Multiply-accumulates of one run, given operand types; 0 for what multiplies nothing."""
        return 0

    @classmethod
    def is_core(cls) -> bool:
        """Whether this op has no decomposition, so that every target must lower it."""
        return not hasattr(cls, "decompose")

    @classmethod
    @functools.cache
    def signature(cls) -> Signature:
        parameters = list(inspect.signature(cls.infer).parameters.values())[1:]
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        optional = sum(p.default is None for p in parameters)
        return Signature(tuple(p.name for p in parameters), optional, variadic)


@dataclass(frozen=True)
class Input(Op):
    """An input of the graph: what the caller passes under `label` at run time."""

    label: str
    type: TensorType

    def infer(self) -> TensorType:
        return self.type

    def reference(self) -> torch.Tensor:
        raise GraphError(f"input {self.label!r} has no value of its own", hint="pass it to the run")


@dataclass(frozen=True)
class Constant(Op):
    """A tensor known at compile time."""

    literal: Literal

    def infer(self) -> TensorType:
        return self.literal.type

    def reference(self) -> torch.Tensor:
        return self.literal.tensor


class Value(NamedTuple):
    """One result of a node. Compares and hashes by the node's identity."""

    node: Node
    index: int  # type: ignore[assignment]  # hides tuple.index, which means nothing here

    @property
    def type(self) -> TensorType:
        return self.node.types[self.index]

    @property
    def op(self) -> Op:
        """The op that computes this value."""
        return self.node.op

    @property
    def literal(self) -> Literal | None:
        """The constant's data, None for anything else."""
        op = self.node.op
        return op.literal if isinstance(op, Constant) else None

    def __repr__(self) -> str:
        return f"Value({self.node.op.name}[{self.index}]: {self.type})"


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """An op applied to values. Identity is the object's; `name` is a hint for people.

    `source` says where the node came from: the user's source line, or the ONNX node.
    """

    op: Op
    operands: tuple[Value, ...]
    types: tuple[TensorType, ...]
    name: str = ""
    source: str = ""

    @property
    def values(self) -> tuple[Value, ...]:
        return tuple(Value(self, i) for i in range(len(self.types)))

    @property
    def type(self) -> TensorType:
        """The type of the first result."""
        return self.types[0]

    def __repr__(self) -> str:
        return f"Node({self.op.name} {self.name} -> {', '.join(map(str, self.types))})"


@dataclass(frozen=True, eq=False)
class Graph:
    """A program: inputs, nodes in topological order (the inputs' first), named outputs."""

    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(v.op.label for v in self.inputs if isinstance(v.op, Input))

    def input_types(self) -> dict[str, TensorType]:
        return {name: v.type for name, v in zip(self.input_names, self.inputs, strict=True)}

    def output_types(self) -> dict[str, TensorType]:
        return {name: v.type for name, v in zip(self.output_names, self.outputs, strict=True)}

    def __str__(self) -> str:
        """The text form."""
        from hardy.compiler.text import print_graph

        return print_graph(self)

    def users(self) -> dict[Value, list[Node]]:
        """The nodes that use each value, in order, once per use; graph outputs are not users."""
        result: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for operand in node.operands:
                result.setdefault(operand, []).append(node)
        return result

    def constants(self) -> Iterator[Literal]:
        """Every literal of the graph and of the graphs inside its ops, in order."""
        for node in self.nodes:
            if isinstance(node.op, Constant):
                yield node.op.literal
            for attribute in vars(node.op).values():
                if isinstance(attribute, Graph):
                    yield from attribute.constants()

    def with_nodes(self, nodes: Iterable[Node], outputs: Iterable[Value]) -> Graph:
        """This interface over other nodes."""
        return Graph(self.name, self.inputs, tuple(nodes), tuple(outputs), self.output_names)


def make_node(op: Op, operands: Sequence[Value], name: str = "", source: str = "") -> Node:
    """A node whose result types come from the op's shape rule; GraphError where it refuses."""
    signature = op.signature()
    least = len(signature.names) - signature.optional - signature.variadic
    most = None if signature.variadic else len(signature.names)
    if len(operands) < least or (most is not None and len(operands) > most):
        expected = str(least) if least == most else f"{least} to {most or 'any number'}"
        raise GraphError(
            f"{op.name} takes {expected} operands ({', '.join(signature.names)}), got {len(operands)}",
            where=source,
        )
    try:
        types = op.infer(*[v.node.types[v.index] for v in operands])
    except GraphError as error:
        given = ", ".join(str(v.type) for v in operands)
        where = f"{op.name}({given})" + (f", {source}" if source else "")
        raise GraphError(error.message, where=error.where or where, hint=error.hint) from error
    return Node(op, tuple(operands), types if isinstance(types, tuple) else (types,), name, source)


@dataclass
class Builder:
    """Builds a graph node by node: `y = b(Matmul(), x, w)`."""

    name: str = "main"
    _inputs: list[Value] = field(default_factory=list)
    _nodes: list[Node] = field(default_factory=list)
    _source: str = ""

    def input(self, label: str, type: TensorType, source: str = "") -> Value:
        """Declare a graph input."""
        value = self(Input(label, type), name=label, source=source)
        self._inputs.append(value)
        return value

    def constant(self, data: Literal | torch.Tensor, name: str = "", source: str | None = None) -> Value:
        literal = data if isinstance(data, Literal) else Literal(data)
        return self(Constant(literal), name=name, source=source)

    def scalar(self, value: float, dtype: DType) -> Value:
        """A constant of rank 0; GraphError for a fraction in an integer type."""
        if dtype.is_integer and not float(value).is_integer():
            raise GraphError(f"{value} is not a value of {dtype}")
        return self.constant(Literal(torch.tensor(value, dtype=dtype.torch), dtype))

    def __call__(self, op: Op, *operands: Value, name: str = "", source: str | None = None) -> Value:
        """Append a node with one result."""
        (value,) = self.multi(op, *operands, name=name, source=source)
        return value

    def multi(self, op: Op, *operands: Value, name: str = "", source: str | None = None) -> tuple[Value, ...]:
        """Append a node; all of its results."""
        node = make_node(op, operands, name, self._source if source is None else source)
        return self.append(node)

    def append(self, node: Node) -> tuple[Value, ...]:
        """Append a finished node as it is; its operands must have been appended before."""
        self._nodes.append(node)
        return node.values

    @contextmanager
    def at(self, source: str) -> Iterator[None]:
        """Nodes built inside get this source."""
        before, self._source = self._source, source
        try:
            yield
        finally:
            self._source = before

    def inline(self, graph: Graph, operands: Sequence[Value]) -> tuple[Value, ...]:
        """Append a graph's nodes with `operands` in place of its inputs; its outputs."""
        mapping = dict(zip(graph.inputs, operands, strict=True))
        for node in graph.nodes:
            if isinstance(node.op, Input):
                continue
            copied = remap(node, mapping)
            for old, new in zip(node.values, self.append(copied), strict=True):
                if old != new:
                    mapping[old] = new
        return tuple(mapping.get(v, v) for v in graph.outputs)

    def finish(self, outputs: Mapping[str, Value]) -> Graph:
        """Freeze; the inputs come first."""
        inputs = [v.node for v in self._inputs]
        if self._nodes[: len(inputs)] != inputs:
            self._nodes = inputs + [n for n in self._nodes if not isinstance(n.op, Input)]
        return Graph(
            self.name, tuple(self._inputs), tuple(self._nodes), tuple(outputs.values()), tuple(outputs)
        )


def remap(node: Node, mapping: Mapping[Value, Value]) -> Node:
    """The node over replaced operands; the same object where nothing changes."""
    operands = tuple([mapping.get(v, v) for v in node.operands])
    if operands == node.operands:
        return node
    if all(new.type == old.type for new, old in zip(operands, node.operands, strict=True)):
        return Node(node.op, operands, node.types, node.name, node.source)
    return make_node(node.op, operands, node.name, node.source)


def decompose(b: Builder, node: Node, operands: Sequence[Value]) -> tuple[Value, ...]:
    """The values of a composite's decomposition, one for each result of the node."""
    result = node.op.decompose(b, *operands)  # type: ignore[attr-defined]  # composites alone have it
    return (result,) if isinstance(result, Value) else tuple(result)


Rewrite = Callable[[Builder, Node, tuple[Value, ...]], Sequence[Value] | None]


def transform(graph: Graph, rewrite: Rewrite) -> Graph:
    """Rebuild a graph in one sweep, in linear time; the same object where nothing changed.

    `rewrite(b, node, operands)` gets each node but the inputs, with its operands already
    rewritten, and returns the values that replace its results (built with `b`), or None to keep
    it. New nodes take the source of the node that they replace.
    """
    b = Builder(graph.name)
    mapping: dict[Value, Value] = {}
    for node in graph.nodes:
        if isinstance(node.op, Input):
            b.append(node)
            continue
        operands = tuple([mapping.get(v, v) for v in node.operands])
        with b.at(node.source):
            new = rewrite(b, node, operands)
        if new is None:
            copied = remap(node, mapping)
            b.append(copied)
            if copied is node:
                continue
            new = copied.values
        for old, value in zip(node.values, new, strict=True):
            if old != value:
                mapping[old] = value
    if len(b._nodes) == len(graph.nodes) and all(map(lambda x, y: x is y, b._nodes, graph.nodes)):
        return graph
    return graph.with_nodes(b._nodes, [mapping.get(v, v) for v in graph.outputs])
