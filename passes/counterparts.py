"""Layers of integers beside the float layers that they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.notes import note
from hardy.compiler.pipeline import sqnr
from hardy.passes.layers import Layer, layers, select
from hardy.passes.stored_layers import StoredLayer, stored_layers

# A layer whose weights differ by more than this from those of its name is another layer, in dB.
ALIKE = 3.0


def counterparts(
    name: str, graph: Graph, original: Graph | None, only: Sequence[str], skip: Sequence[str]
) -> tuple[Graph, list[tuple[StoredLayer, Layer]]]:
    """The float graph, and the layers of integers with the layer of the same name in it.

    The pipeline hands `original` to passes with a field of that name. The weights must be alike; what
    has no counterpart is noted. UsageError where there is no float graph.
    """
    stored = select(stored_layers(graph), only, skip)
    if original is None:
        raise UsageError(
            f"{name} does not know the graph before quantization",
            hint="run it in one pipeline after the pass that quantizes, or give original=GRAPH",
        )
    pairs = list(_pairs(stored, original))
    found = {layer.name for layer, _ in pairs}
    note("without_counterpart", [layer.name for layer in stored if layer.name not in found])
    return original, pairs


def _pairs(stored: Sequence[StoredLayer], before: Graph) -> Iterator[tuple[StoredLayer, Layer]]:
    by_name = {layer.name: layer for layer in layers(before)}
    for layer in stored:
        other = by_name.get(layer.name)
        if other is None or other.node.types != layer.node.types or other.weight.type != layer.weight.type:
            continue
        alike = (other.place, other.out_axis) == (layer.place, layer.out_axis)
        if alike and type(other.node.op) is type(layer.node.op) and sqnr(other.data, layer.data) >= ALIKE:
            yield layer, other
