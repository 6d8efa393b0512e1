"""Identities of ops that move elements."""

from __future__ import annotations

import dataclasses
import math

from hardy.compiler.ir import Builder, Value
from hardy.compiler.ops.linear import Conv
from hardy.compiler.ops.norm import ReduceMean
from hardy.compiler.ops.pool import AvgPool, MaxPool
from hardy.compiler.ops.reduce import ReduceMax, ReduceMin, ReduceProd, ReduceSum
from hardy.compiler.ops.resize import Resize
from hardy.compiler.ops.shape import BroadcastTo, Concat, Gather, Pad, Reshape, Reverse, Slice, Transpose
from hardy.compiler.rewrite import Match, Pattern, Rule, Term
from hardy.passes.permute import compose, moves_nothing

_REDUCTIONS = (ReduceSum, ReduceProd, ReduceMax, ReduceMin, ReduceMean)


class SameShape(Rule):
    """A reshape, broadcast, slice or padding that keeps the shape is x."""

    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p((Reshape, BroadcastTo, Slice, Pad), x)

    def check(self, m: Match) -> bool | str:
        return m["x"].type == m.type or "the shape changes"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return m["x"]


class NothingToDo(Rule):
    """A transposition, reversal, reduction, resize or concatenation that does nothing."""

    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p.either(
            p(Transpose, x, permutation=lambda perm: list(perm) == sorted(perm)),
            p(Reverse, x, axes=()),
            p(_REDUCTIONS, x, axes=()),
            p(Concat, x),
            p(Resize, x, name="resize"),
        )

    def check(self, m: Match) -> bool | str:
        op = m.root.op
        return not isinstance(op, Resize) or not op.axes(m["x"].type.shape) or "an axis is resized"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return m["x"]


class ReshapeOfReshape(Rule):
    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Reshape, p(Reshape, x))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(m.root.op, m["x"]) if m["x"].type != m.type else m["x"]


class TransposeOfTranspose(Rule):
    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        inner = p(Transpose, x, permutation=p.attribute("first"))
        return p(Transpose, inner, permutation=p.attribute("then"))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Transpose(compose(m.attribute("first"), m.attribute("then"))), m["x"])


class TransposeOfOnes(Rule):
    """A transposition that moves only axes of size one is a reshape."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Transpose, x, permutation=p.attribute("perm"))

    def check(self, m: Match) -> bool | str:
        return moves_nothing(m["x"].type.shape, m.attribute("perm")) or "elements move"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Reshape(m.type.shape), m["x"])


class ReverseOfReverse(Rule):
    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Reverse, p(Reverse, x, axes=p.attribute("first")), axes=p.attribute("then"))

    def rewrite(self, b: Builder, m: Match) -> Value:
        axes = set(m.attribute("first")) ^ set(m.attribute("then"))
        return b(Reverse(tuple(sorted(axes))), m["x"]) if axes else m["x"]


class BroadcastOfBroadcast(Rule):
    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(BroadcastTo, p(BroadcastTo, x))

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(m.root.op, m["x"])


class BroadcastByOnes(Rule):
    """A broadcast that only puts ones in front is a reshape."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(BroadcastTo, x)

    def check(self, m: Match) -> bool | str:
        return m["x"].type.size == m.type.size or "elements repeat"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Reshape(m.type.shape), m["x"])


