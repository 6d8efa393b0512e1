"""Folds batch normalization, and scaling by channel, into the weights before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hardy.compiler.ir import Builder, Graph, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.elementwise import Add, Div, Mul, Sub
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import BatchNorm
from hardy.compiler.pipeline import Pass
from hardy.compiler.rewrite import Match, Pattern, Rule, Term, apply_rules


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch normalization, and constant scales and offsets by channel, into the weights before it.

    Those are the constant weights and bias of a convolution or matrix product that nothing else uses.
    A batch normalization with nothing to fold into becomes one multiplication and one addition.
    The constants are computed in f64 and rounded once.
    """

    def run(self, graph: Graph) -> Graph:
        return apply_rules(graph, RULES)


def _data(v: Value) -> torch.Tensor:
    assert v.literal is not None
    return v.literal.tensor.double()


def _constant(b: Builder, tensor: torch.Tensor, like: Value, name: str = "", source: str = "") -> Value:
    dtype = like.type.dtype
    return b.constant(Literal(tensor.to(dtype.torch), dtype), name=name, source=source)


def _affine(m: Match) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and offset of a matched batch normalization with constant parameters: y = x scale + offset."""
    weight, bias, mean, variance = (_data(m[n]) for n in ("weight", "bias", "mean", "variance"))
    scale = weight / torch.sqrt(variance + m.attribute("epsilon"))
    return scale, bias - mean * scale


def _batch_norm(p: Pattern, x: Term) -> Term:
    parameters = [p.constant(n) for n in ("weight", "bias", "mean", "variance")]
    return p(BatchNorm, x, *parameters, epsilon=p.attribute("epsilon"), axis=p.attribute("axis"))


def _conv_axis(op: Conv, rank: int) -> int:
    return 1 if op.layout == "channels_first" else rank - 1


def _scaled_conv(b: Builder, m: Match, scale: torch.Tensor | None, offset: torch.Tensor | None) -> Value:
    """The matched convolution with its result multiplied by `scale` and moved by `offset`, vectors."""
    conv = m.node("conv")
    x, kernel = conv.operands[:2]
    bias = _data(conv.operands[2]) if len(conv.operands) > 2 else torch.zeros(kernel.type.shape[0])
    if scale is not None:
        shape = (-1,) + (1,) * (kernel.type.rank - 1)
        kernel = _constant(
            b, _data(kernel) * scale.reshape(shape), kernel, kernel.node.name, kernel.node.source
        )
        bias = bias * scale
    if offset is None and len(conv.operands) == 2:
        return b(conv.op, x, kernel, name=conv.name)
    total = bias if offset is None else bias + offset
    return b(conv.op, x, kernel, _constant(b, total, kernel), name=conv.name)


def _channel_vector(v: Value, axis: int, result: tuple[int, ...]) -> torch.Tensor | None:
    """A constant that varies along one axis of a result at most, as a vector along it."""
    wide = (1,) * (len(result) - v.type.rank) + v.type.shape
    if len(wide) != len(result) or any(n != 1 for i, n in enumerate(wide) if i != axis):
        return None
    return _data(v).reshape(-1).expand(result[axis])


class _AfterConv(Rule):
    """Shared: the convolution at the end of the pattern has constant weights and bias."""

    def conv(self, p: Pattern, x: Term) -> Term:
        with_bias = p(Conv, x, p.constant("kernel"), p.constant("offset"), name="conv")
        return p.either(with_bias, p(Conv, x, p.constant("kernel"), name="conv"))

    def check(self, m: Match) -> bool | str:
        if not m.type.dtype.is_float:
            return "integers wrap"
        conv = m.node("conv")
        assert isinstance(conv.op, Conv)
        axis = _conv_axis(conv.op, conv.type.rank)
        if "factor" in m.values:
            if m.type != conv.type or _channel_vector(m["factor"], axis, m.type.shape) is None:
                return "the constant varies along other axes than the channels"
        elif m.attribute("axis") != axis:
            return "the normalization is along another axis than the channels"
        return True

    def factor(self, m: Match) -> torch.Tensor:
        conv = m.node("conv")
        assert isinstance(conv.op, Conv)
        vector = _channel_vector(m["factor"], _conv_axis(conv.op, conv.type.rank), m.type.shape)
        assert vector is not None
        return vector


class BatchNormAfterConv(_AfterConv):
    def pattern(self, p: Pattern, x: Term) -> Term:
        return _batch_norm(p, self.conv(p, x))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return _scaled_conv(b, m, *_affine(m))


class ScaleAfterConv(_AfterConv):
    def pattern(self, p: Pattern, x: Term) -> Term:
        return p((Mul, Div), self.conv(p, x), p.constant("factor"))

    def rewrite(self, b: Builder, m: Match) -> Value:
        factor = self.factor(m)
        return _scaled_conv(b, m, 1 / factor if isinstance(m.root.op, Div) else factor, None)


class OffsetAfterConv(_AfterConv):
    def pattern(self, p: Pattern, x: Term) -> Term:
        return p((Add, Sub), self.conv(p, x), p.constant("factor"))

    def rewrite(self, b: Builder, m: Match) -> Value:
        factor = self.factor(m)
        return _scaled_conv(b, m, None, -factor if isinstance(m.root.op, Sub) else factor)


class _AfterMatmul(Rule):
    """Shared: a matrix product with constant weight of two axes, with or without an offset added."""

    def matmul(self, p: Pattern, x: Term) -> Term:
        return p(Matmul, x, p.constant("kernel"), transpose_a=False, name="matmul")

    def columns(self, m: Match, v: Value) -> torch.Tensor | None:
        result = m.node("matmul").type
        return _channel_vector(v, result.rank - 1, result.shape)

    def check(self, m: Match) -> bool | str:
        matmul = m.node("matmul")
        if m["kernel"].type.rank != 2:
            return "the weight is a batch of matrices"
        if m.type != matmul.type or not m.type.dtype.is_float:
            return "the constant changes the shape, or integers wrap"
        if "factor" in m.values and self.columns(m, m["factor"]) is None:
            return "the constant varies along other axes than the columns"
        if "offset" in m.values and self.columns(m, m["offset"]) is None:
            return "the offset varies along other axes than the columns"
        if "factor" not in m.values and m.attribute("axis") != matmul.type.rank - 1:
            return "the normalization is along another axis than the columns"
        return True

    def scaled(self, b: Builder, m: Match, scale: torch.Tensor, offset: torch.Tensor | None) -> Value:
        matmul = m.node("matmul")
        assert isinstance(matmul.op, Matmul)
        x, kernel = matmul.operands
        columns = scale.reshape(-1, 1) if matmul.op.transpose_b else scale
        weight = _constant(b, _data(kernel) * columns, kernel, kernel.node.name, kernel.node.source)
        y = b(matmul.op, x, weight, name=matmul.name)
        if "offset" in m.values:
            before = self.columns(m, m["offset"])
            assert before is not None
            offset = before * scale if offset is None else before * scale + offset
        return y if offset is None else b(Add(), y, _constant(b, offset, kernel))


class BatchNormAfterMatmul(_AfterMatmul):
    def pattern(self, p: Pattern, x: Term) -> Term:
        y = self.matmul(p, x)
        return _batch_norm(p, p.either(p(Add, y, p.constant("offset")), y))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return self.scaled(b, m, *_affine(m))


class ScaleAfterMatmul(_AfterMatmul):
    def pattern(self, p: Pattern, x: Term) -> Term:
        y = self.matmul(p, x)
        return p((Mul, Div), p.either(p(Add, y, p.constant("offset")), y), p.constant("factor"))

    def rewrite(self, b: Builder, m: Match) -> Value:
        factor = self.columns(m, m["factor"])
        assert factor is not None
        return self.scaled(b, m, 1 / factor if isinstance(m.root.op, Div) else factor, None)


class BatchNormAlone(Rule):
    def pattern(self, p: Pattern, x: Term) -> Term:
        return _batch_norm(p, x)

    def rewrite(self, b: Builder, m: Match) -> Value:
        x = m["x"]
        shape = [1] * (x.type.rank - m.attribute("axis"))
        shape[0] = -1
        scale, offset = (_constant(b, t.reshape(shape), x) for t in _affine(m))
        return b(Add(), b(Mul(), x, scale), offset, name=m.root.name)


RULES: tuple[Rule, ...] = (
    BatchNormAfterConv(),
    ScaleAfterConv(),
    OffsetAfterConv(),
    BatchNormAfterMatmul(),
    ScaleAfterMatmul(),
    BatchNormAlone(),
)
