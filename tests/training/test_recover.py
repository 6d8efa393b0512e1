"""Block-wise recovery: compressed graphs get nearer to the original, block after block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hardy.compiler.calibration import Samples
from hardy.compiler.errors import UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph, Node, Value, transform
from hardy.compiler.literal import Literal
from hardy.compiler.models import trace
from hardy.compiler.ops.activation import Relu
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.ops.quant import Dequantize, Quantize
from hardy.compiler.pipeline import sqnr
from hardy.compiler.text import print_graph
from hardy.compiler.training.blocks import block_ends
from hardy.compiler.training.recover import recover
from hardy.compiler.types import DType
from hardy.passes.layers import layers, replace_weights


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu()) + x).relu()


def network() -> Graph:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), Block(16), Block(16), nn.Linear(16, 5))
    return trace(module, (torch.zeros(1, 8),))


def points(count: int = 256, seed: int = 1) -> Samples:
    x = torch.randn(count, 1, 8, generator=torch.Generator().manual_seed(seed))
    return Samples(lambda: [{"input": each} for each in x])


def pruned(graph: Graph) -> Graph:
    """The smaller half of each weight is zero."""
    new = {}
    for layer in layers(graph):
        threshold = layer.data.abs().median()
        new[layer.weight] = layer.data * (layer.data.abs() > threshold)
    return replace_weights(graph, new)


def quantized(graph: Graph) -> Graph:
    """Weights in four bits, one scale an output channel."""
    held = {layer.weight: layer for layer in layers(graph)}

    def rewrite(b: Builder, node: Node, operands: tuple[Value, ...]) -> list[Value] | None:
        layer = held.get(node.values[0])
        if layer is None:
            return None
        scale = layer.rows().abs().amax(1) / 7
        op = Quantize(DType.i4, axis=layer.out_axis)
        q = b.constant(Literal(op.reference(layer.data, scale), DType.i4), name=node.name)
        return [b(Dequantize(axis=layer.out_axis), q, b.constant(scale))]

    return transform(graph, rewrite)


def signal_to_noise(original: Graph, graph: Graph) -> float:
    """In dB, over samples that training has not seen."""
    feeds = list(points(64, seed=2))
    expected, actual = (torch.cat([run(g, feed)["output"] for feed in feeds]) for g in (original, graph))
    return sqnr(expected, actual)


def test_blocks_end_where_everything_flows_through_one_value() -> None:
    graph = network()
    ends = block_ends(pruned(graph), graph)
    assert [type(e.ours[0].op) for e in ends[:-1]] == [Relu, Relu, Relu]
    assert ends[-1].ours[0].type.shape == (1, 5)
    for end in ends:
        assert end.ours[0].type == end.theirs[0].type


def test_layers_end_after_each_product_as_well() -> None:
    graph = network()
    ends = block_ends(pruned(graph), graph, "layers")
    assert [type(e.ours[0].op) for e in ends[:-1]] == [Relu, Matmul, Relu, Matmul, Relu]


@pytest.mark.parametrize("by", ["blocks", "layers"])
def test_a_pruned_network_recovers_and_stays_pruned(by: str) -> None:
    graph = network()
    small = pruned(graph)
    recovered, report = recover(graph, small, points(), epochs=6, rate=1e-2, by=by)  # type: ignore[arg-type]
    assert signal_to_noise(graph, recovered) > signal_to_noise(graph, small) + 2
    for before, after in zip(layers(small), layers(recovered), strict=True):
        assert torch.equal(before.data == 0, after.data == 0)
    assert all(r.after < r.before for r in report if r.kept)
    assert any(r.kept for r in report)


def test_a_quantized_network_recovers_and_stays_quantized() -> None:
    graph = network()
    small = quantized(graph)
    recovered, _ = recover(graph, small, points(), epochs=6, rate=1e-3)
    assert signal_to_noise(graph, recovered) > signal_to_noise(graph, small) + 1
    kinds = [[n.op.name for n in g.nodes] for g in (small, recovered)]
    assert sorted(kinds[0]) == sorted(kinds[1])
    stored = {c.type.dtype for c in recovered.constants() if len(c.type.shape) > 1}
    assert stored == {DType.i4}


def test_an_uncompressed_network_is_left_as_it_is() -> None:
    graph = network()
    same, report = recover(graph, graph, points(4), epochs=1)
    assert same is graph
    assert report == []


def test_a_rate_that_does_harm_changes_nothing() -> None:
    graph = network()
    small = pruned(graph)
    same, report = recover(graph, small, points(8), epochs=1, rate=10.0)
    assert same is small
    assert report
    assert not any(r.kept for r in report)


def test_a_graph_with_other_inputs_is_refused() -> None:
    torch.manual_seed(0)
    other = trace(nn.Linear(4, 5), (torch.zeros(1, 4),))
    with pytest.raises(UsageError, match="take different inputs"):
        recover(network(), other, points(4))


def test_the_compressed_graph_is_untouched() -> None:
    graph = network()
    small = pruned(graph)
    before = print_graph(small)
    recover(graph, small, points(8), epochs=1)
    assert print_graph(small) == before
