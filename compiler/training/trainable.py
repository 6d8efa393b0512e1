"""Which constants of a graph are parameters."""

from __future__ import annotations

from hardy.compiler.ir import Constant, Graph, Node, Op, Value
from hardy.compiler.ops import linear, norm, recurrent, shape
from hardy.compiler.ops.binary import Binarize, Ternarize
from hardy.compiler.ops.elementwise import Add, Div, Mul, Sign, Sub
from hardy.compiler.ops.quant import Dequantize, Quantize

# Operands that are parameters where they are constant.
OPERANDS: dict[type[Op], tuple[int, ...]] = {
    linear.Matmul: (0, 1),
    linear.Conv: (1, 2),
    norm.BatchNorm: (1, 2),
    norm.LayerNorm: (1, 2),
    norm.RmsNorm: (1,),
    norm.GroupNorm: (1, 2),
    shape.Gather: (0,),
    recurrent.Rnn: (1, 2, 3),
    recurrent.Gru: (1, 2, 3, 4),
    recurrent.Lstm: (1, 2, 3),
}
# Vectors of channels that are added or multiplied; tables over more axes, such as masks and rotary
# embeddings, are no parameters.
CHANNELWISE = (Add, Sub, Mul, Div)


def trainable(graph: Graph) -> tuple[Value, ...]:
    """The float constants that training may change, in the graph's order."""
    found: set[Value] = set()
    for node in graph.nodes:
        for value in _parameters(node):
            root = _root(value)
            if root is not None:
                found.add(root)
    return tuple(n.values[0] for n in graph.nodes if n.values[0] in found)


def _parameters(node: Node) -> list[Value]:
    places = OPERANDS.get(type(node.op), ())
    values = [node.operands[p] for p in places if p < len(node.operands)]
    if isinstance(node.op, CHANNELWISE):
        values += [v for v in node.operands if v.type.size > 1 and v.type.size == max(v.type.shape)]
    return values


def _root(value: Value) -> Value | None:
    """The float constant that a value is made of, through roundings that gradients pass."""
    while not isinstance(value.op, Constant):
        if not _passes_gradients(value.node):
            return None
        value = value.node.operands[0]
    return value if value.type.dtype.is_float else None


def _passes_gradients(node: Node) -> bool:
    return isinstance(node.op, Quantize | Dequantize | Sign | Binarize | Ternarize)
