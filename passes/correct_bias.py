"""Takes the mean error of quantized layers out of their biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from hardy.compiler.calibration import Moments, Samples, observe, open_samples
from hardy.compiler.errors import UsageError
from hardy.compiler.interpret import run_node
from hardy.compiler.ir import Graph, Node
from hardy.compiler.notes import note
from hardy.compiler.ops.rules import along
from hardy.compiler.pipeline import Pass
from hardy.compiler.progress import tell
from hardy.passes.biases import move_outputs
from hardy.passes.channel_scales import output_axis
from hardy.passes.counterparts import counterparts
from hardy.passes.layer_inputs import graph_up_to
from hardy.passes.layers import Layer


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Subtract from each output channel of quantized layers by how much its mean has moved.

    Empirical bias correction (Nagel et al., 2019, arXiv:1906.04721, section 4.2 and appendix D), on
    `calibration` data (`samples` feeds, all by default): layers are corrected in order, each after
    those before it. What is right is the graph before quantization: `original`, or the one that the
    first lossy pass of this pipeline was given. Layers are paired by name. `only` and `skip` select.
    """

    exact: ClassVar[bool] = False

    calibration: Any = None
    original: Graph | None = None
    samples: int | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def run(self, graph: Graph) -> Graph:
        before, pairs = counterparts(self.name, graph, self.original, self.only, self.skip)
        if not pairs:
            return graph
        if self.calibration is None:
            raise UsageError(
                "correct_bias has no calibration data",
                hint="give some: calibration=... in Python, --calibration on the command line",
            )
        samples = open_samples(self.calibration, graph.input_types())
        samples = samples if self.samples is None else samples.first(self.samples)
        expected = _means(before, samples, [other for _, other in pairs], {})
        moved: dict[Layer, Tensor] = {}
        report = []
        for number, (layer, other) in enumerate(pairs):
            tell("correct biases", number, len(pairs))
            error = _means(graph, samples, [layer], moved)[layer] - expected[other]
            moved[layer] = -error
            report.append({"layer": layer.name, "largest_error": float(error.abs().amax())})
        note("corrected", report)
        return move_outputs(graph, moved)


def _means(
    graph: Graph, samples: Samples, found: Sequence[Layer], moved: Mapping[Layer, Tensor]
) -> dict[Layer, Tensor]:
    """The mean of each output channel of the layers, f64, with the results of some layers moved."""
    seen = {layer: Moments(output_axis(layer)) for layer in found}
    offsets = {layer.node: along(by, output_axis(layer), layer.node.type.rank) for layer, by in moved.items()}

    def compute(node: Node, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
        results = run_node(node, operands)
        offset = offsets.get(node)
        return results if offset is None else ((results[0] + offset).to(results[0].dtype),)

    watched = {layer.node.values[0]: [moments] for layer, moments in seen.items()}
    observe(graph_up_to(graph, list(watched)), samples, watched, compute=compute)
    return {layer: moments.mean for layer, moments in seen.items()}
