"""Writers of ops: what makes the ONNX nodes of one, and the common kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnx import NodeProto, helper

from hardy.compiler.export.onnx.scope import Scope
from hardy.compiler.ir import Node

# Makes an op's ONNX nodes from the names of its operands and results; None where ONNX has no such op.
Writer = Callable[[Scope, Node, list[str], list[str]], "list[NodeProto] | None"]


def plain(name: str, **attributes: Any) -> Writer:
    """One ONNX node over the same operands."""
    return lambda scope, node, operands, results: [helper.make_node(name, operands, results, **attributes)]


def with_attributes(name: str, read: Callable[[Any], dict[str, Any]]) -> Writer:
    """One ONNX node whose attributes come from the op's."""
    return lambda scope, node, operands, results: [helper.make_node(name, operands, results, **read(node.op))]


def shaped(name: str, read: Callable[[Any], Sequence[int]], **attributes: Any) -> Writer:
    """One ONNX node with a shape or axes as second operand."""

    def write(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
        extra = scope.ints(read(node.op), f"{results[0]}_{name.lower()}")
        return [helper.make_node(name, [*operands, extra], results, **attributes)]

    return write


def reduction(name: str) -> Writer:
    """A reduction over axes that ONNX takes as an operand."""

    def write(scope: Scope, node: Node, operands: list[str], results: list[str]) -> list[NodeProto]:
        axes = scope.ints(node.op.axes, f"{results[0]}_axes")  # type: ignore[attr-defined]
        keep = int(node.op.keepdims)  # type: ignore[attr-defined]
        return [helper.make_node(name, [*operands, axes], results, keepdims=keep, noop_with_empty_axes=1)]

    return write


def flat_pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    """ONNX's order of padding: the low ends of all axes, then the high ends."""
    return [p[0] for p in padding] + [p[1] for p in padding]
