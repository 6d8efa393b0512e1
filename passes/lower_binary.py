"""Computes products of signs with bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.literal import Literal
from hardy.compiler.notes import note
from hardy.compiler.ops.binary import MOST, Binarize, BinaryConv, BinaryMatmul, PackBits, pack
from hardy.compiler.ops.elementwise import Add, Cast, Mul
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.pool import MaxPool
from hardy.compiler.ops.shape import Concat, Pad, Reshape, Reverse, Slice, Transpose
from hardy.compiler.pipeline import Pass
from hardy.compiler.rewrite import apply_rules
from hardy.compiler.types import DType
from hardy.passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.fold_constants import FoldConstants
from hardy.passes.layers import Layer, layers
from hardy.passes.permute import inverse
from hardy.passes.rules.activations import FindBinarize
from hardy.passes.thresholds import compare_counts


@dataclass(frozen=True)
class LowerBinary(Pass):
    """Turn products of signs by weights of one magnitude a channel into products of packed bits.

    The weights become bits and a scale for each output channel. What lies between two such products, if
    it depends on the channel alone, becomes a comparison of the counts with an integer for each channel:
    batch normalization, scales and biases then cost nothing. These integers are found by computing what
    the graph computes for every possible count, so that no bit differs from it.
    """

    def run(self, graph: Graph) -> Graph:
        folded = FoldConstants().run(apply_rules(graph, [FindBinarize()]))
        products = {layer.node: layer for layer in layers(folded) if _is_binary(layer)}
        book = ledger()

        def lower(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            layer = products.get(node)
            if layer is None or not book.take(f"binary {node.op.name}"):
                return None
            bias = operands[2] if len(operands) > 2 else None
            if isinstance(node.op, Conv):
                return (_conv(b, node.op, layer, operands[0], bias),)
            return (_matmul(b, layer, operands[0]),)

        lowered = transform(folded, lower)
        if lowered is folded:
            return graph
        merged = EliminateCommonSubexpressions().run(EliminateDeadCode().run(lowered))
        compared = compare_counts(merged)
        note("binary_macs", sum(layer.macs for layer in products.values()) / _macs(folded))
        return EliminateDeadCode().run(compared)


def _macs(graph: Graph) -> int:
    return sum(n.op.macs(*[v.type for v in n.operands]) for n in graph.nodes)


def _is_binary(layer: Layer) -> bool:
    """Whether x is +1 or -1 throughout, and the weights of each output channel plus or minus one number."""
    op, x = layer.node.op, layer.x
    if isinstance(op, Conv):
        fits = op.groups == 1 and x.type.rank <= 5
    else:
        assert isinstance(op, Matmul)
        fits = layer.place == 1 and not op.transpose_a
    if not fits or x.type.dtype not in (DType.f32, DType.f64) or not is_signed(x):
        return False
    rows = layer.rows()
    if not rows.numel() or rows.shape[1] + 8 > MOST // 8:
        return False
    magnitude = rows.abs()
    return bool((magnitude == magnitude[:, :1]).all() and (magnitude > 0).all() and rows.isfinite().all())


def is_signed(x: Value) -> bool:
    """Whether every element is +1 or -1."""
    op = x.op
    if isinstance(op, Binarize):
        return True
    if isinstance(op, Pad):
        return op.value in (1, -1) and is_signed(x.node.operands[0])
    moves = isinstance(op, Reshape | Transpose | Slice | Concat | Reverse | MaxPool)
    return moves and all(is_signed(v) for v in x.node.operands)


def _packed(b: Builder, x: Value, to_last: tuple[int, ...] | None) -> Value:
    """The bits of signs; packing takes the sign itself."""
    if isinstance(x.op, Binarize):
        (x,) = x.node.operands
    return b(PackBits(), x if to_last is None else b(Transpose(to_last), x))


def _weight(b: Builder, layer: Layer, signs: Tensor) -> Value:
    node = layer.weight.node
    return b.constant(Literal(pack(signs > 0)), name=node.name, source=node.source)


def _scaled(b: Builder, layer: Layer, counts: Value) -> Value:
    """Counts as floats, times the magnitude of each channel's weights (the last axis of counts)."""
    dtype = layer.x.type.dtype
    y = b(Cast(dtype), counts)
    scale = layer.rows()[:, 0].abs()
    return y if bool((scale == 1).all()) else b(Mul(), y, b.constant(scale.to(dtype.torch).contiguous()))


def _conv(b: Builder, op: Conv, layer: Layer, x: Value, bias: Value | None) -> Value:
    rank = x.type.rank
    first = op.layout == "channels_first"
    to_last = (0, *range(2, rank), 1)
    bits = _packed(b, x, to_last if first else None)
    weight = _weight(b, layer, layer.data.movedim(1, -1))
    binary = BinaryConv(layer.data.shape[1], op.strides, op.padding, op.dilations)
    y = _scaled(b, layer, b(binary, bits, weight, name=layer.node.name))
    y = y if bias is None else b(Add(), y, bias)
    return b(Transpose(inverse(to_last)), y) if first else y


def _matmul(b: Builder, layer: Layer, x: Value) -> Value:
    rows = layer.rows()
    binary = BinaryMatmul(rows.shape[1])
    return _scaled(b, layer, b(binary, _packed(b, x, None), _weight(b, layer, rows), name=layer.node.name))
