"""Moves transpositions towards the outputs so that they cancel."""

from __future__ import annotations

from dataclasses import dataclass

from hardy.compiler.ir import Builder, Constant, Graph, Node, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.shape import Reshape, Transpose
from hardy.compiler.pipeline import Pass
from hardy.compiler.rewrite import settle
from hardy.passes.permute import Permutation, carry, compose, inverse, is_identity, moves_nothing
from hardy.passes.sinking import FREE, Carried, Price, View, sink


@dataclass(frozen=True)
class CleanTransposes(Pass):
    """Move transpositions past the ops that commute with them, so that pairs cancel and others merge.

    What is connected is rewritten as a whole, and only if fewer bytes are then transposed, or as
    many by no more transpositions.
    """

    def run(self, graph: Graph) -> Graph:
        # With insertions more can be reached; where that does not pay, without them it may.
        return settle(
            graph, lambda g: sink(g, Transpositions(True)), lambda g: sink(g, Transpositions(False))
        )


@dataclass
class Transpositions(View[Permutation]):
    """A value with axis i where its base has axis perm[i] lacks `perm`.

    With `insert`, an op that has transposed and other operands may get the others transposed back.
    """

    insert: bool
    label = "move transposes"

    def is_view(self, node: Node) -> bool:
        return isinstance(node.op, Transpose)

    def lack(self, node: Node, before: Permutation | None) -> Permutation | None:
        assert isinstance(node.op, Transpose)
        perm = node.op.permutation
        total = perm if before is None else compose(before, perm)
        return None if is_identity(total) else total

    def carry(self, node: Node, lacks: tuple[Permutation | None, ...]) -> Carried[Permutation] | None:
        perm = next(p for p in lacks if p is not None)
        found = carry(node, perm)
        if found is None:
            return None
        other = 0
        lacking = 0
        for i in found.operands:
            v = node.operands[i]
            if lacks[i] is not None and lacks[i] != perm:
                return None
            if lacks[i] is not None:
                lacking += v.type.nbytes
            else:
                other += self.price_of_base(v, perm).bytes
        if other and (not self.insert or other > lacking):
            return None
        operands = tuple([perm if i in found.operands else None for i in range(len(node.operands))])
        return Carried(found.op, operands, None if is_identity(found.perm) else found.perm)

    def price(self, value: Value, lack: Permutation) -> Price:
        base = [value.type.shape[i] for i in inverse(lack)]
        return Price(0 if moves_nothing(base, lack) else value.type.nbytes, 1)

    def price_of_base(self, value: Value, lack: Permutation) -> Price:
        if isinstance(value.node.op, Constant) or moves_nothing(_widened(value, len(lack)), inverse(lack)):
            return FREE
        return Price(value.type.nbytes, 1)

    def put_back(self, b: Builder, base: Value, value: Value, lack: Permutation) -> Value:
        if moves_nothing(base.type.shape, lack):
            return b(Reshape(value.type.shape), base)
        return b(Transpose(lack), base)

    def base(self, b: Builder, x: Value, value: Value, lack: Permutation) -> Value:
        back = inverse(lack)
        wide = _widened(value, len(lack))
        shape = tuple([wide[i] for i in back])
        if value.type.rank == 0 or (x.type.shape == shape and moves_nothing(wide, back)):
            return x
        if value.literal is not None:
            literal = Literal(value.literal.tensor.reshape(wide).permute(back), value.type.dtype)
            return b.constant(literal, name=value.node.name)
        if moves_nothing(wide, back):
            return b(Reshape(shape), x)
        return b(Transpose(back), x if x.type.shape == wide else b(Reshape(wide), x))


def _widened(v: Value, rank: int) -> tuple[int, ...]:
    """The shape with ones in front, up to a rank."""
    return (1,) * (rank - v.type.rank) + v.type.shape
