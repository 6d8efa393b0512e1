"""Operators of torch whose meaning needs care: types, indices, windows, layouts, recurrent layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hardy.compiler.errors import UnsupportedError
from hardy.compiler.frontends.torch import trace
from hardy.compiler.frontends.torch.context import IMPORTERS
from hardy.compiler.interpret import run
from hardy.compiler.ir import Graph
from hardy.compiler.ops.attention import Attention
from hardy.compiler.ops.recurrent import Gru, Lstm, Recurrent, Rnn
from hardy.compiler.ops.resize import Resize
from hardy.compiler.ops.shape import GatherNd
from hardy.compiler.tolerance import require_close
from hardy.compiler.verify import verify


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *xs: Tensor) -> Any:
        return self.function(*xs)


def agrees(module: nn.Module | Callable[..., Any], *xs: Tensor, scaled: bool = False) -> Graph:
    """Trace, verify, run and compare with torch; the graph."""
    module = module if isinstance(module, nn.Module) else Function(module)
    module.eval()
    graph = trace(module, xs)
    verify(graph)
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(module(*xs))
    actual = run(graph, dict(zip(graph.input_names, xs, strict=True)))
    assert len(actual) == len(expected)
    for name, want in zip(actual, expected, strict=True):
        require_close(name, want, actual[name], scaled=scaled)
    return graph


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes if n.op.name not in ("input", "constant")]


def test_hypot_is_infinite_beside_nan_and_overflows_no_square() -> None:
    inf, nan = math.inf, math.nan
    x = torch.tensor([inf, nan, -inf, nan, inf, 3e38, 0.0, -3.0, 1e-30, 1.0])
    y = torch.tensor([nan, -inf, 1.0, 0.0, inf, 1e38, 0.0, 4.0, 1e-30, nan])
    graph = agrees(torch.hypot, x, y)
    (z,) = run(graph, dict(zip(graph.input_names, (x, y), strict=True))).values()
    assert z[:3].tolist() == [inf, inf, inf]
    assert bool(z[3].isnan())


def test_every_importer_is_for_an_operator_that_torch_has() -> None:
    for name in IMPORTERS:
        namespace, packet, overload = name.split(".")
        getattr(getattr(getattr(torch.ops, namespace), packet), overload)


DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool),
)
OPERANDS = st.one_of(
    st.tuples(st.sampled_from(DTYPES), st.sampled_from([(), (3,), (2, 3)])),
    st.sampled_from([2, 2.5, True]),
)


def _example(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.tensor([1.0, 2.0, 3.0])[torch.arange(torch.Size(shape).numel()) % 3].reshape(shape).to(dtype)


@pytest.mark.parametrize(
    "name", ["add", "mul", "true_divide", "lt", "eq", "maximum", "where", "pow", "remainder"]
)
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(left=OPERANDS, right=OPERANDS)
def test_types_are_promoted_as_in_torch(name: str, left: Any, right: Any) -> None:
    operands = [_example(*o) if isinstance(o, tuple) else o for o in (left, right)]
    tensors = [o for o in operands if isinstance(o, Tensor)]
    if not tensors or (name == "maximum" and len(tensors) < 2):
        return

    def call(*given: Tensor) -> Tensor:
        rest = iter(given)
        x, y = (next(rest) if isinstance(o, Tensor) else o for o in operands)
        return torch.where(tensors[0] > 1, x, y) if name == "where" else getattr(torch, name)(x, y)

    try:
        call(*tensors)
    except (RuntimeError, TypeError):
        return  # torch has no such kernel or overload
    agrees(call, *tensors)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, i: x[i],
        lambda x, i: x[:, i],
        lambda x, i: x[i, i],
        lambda x, i: x[i, :, i],
        lambda x, i: x[None, i, 1:, i[:, None]],
        lambda x, i: x[..., i, -1],
        lambda x, i: x[[0, 2], :, [1, 3]],
        lambda x, i: x[torch.arange(3)[:, None], torch.arange(2)[None, :]],
        lambda x, i: torch.index_put(x, (torch.tensor([True, False, True]),), torch.zeros(2, 3, 4)),
        lambda x, i: x.index_put((i,), torch.zeros(3, 4)),
        lambda x, i: x.index_put((i, i), torch.ones(()), accumulate=True),
        lambda x, i: x.masked_fill(x > 0, 3.0),
        lambda x, i: torch.index_put(x, (x > 0,), torch.tensor(7.0)),
        lambda x, i: x.gather(0, i[:, None, None].expand(2, 3, 4)),
        lambda x, i: x.scatter(0, i[:, None, None].expand(2, 3, 4), 5.0),
        lambda x, i: x.index_add(0, i, torch.ones(2, 3, 4), alpha=2),
        lambda x, i: x.take(i),
    ],
)
def test_indexing_agrees(call: Callable[..., Any]) -> None:
    agrees(call, torch.randn(3, 3, 4), torch.tensor([2, -1]) % 3)


def test_a_grid_of_positions_becomes_one_gather_an_axis() -> None:
    rows, columns = torch.arange(3)[:, None], torch.tensor([0, 2])[None, :]
    graph = agrees(lambda x: x[rows, columns], torch.randn(3, 4))
    assert ops(graph) == ["gather"]
    assert not any(isinstance(n.op, GatherNd) for n in graph.nodes)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (2, 3, 0), (3, 3, 1), (4, 2, 2)])
def test_average_pooling_agrees(
    ceil_mode: bool, count_include_pad: bool, kernel: int, stride: int, padding: int
) -> None:
    pool = nn.AvgPool2d(kernel, stride, padding, ceil_mode, count_include_pad)
    agrees(pool, torch.randn(1, 2, 8, 11))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 2, 1, 1), (2, 3, 0, 2), (3, 2, 1, 2)]
)
def test_max_pooling_agrees_with_positions(
    ceil_mode: bool, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    x = torch.randn(2, 3, 9, 12)
    agrees(nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode), x)
    agrees(nn.MaxPool2d(kernel, stride, padding, dilation, return_indices=True, ceil_mode=ceil_mode), x)


@pytest.mark.parametrize("size", [1, 2, 3, 5, (4, 7), (None, 3)])
def test_adaptive_pooling_agrees_for_any_size(size: Any) -> None:
    x = torch.randn(1, 2, 7, 10)
    agrees(nn.AdaptiveAvgPool2d(size), x)
    agrees(nn.AdaptiveMaxPool2d(size, return_indices=True), x)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("stride", "padding", "output_padding", "dilation"),
    [(1, 0, 0, 1), (2, 1, 1, 1), (3, 2, 1, 2), (2, 3, 0, 1)],
)
def test_transposed_convolution_agrees(
    groups: int, stride: int, padding: int, output_padding: int, dilation: int
) -> None:
    conv = nn.ConvTranspose2d(4, 6, 3, stride, padding, output_padding, groups, True, dilation)
    agrees(conv, torch.randn(1, 4, 5, 6), scaled=True)


@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_convolution_padding_by_name_agrees(padding: Any) -> None:
    agrees(nn.Conv2d(3, 4, (4, 3), padding=padding, dilation=2), torch.randn(1, 3, 9, 9), scaled=True)
    agrees(nn.Conv1d(3, 4, 3, padding=padding), torch.randn(3, 9), scaled=True)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(5, 9), (14, 3), (7, 10)])
def test_resizing_to_a_size_agrees(mode: str, size: tuple[int, int]) -> None:
    agrees(lambda x: F.interpolate(x, size, mode=mode), torch.randn(1, 2, 7, 10), scaled=True)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("options", [{"align_corners": True}, {"antialias": True}])
def test_resizing_with_options_agrees(mode: str, options: dict[str, bool]) -> None:
    agrees(lambda x: F.interpolate(x, (4, 13), mode=mode, **options), torch.randn(1, 2, 7, 10), scaled=True)


@pytest.mark.parametrize("factor", [2.0, 0.5, 1.7, 0.61])
def test_resizing_by_a_factor_agrees(factor: float) -> None:
    x = torch.randn(1, 2, 9, 11)
    graph = agrees(lambda x: F.interpolate(x, scale_factor=factor, mode="bilinear"), x, scaled=True)
    assert any(isinstance(n.op, Resize) for n in graph.nodes)
    agrees(lambda x: F.interpolate(x, scale_factor=factor), x)
    agrees(lambda x: F.interpolate(x, scale_factor=factor, mode="nearest-exact"), x)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("layer", "op"), [(nn.LSTM, Lstm), (nn.GRU, Gru), (nn.RNN, Rnn)])
def test_recurrent_layers_stay_whole(
    layer: type[nn.RNNBase], op: type[Recurrent], batch_first: bool, bidirectional: bool, bias: bool
) -> None:
    module = layer(4, 5, 2, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    graph = agrees(module, torch.randn(3, 7, 4), scaled=True)
    assert sum(isinstance(n.op, op) for n in graph.nodes) == 2


def test_a_recurrent_layer_takes_given_states_and_unbatched_input() -> None:
    agrees(nn.GRU(4, 5), torch.randn(7, 3, 4), torch.randn(1, 3, 5), scaled=True)
    agrees(nn.RNN(4, 5, nonlinearity="relu"), torch.randn(7, 4), scaled=True)
    agrees(nn.LSTMCell(4, 5), torch.randn(3, 4), scaled=True)


def test_a_projected_lstm_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="proj_size"):
        trace(nn.LSTM(4, 5, proj_size=3).eval(), (torch.randn(7, 3, 4),))


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float", "two axes"])
def test_attention_agrees(heads: tuple[int, int], mask: str) -> None:
    q, k, v = torch.randn(2, heads[0], 6, 8), torch.randn(2, heads[1], 7, 8), torch.randn(2, heads[1], 7, 5)
    masks = {
        "bool": torch.rand(2, 1, 6, 7) > 0.3,
        "float": torch.randn(2, 4, 6, 7),
        "two axes": torch.tril(torch.ones(6, 7)).bool(),
    }

    def call(q: Tensor, k: Tensor, v: Tensor, *given: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            q, k, v, *given, is_causal=mask == "causal", enable_gqa=heads[0] != heads[1]
        )

    given = [masks[mask].clone()] if mask in masks else []
    for m in given:
        if m.dtype is torch.bool:
            m[..., 0] = True  # every query sees a key
    graph = agrees(call, q, k, v, *given, scaled=True)
    assert any(isinstance(n.op, Attention) for n in graph.nodes)


@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8), (2, 1, 3, 6, 8)])
def test_attention_takes_any_leading_axes(shape: tuple[int, ...]) -> None:
    q, k = torch.randn(shape), torch.randn(shape)
    agrees(lambda q, k: F.scaled_dot_product_attention(q, k, k, scale=0.5), q, k, scaled=True)


def test_multi_head_attention_and_an_encoder_layer_stay_readable() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    graph = agrees(layer, torch.randn(2, 5, 16), scaled=True)
    assert ops(graph).count("attention") == 1
    assert ops(graph).count("layer_norm") == 2


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(6),
        nn.LayerNorm((4, 6), bias=False),
        nn.RMSNorm(6),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm1d(4, affine=True),
        nn.BatchNorm1d(4),
        nn.LocalResponseNorm(2),
    ],
)
def test_normalizations_agree(layer: nn.Module) -> None:
    agrees(layer, torch.randn(3, 4, 6), scaled=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.einsum("bij,bkj->bik", x, x),
        lambda x: F.pad(x, (1, 2, 0, 3), mode="replicate"),
        lambda x: F.pad(x, (1, -1, 2, 0), value=2.0),
        lambda x: F.pixel_shuffle(x.reshape(1, 4, 3, 5), 2),
        lambda x: F.grid_sample(
            x[None], torch.linspace(-1.1, 1.1, 24).reshape(1, 4, 3, 2), align_corners=False
        ),
        lambda x: F.unfold(x[None], 2, padding=1),
        lambda x: F.fold(F.unfold(x[None], 2), (3, 5), 2),
        lambda x: x.std((0, 2), keepdim=True),
        lambda x: torch.logsumexp(x, (1, 2)),
        lambda x: x.cumprod(1),
        lambda x: x.cummax(2),
        lambda x: x.median(1),
        lambda x: x.sort(2, descending=True),
        lambda x: x.topk(2, 2, largest=False),
        lambda x: x.roll((1, -2), (0, 2)),
        lambda x: torch.cdist(x, x),
        lambda x: x.unfold(2, 3, 1),
        lambda x: torch.diag_embed(x[0, 0], 1),
        lambda x: x.repeat(2, 1, 1, 2),
        lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])),
        lambda x: F.cosine_similarity(x, x.flip(1), 2),
        lambda x: F.normalize(x, dim=1),
        lambda x: x.div(0.3, rounding_mode="floor"),
        lambda x: F.softplus(x, 2.0, 3.0),
        lambda x: torch.as_strided(x, (2, 4), (1, 2), 3),
    ],
)
def test_what_torch_says_is_what_the_graph_computes(call: Callable[..., Any]) -> None:
    agrees(call, torch.randn(4, 3, 5), scaled=True)
