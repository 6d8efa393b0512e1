"""Walks an ONNX graph, resolves names and hands each node to its importer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, TypeProto

from hardy.compiler.errors import GraphError, ModelError, UnsupportedError
from hardy.compiler.frontends.emit import Emitter
from hardy.compiler.frontends.onnx.context import Context, EmptyOptional, Item, TensorList
from hardy.compiler.frontends.onnx.model import OLDEST_OPSET, Body, opsets
from hardy.compiler.frontends.onnx.table import IMPORTERS
from hardy.compiler.frontends.onnx.tensors import ONNX_TYPES, TensorReader
from hardy.compiler.ir import Value
from hardy.compiler.types import TensorType

# Functions may call functions, and bodies may hold bodies, this deep.
MAX_DEPTH = 64

FunctionKey = tuple[str, str, str]


@dataclass
class Scope:
    """The names visible in one graph, subgraph or function body."""

    emitter: Emitter
    reader: TensorReader
    opsets: Mapping[str, int]
    functions: Mapping[FunctionKey, FunctionProto]
    parent: Scope | None = None
    # Attributes of the function call whose body this is.
    attributes: Mapping[str, AttributeProto] = field(default_factory=dict)
    prefix: str = ""
    depth: int = 0
    names: dict[str, Item | None] = field(default_factory=dict)
    tensors: dict[str, onnx.TensorProto | SparseTensorProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.depth > MAX_DEPTH:
            raise ModelError(f"functions or subgraphs nest more than {MAX_DEPTH} deep", where=self.prefix)

    def lookup(self, name: str) -> Item | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            if name in scope.tensors:
                scope.names[name] = scope.load(name)
                return scope.names[name]
            scope = scope.parent
        raise ModelError(
            f"nothing defines the name {name!r}",
            where=self.emitter.source,
            hint="the file is damaged or truncated",
        )

    def load(self, name: str) -> Value:
        """An initializer as a constant, made at its first use."""
        proto = self.tensors[name]
        sparse = isinstance(proto, SparseTensorProto)
        literal = self.reader.sparse(proto) if sparse else self.reader.literal(proto)
        return self.emitter.builder.constant(literal, name=name, source=f"onnx:initializer {name!r}")

    def run(self, body: Body) -> list[Item | None]:
        """Import a body in this scope, whose inputs have been given names; its outputs."""
        self.tensors = body.tensors
        e = self.emitter
        outer = e.source, e.hint
        for node, label in body.nodes:
            e.source = f"{self.prefix}{label}"
            e.hint = next((o for o in node.output if o), "")
            try:
                results = self._import(node, e.source)
            except GraphError as error:
                raise ModelError(error.message, where=error.where or e.source, hint=error.hint) from error
            for name, result in zip(node.output, results, strict=False):
                if name and result is not None:
                    self.names[name] = result
            missing = [o for o in node.output if o and o not in self.names]
            if missing:
                raise UnsupportedError(
                    f"{node.op_type} does not give the result {missing[0]!r} here", where=e.source
                )
        # A function body leaves out what computes results that the call does not name.
        outputs = [None if body.partial and o not in self.names else self.lookup(o) for o in body.outputs]
        e.source, e.hint = outer
        return outputs

    def _import(self, node: NodeProto, source: str) -> Sequence[Item | None]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        inputs = [self.lookup(name) if name else None for name in node.input]
        attributes = {a.name: a for a in map(self._resolve, node.attribute) if a is not None}
        function = self.functions.get((domain, node.op_type, getattr(node, "overload", "")))
        if function is not None:
            return self.call(function, inputs, attributes, source)
        if (
            domain in ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")
            and domain not in self.opsets
        ):
            raise ModelError(f"the model imports no operator set of the domain {domain!r}", where=source)
        context = Context(self, node, source, self.opsets.get(domain, 1), inputs, attributes)
        if domain == "" and context.opset < OLDEST_OPSET:
            _require_unchanged(context)
        importer = IMPORTERS.get((domain, node.op_type))
        if importer is not None:
            result = importer(context)
            return [result] if isinstance(result, (Value, TensorList, EmptyOptional)) else result
        return self.expand(context)

    def _resolve(self, attribute: AttributeProto) -> AttributeProto | None:
        """The attribute, taken from the function call where it refers to one; None where that gave none."""
        if not attribute.ref_attr_name:
            return attribute
        given = self.attributes.get(attribute.ref_attr_name)
        if given is None:
            return None
        renamed = AttributeProto()
        renamed.CopyFrom(given)
        renamed.name = attribute.name
        return renamed

    def call(
        self,
        function: FunctionProto,
        inputs: Sequence[Item | None],
        attributes: Mapping[str, AttributeProto],
        source: str,
    ) -> list[Item | None]:
        """Import a function body in place of a call."""
        if len(inputs) > len(function.input):
            raise ModelError(
                f"function {function.name} takes {len(function.input)} operands, got {len(inputs)}",
                where=source,
            )
        defaults = {a.name: a for a in function.attribute_proto}
        inner = Scope(
            self.emitter,
            self.reader,
            {**self.opsets, **opsets(function)},
            self.functions,
            attributes={**defaults, **attributes},
            prefix=f"{source} / ",
            depth=self.depth + 1,
        )
        padded = [*inputs, *[None] * (len(function.input) - len(inputs))]
        inner.names.update(zip(function.input, padded, strict=True))
        return inner.run(Body.of_function(function))

    def subscope(self) -> Scope:
        """A scope for a subgraph, which sees the names of this one."""
        return Scope(
            self.emitter,
            self.reader,
            self.opsets,
            self.functions,
            self,
            self.attributes,
            f"{self.emitter.source} / ",
            self.depth + 1,
        )

    def inline(self, body: Body, arguments: Sequence[Item | None]) -> list[Item | None]:
        """Import a subgraph whose inputs are these."""
        inner = self.subscope()
        inner.names.update(zip(body.inputs, arguments, strict=True))
        return inner.run(body)

    def body(self, graph: GraphProto) -> Body:
        return Body.of_graph(graph)

    def expand(self, context: Context) -> Sequence[Item | None]:
        """Import a standard operator through the function body that its schema carries."""
        node, source = context.node, context.source
        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            schema = onnx.defs.get_schema(node.op_type, context.opset, domain)
        except onnx.defs.SchemaError:
            raise UnsupportedError(
                f"the operator {node.op_type} of {domain or 'ai.onnx'} (version {context.opset}) is unknown",
                where=source,
                hint="export it as standard operators, or give it as a function of the model",
            ) from None
        function = _schema_function(schema, context)
        if function is None:
            raise UnsupportedError(
                f"hardy does not import the operator {node.op_type} (version {schema.since_version})",
                where=source,
                hint="export it as operators of the core, or replace it in the model",
            )
        attributes = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.type}
        return self.call(function, context.inputs, {**attributes, **context.attributes}, source)


def _require_unchanged(context: Context) -> None:
    """Very old operators are taken where they are still what they were."""
    name = context.node.op_type
    try:
        versions = {onnx.defs.get_schema(name, v, "").since_version for v in (context.opset, OLDEST_OPSET)}
    except onnx.defs.SchemaError:
        versions = set()
    if len(versions) != 1:
        raise UnsupportedError(
            f"{name} of operator set {context.opset} is too old",
            where=context.source,
            hint=f"convert the model to operator set {OLDEST_OPSET + 1} or later with onnx.version_converter",
        )


def _schema_function(schema: onnx.defs.OpSchema, context: Context) -> FunctionProto | None:
    function = FunctionProto()
    if schema.has_context_dependent_function:
        node = NodeProto()
        node.CopyFrom(context.node)
        del node.attribute[:]
        node.attribute.extend(context.attributes.values())
        types = [_type_proto(item).SerializeToString() for item in context.inputs]
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= context.opset]
        version = max(versions, default=schema.since_version)
        data = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), types
        )
        if not data:
            return None
        function.ParseFromString(data)
        return function
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= context.opset]
        function.ParseFromString(
            schema.get_function_with_opset_version(max(versions, default=schema.since_version))
        )
        return function
    return None


def _type_proto(item: Item | None) -> TypeProto:
    if isinstance(item, Value):
        return type_proto(item.type)
    if isinstance(item, TensorList) and item.dtype is not None:
        return onnx.helper.make_sequence_type_proto(
            onnx.helper.make_tensor_type_proto(ONNX_TYPES[item.dtype], None)
        )
    return TypeProto()


def type_proto(t: TensorType) -> TypeProto:
    return onnx.helper.make_tensor_type_proto(ONNX_TYPES[t.dtype], t.shape)
