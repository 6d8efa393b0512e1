"""The graph's text form: one op a line, result types, attributes in order; it reads back.

    graph main(%x: f32[2,3]) {
      %w: f32[3,4] = constant(#5f1d0c9e2b7a4d33a1f0e6c2b8d97f10)  # layer.weight
      %0: f32[2,4] = matmul(%x, %w)  # model.py:12, layer
      return %0 as logits
    }

Constants of up to eight elements print their values, larger ones the digest of their content, whose
data comes from elsewhere. Names are hints; the printer makes them unique.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from hardy.compiler.errors import GraphError
from hardy.compiler.ir import Builder, Constant, Graph, Input, Node, Op, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops import OPS
from hardy.compiler.types import DType, TensorType

INLINE = 8
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")


def print_graph(graph: Graph, *, sources: bool = True) -> str:
    """The text of a graph; `sources=False` leaves out the comments."""
    return "\n".join(_print(graph, "", sources)) + "\n"


def _print(graph: Graph, indent: str, sources: bool) -> list[str]:
    names = _name_values(graph)
    inputs = ", ".join(f"%{names[v]}: {v.type}" for v in graph.inputs)
    lines = [f"{indent}graph {_word(graph.name)}({inputs}) {{"]
    for node in graph.nodes:
        if not isinstance(node.op, Input):
            lines += print_node(node, names, indent + "  ", sources)
    outputs = ", ".join(
        f"%{names[v]} as {_word(n)}" for v, n in zip(graph.outputs, graph.output_names, strict=True)
    )
    return [*lines, f"{indent}  return {outputs}".rstrip(), f"{indent}}}"]


def print_node(node: Node, names: Mapping[Value, str], indent: str = "", sources: bool = True) -> list[str]:
    """The lines of one node: one, or more where an attribute is a graph."""
    results = ", ".join(f"%{names[v]}: {v.type}" for v in node.values)
    operands = [f"%{names[v]}" for v in node.operands]
    bodies: list[str] = []
    if isinstance(node.op, Constant):
        operands = [_literal(node.op.literal)]
    else:
        for key, default in _fields(type(node.op)):
            value = getattr(node.op, key)
            if isinstance(value, Graph):
                bodies += _print(value, indent, sources)
            elif value != default or type(value) is not type(default):
                operands.append(f"{key}={_attribute(value)}")
    line = f"{indent}{results} = {node.op.name}({', '.join(operands)})"
    source = " ".join(node.source.split()) if sources else ""
    comment = f"  # {source}" if source else ""
    if not bodies:
        return [line + comment]
    return [f"{line} {bodies[0].strip()}{comment}", *bodies[1:]]


@functools.cache
def _fields(op: type[Op]) -> tuple[tuple[str, Any], ...]:
    return tuple((f.name, f.default) for f in dataclasses.fields(op))


def _name_values(graph: Graph) -> dict[Value, str]:
    names: dict[Value, str] = {}
    taken: set[str] = set(graph.input_names)
    repeats: dict[str, int] = {}
    counter = 0
    for node in graph.nodes:
        for value in node.values:
            hint = node.op.label if isinstance(node.op, Input) else node.name
            if isinstance(node.op, Input):
                names[value] = _word(hint)
                continue
            if not hint or hint.isdigit():
                while str(counter) in taken:
                    counter += 1
                name = str(counter)
                counter += 1
            else:
                name = hint
                while name in taken:
                    repeats[hint] = repeats.get(hint, 0) + 1
                    name = f"{hint}~{repeats[hint]}"
            taken.add(name)
            names[value] = name if name.isdigit() else _word(name)
    return names


def _word(name: str) -> str:
    """A name as it is where it is plain, else quoted; `~n` marks a repeated hint."""
    base, _, repeat = name.rpartition("~")
    if _PLAIN.match(name) or (repeat.isdigit() and _PLAIN.match(base)):
        return name
    return '"' + name.encode("unicode_escape").decode().replace('"', '\\"').replace("%", "\\x25") + '"'


def _literal(literal: Literal) -> str:
    if literal.type.size > INLINE:
        return f"#{literal.digest}"
    wide = literal.tensor.double() if literal.type.dtype.is_float else literal.tensor
    text = _attribute(wide.tolist())
    if literal.type.size and parse_literal(text, literal.type) != literal:
        return f"#{literal.digest}"  # values that decimal text does not keep, such as NaN payloads
    return text


def _attribute(value: object) -> str:
    if isinstance(value, DType):
        return value.value
    if isinstance(value, tuple | list):
        inner = ", ".join(map(_attribute, value))
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, bool | int | str):
        return repr(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else {"inf": "inf", "-inf": "-inf"}.get(str(value), "nan")
    raise GraphError(f"an attribute of type {type(value).__name__} has no text form")


def parse_literal(text: str, t: TensorType) -> Literal:
    """The literal whose values the text lists."""
    values = _parse_attribute(text)
    wide = torch.float64 if t.dtype.is_float else torch.bool if t.dtype is DType.boolean else torch.int64
    tensor = torch.tensor(values, dtype=wide).to(t.dtype.torch).reshape(t.shape)
    return Literal(tensor, t.dtype)


_SPECIAL = {"inf": math.inf, "nan": math.nan}


def _parse_attribute(text: str) -> Any:
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        raise GraphError(f"cannot read the attribute value {text!r}") from error


def _evaluate(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(map(_evaluate, node.elts))
    if isinstance(node, ast.List):
        return list(map(_evaluate, node.elts))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.Name):
        return _SPECIAL[node.id] if node.id in _SPECIAL else DType(node.id)
    raise ValueError("not a literal")


_NAME = r'(?:"(?:[^"\\]|\\.)*"|[A-Za-z0-9_.~]+)'
_HEADER = re.compile(rf"graph ({_NAME})\((.*)\) \{{\Z")
_TYPED = re.compile(rf"%({_NAME}): ([a-z0-9]+)\[([0-9,]*)\]")
_NODE = re.compile(rf"((?:%{_NAME}: [a-z0-9]+\[[0-9,]*\](?:, )?)+) = ([a-z0-9_]+)\((.*)\)( graph .*\{{)?\Z")
_RETURN = re.compile(rf"%({_NAME}) as ({_NAME})")
_ATTRIBUTE = re.compile(r"([a-z_][a-z0-9_]*)=")


def parse_graph(text: str, literals: Mapping[str, Literal], ops: Mapping[str, type[Op]] = OPS) -> Graph:
    """Read a printed graph back; `literals` gives the large constants by digest.

    Raises GraphError with the line number for text that is no graph, an unknown op or value, a
    result type that differs from the shape rule's, or a constant that `literals` lacks.
    """
    reader = _Reader(text, literals, ops)
    graph = reader.graph(reader.next())
    if reader.position < len(reader.lines) and any(s.strip() for s in reader.lines[reader.position :]):
        raise reader.error("there is text after the graph's closing brace")
    return graph


class _Reader:
    def __init__(self, text: str, literals: Mapping[str, Literal], ops: Mapping[str, type[Op]]) -> None:
        self.lines = text.splitlines()
        self.position = 0
        self.literals = literals
        self.ops = ops

    def error(self, message: str) -> GraphError:
        line = self.lines[self.position - 1].strip() if self.position else ""
        return GraphError(message, where=f"line {self.position}: {line[:200]}")

    def next(self) -> str:
        while self.position < len(self.lines):
            self.position += 1
            line = self.lines[self.position - 1].strip()
            if line:
                return line
        raise self.error("the text ends inside a graph")

    def graph(self, header: str) -> Graph:
        header, _ = _split_comment(header)
        match = _HEADER.match(header)
        if not match:
            raise self.error("expected `graph name(%input: type, ...) {`")
        b = Builder(_unword(match[1]))
        values: dict[str, Value] = {}
        for name, dtype, shape in _TYPED.findall(match[2]):
            values[name] = b.input(_unword(name), self.type(dtype, shape))
        while True:
            line, source = _split_comment(self.next())
            if line.startswith("return"):
                break
            self.node(b, values, line, source)
        outputs = _RETURN.findall(line)
        if self.next() != "}":
            raise self.error("expected `}` after the return")
        names = [_unword(label) for _, label in outputs]
        results = [self.value(values, name) for name, _ in outputs]
        graph = b.finish({})
        return Graph(graph.name, graph.inputs, graph.nodes, tuple(results), tuple(names))

    def node(self, b: Builder, values: dict[str, Value], line: str, source: str) -> None:
        match = _NODE.match(line)
        if not match:
            raise self.error("expected `%name: type = op(operands, attributes)`")
        results, op_name, arguments, region = match.groups()
        typed = _TYPED.findall(results)
        types = tuple(self.type(dtype, shape) for _, dtype, shape in typed)
        body = self.graph(region.strip()) if region else None
        line_of_node = self.position
        operands, attributes = self.arguments(values, arguments) if op_name != "constant" else ([], {})
        name = _hint(_unword(typed[0][0]))
        if op_name == "constant":
            op: Op = Constant(self.literal(arguments, types[0]))
        else:
            op = self.op(op_name, attributes, body)
        got = b.multi(op, *operands, name=name, source=source)
        if tuple(v.type for v in got) != types:
            self.position = line_of_node
            raise self.error(f"the result of {op_name} is {', '.join(str(v.type) for v in got)}")
        for (result, _, _), value in zip(typed, got, strict=True):
            if result in values:
                raise self.error(f"%{result} is defined twice")
            values[result] = value

    def op(self, name: str, attributes: dict[str, Any], body: Graph | None) -> Op:
        if name not in self.ops:
            raise self.error(f"there is no op {name!r}")
        if body is not None:
            attributes["body"] = body
        try:
            return self.ops[name](**attributes)
        except TypeError as error:
            raise self.error(f"wrong attributes for {name}: {error}") from error

    def literal(self, text: str, t: TensorType) -> Literal:
        if not text.startswith("#"):
            return parse_literal(text, t)
        if text[1:] not in self.literals:
            raise self.error(f"the data of constant {text} is not there")
        return self.literals[text[1:]]

    def type(self, dtype: str, shape: str) -> TensorType:
        try:
            return TensorType(DType(dtype), tuple(int(n) for n in shape.split(",") if n))
        except ValueError as error:
            raise self.error(f"there is no element type {dtype!r}") from error

    def value(self, values: dict[str, Value], name: str) -> Value:
        if name not in values:
            raise self.error(f"%{name} is not defined above")
        return values[name]

    def arguments(self, values: dict[str, Value], text: str) -> tuple[list[Value], dict[str, Any]]:
        operands: list[Value] = []
        attributes: dict[str, Any] = {}
        for part in _split_arguments(text):
            if part.startswith("%"):
                operands.append(self.value(values, part[1:]))
                continue
            match = _ATTRIBUTE.match(part)
            if not match:
                raise self.error(f"expected %value or name=value, got {part!r}")
            attributes[match[1]] = _parse_attribute(part[match.end() :])
        return operands, attributes


def _hint(name: str) -> str:
    """The name that the printer was given: without `~n`, and empty for a number."""
    if name.isdigit():
        return ""
    base, _, repeat = name.rpartition("~")
    return base if base and repeat.isdigit() else name


def _unword(name: str) -> str:
    if not name.startswith('"'):
        return name
    return name[1:-1].replace('\\"', '"').encode("ascii").decode("unicode_escape")


def _outside_quotes(text: str) -> list[int]:
    """Positions of the characters outside quoted strings."""
    positions, quote, escaped = [], "", False
    for i, c in enumerate(text):
        if not quote:
            positions.append(i)
            quote = c if c in "\"'" else ""
        elif escaped:
            escaped = False
        elif c == "\\":
            escaped = True
        elif c == quote:
            quote = ""
    return positions


def _split_comment(line: str) -> tuple[str, str]:
    if "  # " not in line:
        return line, ""
    if '"' not in line and "'" not in line:
        code, _, comment = line.partition("  # ")
        return code, comment
    for i in _outside_quotes(line):
        if line.startswith("  # ", i):
            return line[:i], line[i + 4 :]
    return line, ""


def _split_arguments(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    if not text:
        return []
    if not any(c in text for c in "([\"'"):
        return text.split(", ")
    parts, depth, start = [], 0, 0
    for i in _outside_quotes(text):
        c = text[i]
        if c in "([":
            depth += 1
        elif c in ")]":
            depth -= 1
        elif c == "," and not depth:
            parts.append(text[start:i].strip())
            start = i + 1
    parts.append(text[start:].strip())
    return parts
