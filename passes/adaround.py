"""Learns for each stored weight whether it is rounded up or down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from hardy.compiler.calibration import open_samples
from hardy.compiler.errors import UsageError
from hardy.compiler.interpret import run_node
from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.literal import Literal
from hardy.compiler.notes import note
from hardy.compiler.pipeline import Pass
from hardy.compiler.progress import tell
from hardy.passes.counterparts import counterparts
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.layer_inputs import grouped_rows, moments_of_inputs
from hardy.passes.layers import Layer
from hardy.passes.rounding.blocks import output_errors
from hardy.passes.rounding.learned import learn_rounding
from hardy.passes.stored_layers import StoredLayer


@dataclass(frozen=True)
class AdaRound(Pass):
    """Round stored weights up or down so that the outputs of their layers change least.

    AdaRound (Nagel et al., 2020, arXiv:2004.10568), layer after layer, in `steps` of Adam each, on
    what `calibration` data (`samples` feeds, all by default) say about the layer's input as it is in
    the quantized graph. Scales and zero points stay. The weights before quantization are those of
    `original`, or of the graph that the first lossy pass of this pipeline was given; layers are paired
    by name. `memory` bounds the bytes of second moments held at once. `only` and `skip` select layers.
    """

    name: ClassVar[str] = "adaround"
    exact: ClassVar[bool] = False

    calibration: Any = None
    original: Graph | None = None
    steps: int = 500
    samples: int | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    memory: int = 1 << 28

    def run(self, graph: Graph) -> Graph:
        if self.steps < 1:
            raise UsageError(f"at least one step is needed, got {self.steps}")
        _, pairs = counterparts(self.name, graph, self.original, self.only, self.skip)
        originals = {layer: other for layer, other in pairs if layer.blocks is not None}
        if not originals:
            return graph
        if self.calibration is None:
            raise UsageError(
                "adaround has no calibration data",
                hint="give some: calibration=... in Python, --calibration on the command line",
            )
        samples = open_samples(self.calibration, graph.input_types())
        samples = samples if self.samples is None else samples.first(self.samples)
        learned: dict[Node, tuple[StoredLayer, Tensor]] = {}

        def compute(node: Node, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
            found = learned.get(node)
            if found is not None:
                layer, integers = found
                operands = list(operands)
                parameters = [part.tensor for part in layer.parts[1:]]
                operands[layer.place] = layer.stored.reference(integers, *parameters)
            return run_node(node, operands)

        report = []
        for group, inputs in moments_of_inputs(graph, samples, list(originals), self.memory, compute):
            for layer in group:
                tell("learn rounding", len(learned), len(originals))
                integers, row = self._learn(layer, originals[layer], inputs.matrix)
                learned[layer.node] = layer, integers
                report.append(row)
        note("layers", report)
        return _replace(graph, learned)

    def _learn(
        self, layer: StoredLayer, original: Layer, moments: Tensor
    ) -> tuple[Tensor, dict[str, str | float]]:
        blocks = layer.blocks
        assert blocks is not None
        rows = grouped_rows(original, original.data)
        scale, zero = (p.reshape(len(rows), -1, p.shape[1]) for p in layer.parameters())
        integers = learn_rounding(rows, moments, blocks, scale, zero, self.steps)
        errors = [
            float(output_errors(new - rows, moments).sum())
            for new in (grouped_rows(layer, layer.data), blocks.dequantize(integers, scale, zero))
        ]
        dtype = layer.parts[0].type.dtype.torch
        share = errors[1] / errors[0] if errors[0] > 0 else 1.0
        return layer.unrows(integers.flatten(0, 1)).to(dtype), {"layer": layer.name, "error_left": share}


def _replace(graph: Graph, learned: dict[Node, tuple[StoredLayer, Tensor]]) -> Graph:
    """The graph with other integers in its layers."""

    def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        if node not in learned:
            return None
        layer, integers = learned[node]
        old = layer.weight.node
        stored = old.operands[0]
        literal = Literal(integers, stored.type.dtype)
        if literal == stored.literal:
            return None
        constant = b.constant(literal, name=stored.node.name, source=stored.node.source)
        parameters = operands[layer.place].node.operands[1:]
        new = list(operands)
        new[layer.place] = b(layer.stored, constant, *parameters)
        return b.append(replace(node, operands=tuple(new)))

    return EliminateDeadCode().run(transform(graph, rewrite))
