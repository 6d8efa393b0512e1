"""Quantized weights that can learn: floats behind a rounding while training, integers again afterwards.

A weight stored as integers, `Constant -> Dequantize`, becomes `Constant (float) -> Quantize ->
Dequantize` with the same scale, which computes the same; training then moves the floats, and sees
the rounding through the gradients of `straight_through` (Jacob et al., 2018, arXiv:1712.05877).
"""

from __future__ import annotations

from collections.abc import Sequence

from hardy.compiler.ir import Builder, Constant, Graph, Node, Value, transform
from hardy.compiler.literal import Literal
from hardy.compiler.ops.quant import Dequantize, Quantize
from hardy.passes.eliminate_dead_code import EliminateDeadCode


def float_weights(graph: Graph) -> Graph:
    """The graph with each stored integer weight as floats that are quantized; it computes the same.

    Weights with real zero points stay as they are stored: no quantization gives them.
    """

    def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        op = node.op
        if not isinstance(op, Dequantize) or any(v.literal is None for v in operands):
            return None
        stored = operands[0].type.dtype
        if stored.is_float or any(v.type.dtype.is_float for v in operands[2:]):
            return None
        tensors = [v.literal.tensor for v in operands if v.literal is not None]
        master = b.constant(op.reference(*tensors), name=operands[0].node.name)
        q = b(Quantize(stored, op.axis, op.block), master, *operands[1:])
        return [b(op, q, *operands[1:], name=node.name)]

    return EliminateDeadCode().run(transform(graph, rewrite))


def integer_weights(graph: Graph) -> Graph:
    """The graph with each quantized float weight stored as its integers; it computes the same."""

    def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        op = node.op
        if not isinstance(op, Quantize) or any(v.literal is None for v in operands):
            return None
        tensors = [v.literal.tensor for v in operands if v.literal is not None]
        q = Literal(op.reference(*tensors), op.dtype)
        return [b.constant(q, name=operands[0].node.name, source=operands[0].node.source)]

    return EliminateDeadCode().run(transform(graph, rewrite))


def scales(graph: Graph) -> tuple[Value, ...]:
    """The constant scales that quantize something in the graph, for `GraphModule(positive=...)`: their
    gradients through the rounding are those of learned step sizes (Esser et al., 2020,
    arXiv:1902.08153). Only scales that quantize and dequantize alike are among them."""
    found: dict[Value, None] = {}
    apart: set[Value] = set()
    users = graph.users()
    for node in graph.nodes:
        if isinstance(node.op, Quantize) and isinstance(node.operands[1].op, Constant):
            scale = node.operands[1]
            found[scale] = None
            for user in users.get(node.values[0], ()):
                if not isinstance(user.op, Dequantize) or user.operands[1] != scale:
                    apart.add(scale)
    return tuple(v for v in found if v not in apart)
