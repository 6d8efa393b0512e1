"""Signs in place of weights and activations, in a form that can be trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from typing import Literal as OneOf

from hardy.compiler.errors import UnsupportedError, UsageError
from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.ledger import ledger
from hardy.compiler.notes import note
from hardy.compiler.ops.activation import Clamp, Relu
from hardy.compiler.ops.binary import Binarize as BinarizeOp
from hardy.compiler.ops.binary import Ternarize
from hardy.compiler.ops.elementwise import Abs, Add, Div, Max, Mul
from hardy.compiler.ops.linear import Conv
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.shape import Reshape, Transpose
from hardy.compiler.pipeline import Pass
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.layers import Layer, layers, select

# The threshold of ternary weights, in means of |W|: the best for normal and uniform weights alike.
TERNARY_THRESHOLD = 0.7
WEIGHTS = ("binary", "ternary")
SCALES = ("mean", "learned")
INPUT_SCALES = ("box", "tensor", "none")


@dataclass(frozen=True)
class Binarize(Pass):
    """Put signs in the place of weights and activations; train the result, then lower it.

    `weights` are "binary", alpha sign(W), with alpha the mean of |W| for each output channel (Rastegari et
    al., 2016, arXiv:1603.05279, equation 6), or "ternary", alpha times -1, 0 or 1, zero below 0.7 times that
    mean, with alpha the mean of |W| above it (Li et al., 2016, arXiv:1605.04711). The float weights stay in
    the graph: a GraphModule trains them through the signs. With `scale` "learned", alpha becomes a constant
    of its own, which training changes.

    With `activations`, layers read sign(x) too, and their results are multiplied by `input_scale`: "box",
    XNOR-Net's K, the mean of |x| over the channels, averaged over each window (its equation 11); "tensor",
    the mean of |x| over a whole sample; or "none", which suits layers that a batch normalization follows and
    is the only one that `lower_binary` can turn into comparisons of integers. The rectifier before a layer
    is left out, since its result has no sign.

    The first and the last layer stay float, and grouped convolutions, unless `only` names them. UsageError
    for options that do not fit, UnsupportedError for weights that are not finite.
    """

    exact: ClassVar[bool] = False

    weights: OneOf["binary", "ternary"] = "binary"
    activations: bool = True
    scale: OneOf["mean", "learned"] = "mean"
    input_scale: OneOf["box", "tensor", "none"] = "box"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph) -> Graph:
        self._check()
        chosen, kept = self._choose(graph)
        book = ledger()

        def binarize(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
            layer = chosen.get(node)
            if layer is None or not book.take(f"binarize {node.op.name}"):
                return None
            return (self._layer(b, layer, operands),)

        changed = transform(graph, binarize)
        total = sum(n.op.macs(*[v.type for v in n.operands]) for n in graph.nodes)
        if chosen:
            note("binarized_macs", sum(layer.macs for layer in chosen.values()) / total)
        note("kept_float", kept)
        return graph if changed is graph else EliminateDeadCode().run(changed)

    def _check(self) -> None:
        for name, value, known in (
            ("weights", self.weights, WEIGHTS),
            ("scale", self.scale, SCALES),
            ("input_scale", self.input_scale, INPUT_SCALES),
        ):
            if value not in known:
                raise UsageError(f"{name} cannot be {value!r}", hint=f"one of {', '.join(known)}")

    def _choose(self, graph: Graph) -> tuple[dict[Node, Layer], list[dict[str, Any]]]:
        """The layers to change, and the others with the reason."""
        found = list(layers(graph))
        selected = {layer.node for layer in select(found, self.only, self.skip)}
        chosen: dict[Node, Layer] = {}
        kept = []
        for layer in found:
            reason = ""
            if layer.node not in selected:
                reason = "not selected"
            elif isinstance(layer.weight.op, BinarizeOp | Ternarize) or isinstance(layer.x.op, BinarizeOp):
                reason = "binary already"
            elif not self.only and layer in (found[0], found[-1]):
                reason = "first or last layer"
            elif not self.only and isinstance(layer.node.op, Conv) and layer.node.op.groups > 1:
                reason = "grouped convolution"
            if reason:
                kept.append({"layer": layer.name, "why": reason})
                continue
            if not bool(layer.data.isfinite().all()):
                raise UnsupportedError(
                    f"the weight of {layer.name} holds NaN or infinity", where=layer.node.source
                )
            chosen[layer.node] = layer
        return chosen, kept

    def _layer(self, b: Builder, layer: Layer, operands: tuple[Value, ...]) -> Value:
        new = list(operands)
        weight = operands[layer.place]
        signs, alpha = self._weight(b, layer, weight)
        new[layer.place] = signs
        x = operands[1 - layer.place]
        factor = None
        if self.activations:
            x = _before_rectifier(b, x)
            new[1 - layer.place] = b(BinarizeOp(), x)
            factor = self._input_scale(b, layer, x)
        y = b(layer.node.op, *new[:2], name=layer.node.name)
        y = b(Mul(), y, _along_channels(b, layer, alpha))
        y = y if factor is None else b(Mul(), y, factor)
        return b(Add(), y, _along_channels(b, layer, new[2])) if len(new) > 2 else y

    def _weight(self, b: Builder, layer: Layer, weight: Value) -> tuple[Value, Value]:
        """The signs of a weight, and the scale of each output channel."""
        axes = tuple(a for a in range(weight.type.rank) if a != layer.out_axis)
        magnitude = b(Abs(), weight)
        if self.weights == "binary":
            signs = b(BinarizeOp(), weight)
            alpha = b(ReduceMean(axes, False), magnitude)
        else:
            mean = b(ReduceMean(axes, True), magnitude)
            signs = b(Ternarize(), weight, b(Mul(), mean, b.scalar(TERNARY_THRESHOLD, weight.type.dtype)))
            total = b(ReduceSum(axes, False), b(Mul(), weight, signs))
            # A channel of zeros has nothing above its threshold.
            count = b(
                Max(), b(ReduceSum(axes, False), b(Mul(), signs, signs)), b.scalar(1, weight.type.dtype)
            )
            alpha = b(Div(), total, count)
        if self.scale == "learned":
            alpha = b.constant(self._alpha(layer), name=_named(weight, "alpha"))
        return signs, alpha

    def _alpha(self, layer: Layer) -> Any:
        """What the graph of `_weight` gives for the weight as it is."""
        magnitude = layer.rows().abs()
        mean = magnitude.mean(1)
        if self.weights == "binary":
            return mean
        above = magnitude > TERNARY_THRESHOLD * mean[:, None]
        return (magnitude * above).sum(1) / above.sum(1).clamp(min=1)

    def _input_scale(self, b: Builder, layer: Layer, x: Value) -> Value | None:
        """What the result is multiplied by for the magnitudes that the signs of x lost."""
        op, rank = layer.node.op, x.type.rank
        if self.input_scale == "none":
            return None
        magnitude = b(Abs(), x)
        if not isinstance(op, Conv):
            axis = rank - 1 if layer.place == 1 else rank - 2
            return b(ReduceMean((axis,), True), magnitude)
        if self.input_scale == "tensor":
            return b(ReduceMean(tuple(range(1, rank)), True), magnitude)
        channels = 1 if op.layout == "channels_first" else rank - 1
        mean = b(ReduceMean((channels,), True), magnitude)
        kernel = layer.weight.type.shape[2:]
        window = AvgPool(kernel, op.strides, op.padding, op.dilations, op.layout, count_padding=True)
        return b(window, mean)


def _named(value: Value, what: str) -> str:
    return value.node.name and f"{value.node.name}.{what}"


def _along_channels(b: Builder, layer: Layer, vector: Value) -> Value:
    """A vector of output channels in a shape that broadcasts along them in the layer's result."""
    t, op = layer.node.type, layer.node.op
    if isinstance(op, Conv):
        axis = 1 if op.layout == "channels_first" else t.rank - 1
    else:
        axis = t.rank - 1 if layer.place == 1 else t.rank - 2
    shape = (vector.type.size, *[1] * (t.rank - 1 - axis))
    return vector if vector.type.shape == shape else b(Reshape(shape), vector)


def _before_rectifier(b: Builder, x: Value) -> Value:
    """x without the rectifier that made it, through what commutes with one."""
    op = x.op
    if isinstance(op, Relu) or (isinstance(op, Clamp) and op.low == 0):
        return x.node.operands[0]
    if isinstance(op, MaxPool | Reshape | Transpose):
        inner = _before_rectifier(b, x.node.operands[0])
        return x if inner == x.node.operands[0] else b(op, inner)
    return x