class ReductionOfOnes(Rule):
    """A reduction along axes of size one is a reshape."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(_REDUCTIONS, x, axes=p.attribute("axes"))

    def check(self, m: Match) -> bool | str:
        shape = m["x"].type.shape
        return all(shape[a] == 1 for a in m.attribute("axes")) or "several elements are combined"

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(Reshape(m.type.shape), m["x"])


class SliceOfSlice(Rule):
    shares = True

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Slice, p(Slice, x, name="inner"))

    def rewrite(self, b: Builder, m: Match) -> Value:
        inner, outer = m.op(Slice, "inner"), m.op(Slice)
        starts, stops, steps = [], [], []
        for axis, size in enumerate(m.type.shape):
            step = inner.steps[axis] * outer.steps[axis]
            start = inner.starts[axis] + outer.starts[axis] * inner.steps[axis]
            start = min(start, inner.stops[axis])
            starts.append(start)
            stops.append(start + (size - 1) * step + 1 if size else start)
            steps.append(step)
        return b(Slice(tuple(starts), tuple(stops), tuple(steps)), m["x"])


class SliceOfConcat(Rule):
    """A slice that lies in one piece of a concatenation is a slice of that piece."""

    shares = True

    def pattern(self, p: Pattern) -> Term:
        return p(Slice, p.node(Concat, name="concat"))

    def check(self, m: Match) -> bool | str:
        return self._piece(m) is not None or "the slice lies across pieces"

    @staticmethod
    def _piece(m: Match) -> tuple[Value, int] | None:
        """The piece, and where it starts."""
        op, axis = m.op(Slice), m.op(Concat, "concat").axis
        start, size = op.starts[axis], m.type.shape[axis]
        last = start + (size - 1) * op.steps[axis]
        offset = 0
        for piece in m.node("concat").operands:
            end = offset + piece.type.shape[axis]
            if size and offset <= start and last < end:
                return piece, offset
            offset = end
        return None

    def rewrite(self, b: Builder, m: Match) -> Value:
        op, axis = m.op(Slice), m.op(Concat, "concat").axis
        found = self._piece(m)
        assert found is not None
        piece, offset = found
        size = piece.type.shape[axis]
        starts, stops = list(op.starts), list(op.stops)
        starts[axis] -= offset
        stops[axis] = min(stops[axis] - offset, size)
        return b(Slice(tuple(starts), tuple(stops), op.steps), piece)


class PadOfPad(Rule):
    def pattern(self, p: Pattern, x: Term) -> Term:
        inner = p(Pad, x, value=p.attribute("value"), name="inner")
        return p(Pad, inner, value=p.attribute("value"), name="outer")

    def check(self, m: Match) -> bool | str:
        return not any(m.op(Pad).interior) or "the outer padding spreads the elements"

    def rewrite(self, b: Builder, m: Match) -> Value:
        inner, outer = m.op(Pad, "inner"), m.op(Pad)
        low = tuple(x + y for x, y in zip(inner.low, outer.low, strict=True))
        high = tuple(x + y for x, y in zip(inner.high, outer.high, strict=True))
        return b(dataclasses.replace(inner, low=low, high=high), m["x"])


class PadBeforeWindow(Rule):
    """Padding the spatial axes with what a convolution or pooling would pad with."""

    def pattern(self, p: Pattern, x: Term, weight: Term, bias: Term) -> Term:
        pad = p(Pad, x, name="pad")
        return p.either(
            p(Conv, pad, weight, bias),
            p(Conv, pad, weight),
            p((MaxPool, AvgPool), pad),
        )

    def check(self, m: Match) -> bool | str:
        pad, op = m.op(Pad, "pad"), m.root.op
        assert isinstance(op, Conv | MaxPool | AvgPool)
        if any(pad.interior):
            return "the padding spreads the elements"
        spatial = _spatial_axes(op.layout, m.type.rank)
        if any(pad.low[i] or pad.high[i] for i in range(m.type.rank) if i not in spatial):
            return "batch or channels are padded"
        if isinstance(op, MaxPool):
            return pad.value == -math.inf or "max_pool pads with -inf"
        if pad.value != 0:
            return "the padding is not zero"
        if isinstance(op, AvgPool):
            counted = op.count_padding or not any(n for pair in op.padding for n in pair)
            return counted or "the window's own padding is not counted"
        return True

    def rewrite(self, b: Builder, m: Match) -> Value:
        pad, op = m.op(Pad, "pad"), m.root.op
        assert isinstance(op, Conv | MaxPool | AvgPool)
        axes = _spatial_axes(op.layout, m.type.rank)
        padding = tuple(
            (low + pad.low[a], high + pad.high[a]) for a, (low, high) in zip(axes, op.padding, strict=True)
        )
        new = dataclasses.replace(op, padding=padding)
        if isinstance(new, AvgPool):
            new = dataclasses.replace(new, count_padding=True)
        return b(new, m["x"], *m.root.operands[1:])


def _spatial_axes(layout: str, rank: int) -> range:
    return range(2, rank) if layout == "channels_first" else range(1, rank - 1)


class GatherOfRange(Rule):
    """Picking consecutive positions that are known is a slice."""

    def pattern(self, p: Pattern, x: Term) -> Term:
        return p(Gather, x, p.constant("indices"), axis=p.attribute("axis"))

    def check(self, m: Match) -> bool | str:
        return self._range(m) is not None or "the positions are not evenly spaced upwards"

    @staticmethod
    def _range(m: Match) -> tuple[int, int, int] | None:
        literal = m.literal("indices")
        if literal.type.rank > 1 or literal.type.size == 0:
            return None
        size = m["x"].type.shape[m.attribute("axis")]
        first = int(literal.tensor.reshape(-1)[0])
        last = int(literal.tensor.reshape(-1)[-1])
        first, last = (i + size if i < 0 else i for i in (first, last))
        count = literal.type.size
        step = (last - first) // (count - 1) if count > 1 else 1
        if step < 1:
            return None
        expected = range(first, first + count * step, step)
        actual = [i + size if i < 0 else i for i in literal.tensor.reshape(-1).tolist()]
        return (first, last + 1, step) if actual == list(expected) else None

    def rewrite(self, b: Builder, m: Match) -> Value:
        x, axis = m["x"], m.attribute("axis")
        found = self._range(m)
        assert found is not None
        rank = x.type.rank
        starts, stops, steps = [0] * rank, list(x.type.shape), [1] * rank
        starts[axis], stops[axis], steps[axis] = found
        y = b(Slice(tuple(starts), tuple(stops), tuple(steps)), x)
        return y if y.type == m.type else b(Reshape(m.type.shape), y)


class ConcatOfSlices(Rule):
    """All slices of x in order, one after the other, are x."""

    shares = True

    def pattern(self, p: Pattern) -> Term:
        return p.node(Concat)

    def check(self, m: Match) -> bool | str:
        return self._whole(m) is not None or "the pieces are not all slices of one tensor in order"

    @staticmethod
    def _whole(m: Match) -> Value | None:
        op = m.op(Concat)
        whole: Value | None = None
        offset = 0
        for piece in m.root.operands:
            cut = piece.op
            if not isinstance(cut, Slice):
                return None
            x = piece.node.operands[0]
            others = [i for i in range(x.type.rank) if i != op.axis]
            if (whole is not None and x != whole) or cut.starts[op.axis] != offset or set(cut.steps) - {1}:
                return None
            if any(piece.type.shape[i] != x.type.shape[i] for i in others):
                return None
            whole, offset = x, cut.stops[op.axis]
        return whole if whole is not None and whole.type == m.type else None

    def rewrite(self, b: Builder, m: Match) -> Value:
        whole = self._whole(m)
        assert whole is not None
        return whole


class NestedConcat(Rule):
    """A concatenation among the pieces of one along the same axis is spread out; empty pieces go."""

    def pattern(self, p: Pattern) -> Term:
        return p.node(Concat)

    def check(self, m: Match) -> bool | str:
        return len(self._pieces(m)) != len(m.root.operands) or "no piece is empty or a concatenation"

    @staticmethod
    def _pieces(m: Match) -> list[Value]:
        axis = m.op(Concat).axis
        pieces: list[Value] = []
        for piece in m.root.operands:
            if piece.op == m.root.op and m.only_use(piece):
                pieces += piece.node.operands
            elif piece.type.shape[axis]:
                pieces.append(piece)
        return pieces or [m.root.operands[0]]

    def rewrite(self, b: Builder, m: Match) -> Value:
        return b(m.root.op, *self._pieces(m))


RULES: tuple[Rule, ...] = (
    SameShape(),
    NothingToDo(),
    ReshapeOfReshape(),
    TransposeOfTranspose(),
    TransposeOfOnes(),
    ReverseOfReverse(),
    BroadcastOfBroadcast(),
    BroadcastByOnes(),
    ReductionOfOnes(),
    SliceOfSlice(),
    SliceOfConcat(),
    PadOfPad(),
    PadBeforeWindow(),
    GatherOfRange(),
    ConcatOfSlices(),
    NestedConcat(),
)
