"""Finds composites in the pieces that exporters leave of them."""

from __future__ import annotations

from dataclasses import dataclass

from hardy.compiler.ir import Graph
from hardy.compiler.pipeline import Pass
from hardy.compiler.rewrite import apply_rules, settle
from hardy.passes.rules import activations, attention, norms


@dataclass(frozen=True)
class FusePatterns(Pass):
    """Recover activations, softmax, means, normalizations and attention from their pieces.

    The forms are those that PyTorch and ONNX exporters and hardy's own decompositions write.
    """

    def run(self, graph: Graph) -> Graph:
        small = activations.RULES + norms.RULES
        return settle(graph, lambda g: apply_rules(g, small), lambda g: apply_rules(g, attention.RULES))
