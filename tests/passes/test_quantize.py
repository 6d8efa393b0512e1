"""Static quantization: what becomes integers, where, and with which scales."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import hardy
from hardy.compiler.errors import InputError, UnsupportedError, UsageError
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Constant, Graph, Node, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.ops.quant import Quantize as QuantizeOp
from hardy.compiler.pipeline import Pipeline, sqnr
from hardy.compiler.types import DType, TensorType
from hardy.compiler.verify import verify
from hardy.passes import DEFAULT, Quantize
from hardy.targets.target import QuantizationScheme
from tests.rewriting import ops, read


def data(shape: tuple[int, ...], count: int = 4, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def traced(module: nn.Module, *shape: int) -> Graph:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    graph = hardy.trace(module.eval(), (torch.zeros(shape),), self_test=False)
    return Pipeline(DEFAULT).run(graph).graph


def quantized(graph: Graph, **options: object) -> Graph:
    (shape,) = [t.shape for t in graph.input_types().values()]
    pass_ = Quantize(**{"calibration": data(shape), "least_macs": 0} | options)  # type: ignore[arg-type]
    after = pass_.run(graph)
    verify(after)
    assert after.input_types() == graph.input_types()
    assert after.output_types() == graph.output_types()
    if not (pass_.only or pass_.skip):
        assert pass_.run(after) is after, "a second run finds more to do"
    return after


def noise(before: Graph, after: Graph, given: dict[str, Tensor] | None = None) -> float:
    (name,) = before.input_names
    (output,) = before.output_names
    given = given or {name: data(before.input_types()[name].shape, 1, seed=9)[0]}
    return sqnr(run(before, given)[output], run(after, given)[output])


def products(graph: Graph) -> Iterator[Node]:
    return (n for n in graph.nodes if isinstance(n.op, Conv | Matmul))


def is_integer(value: Value) -> bool:
    return isinstance(value.op, Dequantize)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = (self.second(x) + x).relu()
        x = nn.functional.max_pool2d(self.third(x), 2)
        return self.head(x.mean((2, 3)))


def test_a_layer_becomes_integers_around_a_float_product() -> None:
    graph = read("""
        graph f(%x: f32[2,3]) {
          %w: f32[3,2] = constant(1.0, 2.0, -4.0, 0.5, 0.0, -1.0)
          %y: f32[2,2] = matmul(%x, %w)
          return %y as y
        }
        """)
    after = Quantize(calibration=[torch.tensor([[-1.0, 0, 0], [0, 0, 1.55]])], least_macs=0, method="min_max")
    body = str(after.run(graph)).splitlines()[1:-2]
    assert [line.split("  #")[0].strip() for line in body] == [
        "%0: f32[] = constant(0.009999999776482582)",
        "%1: u8[] = constant(100)",
        "%2: u8[2,3] = quantize(%x, %0, %1, dtype=u8)",
        "%3: f32[2,3] = dequantize(%2, %0, %1)",
        "%w.scale: f32[2] = constant([0.031496062874794006, 0.015748031437397003])",
        "%w: i8[3,2] = constant([[32, 127], [-127, 32], [0, -64]])",
        "%4: f32[3,2] = dequantize(%w, %w.scale, axis=1)",
        "%y: f32[2,2] = matmul(%3, %4)",
    ]


def test_every_product_of_a_network_reads_integers_and_the_outputs_stay_close() -> None:
    graph = traced(Residual(), 2, 3, 8, 8)
    after = quantized(graph)
    for node in products(after):
        assert is_integer(node.operands[0])
        assert is_integer(node.operands[1])
    assert noise(graph, after) > 30


def test_a_residual_add_reads_the_integers_that_the_next_layer_reads() -> None:
    after = quantized(traced(Residual(), 2, 3, 8, 8))
    (add,) = [n for n in after.nodes if n.op.name == "add" and all(v.literal is None for v in n.operands)]
    first, second = list(products(after))[:2]
    assert add.operands[1] == second.operands[0]
    assert first.operands[0] != add.operands[1]


def test_a_pool_moves_integers_of_one_scale() -> None:
    after = quantized(
        traced(nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1)), 1, 3, 4, 4)
    )
    (pool,) = [n for n in after.nodes if n.op.name == "max_pool"]
    assert is_integer(pool.operands[0])
    before_pool = pool.operands[0].node.operands
    (after_pool,) = [n for n in after.nodes if isinstance(n.op, QuantizeOp) and n.operands[0].node is pool]
    assert before_pool[1:] == after_pool.operands[1:]


def test_concatenated_branches_share_the_scale_of_the_widest() -> None:
    graph = read(
        """
        graph f(%x: f32[1,4,2,2]) {
          %w: f32[4,4,1,1] = constant(#w)
          %a: f32[1,4,2,2] = conv(%x, %w, strides=(1, 1), padding=((0, 0), (0, 0)), dilations=(1, 1))
          %b: f32[1,4,2,2] = relu(%a)
          %c: f32[1,8,2,2] = concat(%a, %b, axis=1)
          %v: f32[4,8,1,1] = constant(#v)
          %y: f32[1,4,2,2] = conv(%c, %v, strides=(1, 1), padding=((0, 0), (0, 0)), dilations=(1, 1))
          return %y as y
        }
        """.replace("#w", ", ".join(["0.5"] * 16)).replace("#v", ", ".join(["0.25"] * 32))
    )
    after = quantized(graph, method="min_max")
    (concat,) = [n for n in after.nodes if n.op.name == "concat"]
    scales = {v.node.operands[1] for v in concat.operands}
    assert all(is_integer(v) for v in concat.operands)
    assert len(scales) == 1


def test_what_ends_in_a_normalization_stays_float() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm, self.out = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.norm(x + self.inner(x)))

    after = quantized(traced(Block(), 4, 8))
    (norm,) = [n for n in after.nodes if n.op.name == "layer_norm"]
    residual = norm.operands[0].node
    assert residual.op.name == "add"
    assert after.inputs[0] in residual.operands


def test_products_of_two_activations_are_quantized_on_request() -> None:
    class Attend(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    graph = traced(Attend(), 1, 2, 16, 8)
    assert Quantize(least_macs=0).run(graph) is graph
    after = quantized(graph, attention=True)
    assert "attention" not in ops(after)
    for node in products(after):
        left, right = node.operands
        assert left.node.operands[0].type.dtype is DType.u8
        assert right.node.operands[0].type.dtype is DType.i8
        assert right.node.operands[2].literal is not None
        assert right.node.operands[2].literal.item() == 0
    assert noise(graph, after) > 30


def test_weights_by_channel_are_closer_than_by_tensor() -> None:
    module = nn.Sequential(nn.Linear(32, 16))
    graph = traced(module, 8, 32)
    weight = next(v for n in graph.nodes for v in n.values if v.literal is not None and v.type.rank == 2)
    weight.literal.tensor[0] *= 100  # type: ignore[union-attr]  # one row far larger than the others
    fine, coarse = quantized(graph), quantized(graph, per_channel=False)

    def rest(after: Graph) -> float:
        x = data((8, 32), 1, seed=9)[0]
        return sqnr(run(graph, {"input": x})["output"][:, 1:], run(after, {"input": x})["output"][:, 1:])

    assert rest(fine) > rest(coarse) + 20


@pytest.mark.parametrize(
    ("options", "stored", "weights"),
    [
        ({"activations": DType.i8}, DType.i8, DType.i8),
        ({"weights": DType.i4}, DType.u8, DType.i4),
        ({"weights": DType.u8}, DType.u8, DType.u8),
        ({"scheme": QuantizationScheme(DType.i8, DType.i8, True, False)}, DType.i8, DType.i8),
        ({"scheme": QuantizationScheme(DType.i8, DType.i8, True, False, True)}, DType.i8, DType.i8),
    ],
)
def test_schemes_choose_types_and_scales(options: dict[str, object], stored: DType, weights: DType) -> None:
    graph = traced(nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)), 8, 32)
    after = quantized(graph, **options)
    scheme = options.get("scheme")
    for node in products(after):
        x, weight = (v.node for v in node.operands)
        assert x.operands[0].type.dtype is stored
        assert weight.operands[0].type.dtype is weights
        assert len(weight.operands) == (3 if weights is DType.u8 else 2)
        if isinstance(scheme, QuantizationScheme):
            assert weight.operands[1].type.rank == 0
            scale, zero = (v.literal for v in x.operands[1:])
            assert scale is not None
            assert zero is not None
            assert zero.item() == 0
            if scheme.power_of_two_scales:
                assert float(torch.frexp(scale.tensor).mantissa) == 0.5
    assert noise(graph, after) > (12 if weights is DType.i4 else 25)


@pytest.mark.parametrize("method", ["min_max", "percentile", "entropy", "mse"])
def test_every_method_keeps_a_network_close(method: str) -> None:
    graph = traced(Residual(), 2, 3, 8, 8)
    assert noise(graph, quantized(graph, method=method)) > 20


def test_layers_are_chosen_by_name_and_small_ones_stay_float() -> None:
    graph = traced(Residual(), 2, 3, 8, 8)
    after = quantized(graph, skip=("first*", "head*"))
    assert [is_integer(n.operands[1]) for n in products(after)] == [False, True, True, False]
    after = quantized(graph, only=("third*",))
    assert [is_integer(n.operands[1]) for n in products(after)] == [False, False, True, False]
    after = quantized(graph, least_macs=1000)
    assert [is_integer(n.operands[1]) for n in products(after)] == [True, True, True, False]
    with pytest.raises(UsageError, match="no layer matches 'fourth'"):
        quantized(graph, skip=("fourth",))


def test_half_precision_and_long_sums_stay_float() -> None:
    half = read("""
        graph f(%x: f16[2,2]) {
          %w: f16[2,2] = constant(1.0, 2.0, 3.0, 4.0)
          %y: f16[2,2] = matmul(%x, %w)
          return %y as y
        }
        """)
    assert Quantize(least_macs=0).run(half) is half
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (1, 40_000)))
    y = b(Matmul(), x, b.constant(torch.ones(40_000, 1)))
    long = b.finish({"y": y})
    assert Quantize(least_macs=0).run(long) is long


def test_the_report_holds_what_was_measured() -> None:
    graph = traced(Residual(), 2, 3, 8, 8)
    pass_ = Quantize(calibration=data((2, 3, 8, 8)), samples=3, least_macs=1000)
    (record,) = Pipeline((pass_,)).run(graph).records
    assert record.notes["samples"] == 3
    assert 0.99 < record.notes["integer_macs"] < 1
    assert record.notes["sqnr_db"]["output"] > 20
    assert [(row["layer"], row["macs"]) for row in record.notes["kept_float"]] == [("head.weight", 80)]


def test_the_graph_that_was_given_is_left_as_it_is() -> None:
    graph = traced(Residual(), 2, 3, 8, 8)
    before = str(graph)
    quantized(graph)
    assert str(graph) == before


# Bad input.


def linear(weight: Tensor) -> Graph:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (4, weight.shape[1])))
    with b.at("model.py:7"):
        y = b(Matmul(transpose_b=True), x, b.constant(weight, name="w"))
    return b.finish({"y": y})


def test_missing_empty_and_wrong_data_are_refused() -> None:
    graph = linear(torch.ones(2, 8))
    with pytest.raises(UsageError, match="quantize has no calibration data"):
        Quantize(least_macs=0).run(graph)
    with pytest.raises(InputError, match="holds no samples"):
        Quantize(calibration=[], least_macs=0).run(graph)
    with pytest.raises(InputError, match=r"input 'x' must be f32\[4,8\], got f32\[4,9\]"):
        Quantize(calibration=[torch.zeros(4, 9)], least_macs=0).run(graph)
    with pytest.raises(InputError, match="NaN or infinity"):
        Quantize(calibration=[torch.full((4, 8), float("inf"))], least_macs=0).run(graph)
    with pytest.raises(UsageError, match="0 samples"):
        Quantize(calibration=data((4, 8)), samples=0, least_macs=0).run(graph)


def test_an_activation_that_overflows_is_named_with_its_source() -> None:
    graph = read("""
        graph f(%x: f32[2,2]) {
          %e: f32[2,2] = exp(%x)  # model.py:3
          %w: f32[2,2] = constant(1.0, 2.0, 3.0, 4.0)
          %y: f32[2,2] = matmul(%e, %w)
          return %y as y
        }
        """)
    with pytest.raises(InputError, match="result of exp holds NaN or infinity") as caught:
        Quantize(calibration=[torch.zeros(2, 2), torch.full((2, 2), 100.0)], least_macs=0).run(graph)
    assert "sample 1" in caught.value.where


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["mse", "min_max"])
def test_a_weight_that_is_not_finite_is_refused(value: float, method: str) -> None:
    weight = torch.ones(2, 8)
    weight[1, 3] = value
    with pytest.raises(UnsupportedError, match="the weight of w holds NaN or infinity") as caught:
        Quantize(calibration=data((4, 8)), least_macs=0, method=method).run(linear(weight))  # type: ignore[arg-type]
    assert caught.value.where == "model.py:7"


@pytest.mark.parametrize("method", ["min_max", "percentile", "entropy", "mse"])
def test_zero_and_constant_channels_and_activations_have_scales(method: str) -> None:
    weight = torch.stack([torch.zeros(8), torch.full((8,), -0.3), torch.full((8,), 1e-40), torch.randn(8)])
    graph = linear(weight)
    for x in (torch.zeros(4, 8), torch.full((4, 8), -0.7), torch.full((4, 8), 1e-42)):
        after = Quantize(calibration=[x], least_macs=0, method=method).run(graph)  # type: ignore[arg-type]
        for node in after.nodes:
            if isinstance(node.op, QuantizeOp | Dequantize):
                scale = node.operands[1].literal
                assert scale is not None
                assert bool((scale.tensor > 0).all())
        expected, actual = run(graph, {"x": x})["y"], run(after, {"x": x})["y"]
        torch.testing.assert_close(actual, expected, rtol=0.02, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "median"}, "there is no method 'median'"),
        ({"percentile": 120.0}, "above 50 and at most 100"),
        ({"weights": DType.i32}, "cannot quantize to i32"),
        ({"activations": DType.f16}, "cannot quantize to f16"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quantized(linear(torch.ones(2, 8)), **options)


def test_four_bit_weights_hold_four_bits() -> None:
    after = quantized(linear(torch.randn(4, 8)), weights=DType.i4)
    stored = [n.op.literal for n in after.nodes if isinstance(n.op, Constant) and n.type.dtype is DType.i4]
    assert isinstance(stored[0], Literal)
    assert int(stored[0].tensor.abs().max()) <= 7


# Rounding by second moments.


def neighbours(count: int, seed: int) -> list[Tensor]:
    """Images whose neighbouring pixels are alike, far from zero."""
    generator = torch.Generator().manual_seed(seed)
    coarse = [torch.randn(1, 3, 3, 3, generator=generator) for _ in range(count)]
    return [nn.functional.interpolate(x, size=(12, 12), mode="bilinear") + 4 for x in coarse]


@pytest.mark.parametrize("groups", [1, 3])
def test_rounding_by_moments_is_closer_than_to_nearest_and_keeps_means(groups: int) -> None:
    graph = traced(nn.Sequential(nn.Conv2d(3, 6, 3, groups=groups, bias=groups == 1)), 1, 3, 12, 12)
    calibration, held = neighbours(12, 1), neighbours(12, 2)

    def errors(rounding: str) -> Tensor:
        after = quantized(graph, calibration=calibration, rounding=rounding, weights=DType.i4)
        differences = [run(after, {"input": x})["output"] - run(graph, {"input": x})["output"] for x in held]
        return torch.cat(differences).movedim(1, 0).flatten(1)

    nearest, by_moments = errors("nearest"), errors("gptq")
    assert by_moments.square().mean() < nearest.square().mean() / 4
    assert by_moments.mean(1).abs().max() < nearest.mean(1).abs().max() / 4


def test_rounding_by_moments_takes_one_scale_for_a_whole_weight_too() -> None:
    graph = traced(nn.Sequential(nn.Conv2d(3, 6, 3)), 1, 3, 12, 12)
    calibration, held = neighbours(12, 1), {"input": neighbours(1, 2)[0]}

    def after(rounding: str) -> Graph:
        return quantized(
            graph, calibration=calibration, rounding=rounding, weights=DType.i4, per_channel=False
        )

    (product,) = products(after("gptq"))
    scale = product.operands[1].node.operands[1]
    assert scale.type.shape == ()
    assert noise(graph, after("gptq"), held) > noise(graph, after("nearest"), held) + 6


def test_rounding_by_moments_follows_a_transposed_input() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (1, 8, 5)))
    w = b.constant(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), name="w")
    graph = b.finish({"y": b(Matmul(), w, x)})
    assert noise(graph, quantized(graph, rounding="gptq")) > 30
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (1, 5, 8)))
    w = b.constant(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), name="w")
    graph = b.finish({"y": b(Matmul(transpose_b=True), w, x)})
    assert noise(graph, quantized(graph, rounding="gptq")) > 30


def test_layers_chosen_by_name_are_found_again_in_a_quantized_graph() -> None:
    graph = traced(Residual(), 2, 3, 8, 8)
    pass_ = Quantize(calibration=data((2, 3, 8, 8)), least_macs=0, only=("third*",))
    after = pass_.run(graph)
    assert pass_.run(after) is after
    with pytest.raises(UsageError, match="no layer matches 'fourth'"):
        Quantize(calibration=data((2, 3, 8, 8)), only=("fourth",)).run(after)
