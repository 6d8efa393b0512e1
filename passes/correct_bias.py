"""Takes the mean error of quantized layers out of their biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from hardy.compiler.calibration import Moments, Samples, observe, open_samples
from hardy.compiler.errors import UsageError
from hardy.compiler.interpret import run_node
from hardy.compiler.ir import Builder, Graph, Node, Value, make_node, transform
from hardy.compiler.notes import note
from hardy.compiler.ops.elementwise import Add
from hardy.compiler.ops.linear import Conv
from hardy.compiler.ops.rules import along
from hardy.compiler.pipeline import Pass
from hardy.compiler.progress import tell
from hardy.passes.channel_scales import Factors, output_axis
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
        return _move(graph, moved)


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


def _move(graph: Graph, moved: Mapping[Layer, Tensor]) -> Graph:
    """The graph with constants added to the output channels of layers, in their biases where they are."""
    factors = Factors(graph)
    biases: dict[Node, list[tuple[int, Layer]]] = {}
    behind: dict[Node, Layer] = {}
    for layer in moved:
        found = _bias(layer, graph, factors)
        if found is None:
            behind[layer.node] = layer
        else:
            biases.setdefault(found[0], []).append((found[1], layer))

    def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        new = list(operands)
        for place, layer in biases.get(node, ()):
            old = node.operands[place]
            assert old.literal is not None
            shape = [1] * old.type.rank
            shape[output_axis(layer) - (node.type.rank - old.type.rank) if len(shape) > 1 else 0] = -1
            total = old.literal.tensor.double() + moved[layer].reshape(shape)
            new[place] = b.constant(
                total.to(old.type.dtype.torch), name=old.node.name, source=old.node.source
            )
        if node in behind:
            layer = behind[node]
            by = moved[layer].to(node.type.dtype.torch)
            if isinstance(node.op, Conv) and len(new) == 2:
                return b.append(make_node(node.op, [*new, b.constant(by)], node.name, node.source))
            shape = [1] * (node.type.rank - output_axis(layer))
            shape[0] = -1
            (result,) = b.append(replace(node, operands=tuple(new)))
            return [b(Add(), result, b.constant(by.reshape(shape)))]
        return None if tuple(new) == operands else b.append(replace(node, operands=tuple(new)))

    return transform(graph, rewrite)


def _bias(layer: Layer, graph: Graph, factors: Factors) -> tuple[Node, int] | None:
    """The constant that is added to each output channel, as an operand of a node."""
    node, result = layer.node, layer.node.values[0]
    if isinstance(node.op, Conv):
        return (node, 2) if len(node.operands) == 3 and node.operands[2].literal is not None else None
    users = factors.users.get(result, ())
    if len(users) != 1 or result in graph.outputs or not isinstance(users[0].op, Add):
        return None
    user = users[0]
    place = 1 if user.operands[0] == result else 0
    edits = factors.constant(user, place, output_axis(layer))
    return (user, place) if edits is not None and user.type.shape == node.type.shape else None
