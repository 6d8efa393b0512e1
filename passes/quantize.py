"""Static quantization after training: integers wherever a product reads or writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from typing import Literal as OneOf

import torch
from torch import Tensor

from hardy.compiler.calibration import (
    METHODS,
    Grid,
    Histogram,
    Moments,
    Samples,
    Statistic,
    clip_rows,
    observe,
    samples_for,
)
from hardy.compiler.compare import output_errors
from hardy.compiler.errors import UnsupportedError, UsageError
from hardy.compiler.ir import Builder, Constant, Graph, Node, Value, transform
from hardy.compiler.literal import Literal
from hardy.compiler.notes import note
from hardy.compiler.ops.activation import HardSigmoid, HardSwish
from hardy.compiler.ops.attention import Attention
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.ops.quant import Quantize as QuantizeOp
from hardy.compiler.pipeline import Pass
from hardy.compiler.progress import tell
from hardy.compiler.types import DType
from hardy.passes.averages import as_product, averages
from hardy.passes.decompose import Decompose
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.islands import Islands, Place, find_islands
from hardy.passes.layers import Layer, layers, select
from hardy.targets.target import QuantizationScheme

Method = OneOf["min_max", "percentile", "entropy", "mse"]

# What is used where neither the options nor the target say otherwise.
U8_BY_I8 = QuantizationScheme(
    activations=DType.u8, weights=DType.i8, symmetric_activations=False, per_channel=True
)
# How many samples the quantized graph is compared with the float one on, for the report.
COMPARED = 4
# Products of fewer multiply-accumulates are not worth the conversion where floats are at hand.
LEAST_MACS = 1 << 14


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantize products and what flows between them, with ranges from calibration data.

    The result is in quantize-dequantize form: an activation passes through `quantize` and
    `dequantize`; a weight is an integer constant and a `dequantize`. Biases stay f32.
    With scales that are powers of two, means are products with quantized weights, as devices of such
    scales compute them, and every operand of an addition but one is quantized.

    `calibration` is data as `open_samples` takes it, of which `samples` feeds are used (all by
    default). `method` chooses what part of an activation's range is covered, `percentile` belongs to
    the method of that name. `scheme` is the target's, which the driver fills in; `activations`,
    `weights`, `per_channel`, `symmetric` (activations) and `power_of_two` change parts of it. Weights
    of a signed type are symmetric. `only` and `skip` select layers by name or source (shell patterns).
    Products of fewer than `least_macs` multiply-accumulates stay float; by default of fewer than 16384, or
    none for a device of power-of-two scales, which has no floats. With `attention`, products of two
    activations are quantized too, for which attention is taken apart.

    Raises UsageError for options that do not fit, InputError for data that does not, and
    UnsupportedError for weights that are not finite.
    """

    exact: ClassVar[bool] = False

    calibration: Any = None
    scheme: QuantizationScheme | None = None
    method: Method = "mse"
    percentile: float = 99.99
    activations: DType | None = None
    weights: DType | None = None
    per_channel: bool | None = None
    symmetric: bool | None = None
    power_of_two: bool | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    attention: bool = False
    least_macs: int | None = None
    samples: int | None = None

    def run(self, graph: Graph) -> Graph:
        grids = self._grids()
        narrow = grids.activations.power_of_two
        apart = ((Attention,) if self.attention else ()) + ((HardSigmoid, HardSwish) if narrow else ())
        prepared = Decompose(lambda node: not isinstance(node.op, apart)).run(graph)
        products, kept = self._choose(prepared, grids)
        if not products:
            note("kept_float", kept)
            return graph
        samples = samples_for(self.name, self.calibration, graph.input_types(), self.samples)
        islands = find_islands(prepared, {n: p.activations for n, p in products.items()}, narrow)
        power = self._input_power(products)
        ranges, count = self._calibrate(prepared, samples, islands, grids, power)
        insertion = _Insertion(islands, products, grids, ranges, power)
        result = EliminateDeadCode().run(transform(prepared, insertion.rewrite))
        total = sum(n.op.macs(*[v.type for v in n.operands]) for n in graph.nodes)
        note("samples", count)
        note("integer_macs", sum(p.macs for p in products.values()) / total)
        errors = output_errors(graph, result, samples.first(COMPARED))
        note("sqnr_db", {name: error.sqnr_db for name, error in errors.items()})
        note("kept_float", kept)
        return result

    def _grids(self) -> _Grids:
        """The grids of activations and weights; UsageError for options that do not fit."""
        if self.method not in METHODS:
            raise UsageError(f"there is no method {self.method!r}", hint=f"there are {', '.join(METHODS)}")
        if not 50 < self.percentile <= 100:
            raise UsageError(f"the percentile must be above 50 and at most 100, got {self.percentile}")
        scheme = self.scheme or U8_BY_I8
        weights = self.weights or scheme.weights
        power = scheme.power_of_two_scales if self.power_of_two is None else self.power_of_two
        symmetric = scheme.symmetric_activations if self.symmetric is None else self.symmetric
        signed = weights.is_integer and weights.range[0] < 0
        return _Grids(
            activations=Grid(self.activations or scheme.activations, symmetric, power),
            weights=Grid(weights, signed, power),
            per_channel=scheme.per_channel if self.per_channel is None else self.per_channel,
        )

    def _input_power(self, products: Mapping[Node, _Product]) -> dict[tuple[Value, int], Moments]:
        """What measures the mean square of each input channel, where weights are clipped by it."""
        found = [p.layer for p in products.values() if p.layer is not None]
        return {(y.x, y.x_axis): Moments(y.x_axis) for y in found} if self.method == "mse" else {}

    def _choose(self, graph: Graph, grids: _Grids) -> tuple[dict[Node, _Product], list[dict[str, Any]]]:
        """The products to quantize, and those that stay float with the reason."""
        least = self.least_macs
        if least is None:
            least = 0 if grids.activations.power_of_two else LEAST_MACS
        found = {layer.node: layer for layer in layers(graph)}
        selected = {layer.node for layer in select(found.values(), self.only, self.skip)}
        products: dict[Node, _Product] = {}
        kept: list[dict[str, Any]] = []
        for node in graph.nodes:
            if not isinstance(node.op, Conv | Matmul | Attention):
                continue
            layer = found.get(node)
            macs = node.op.macs(*[v.type for v in node.operands])
            why = self._why_float(node, layer, macs, least)
            if layer is not None and node not in selected:
                why = "not selected"
            if why:
                name = layer.name if layer else node.name or node.source
                kept.append({"layer": name, "macs": macs, "why": why})
            else:
                places = (0, 1) if layer is None else (1 - layer.place,)
                products[node] = _Product(places, layer, macs)
        return products, kept

    def _why_float(self, node: Node, layer: Layer | None, macs: int, least: int) -> str:
        if node.type.dtype is not DType.f32:
            return f"computes in {node.type.dtype}"
        if isinstance(node.op, Attention) or (layer is None and not self.attention):
            return "a product of two activations"
        if layer is None and (isinstance(node.op, Conv) or any(v.literal for v in node.operands)):
            return "its weight is not constant" if isinstance(node.op, Conv) else "a batch of weights"
        if all(isinstance(v.op, Dequantize) for v in node.operands[:2]):
            return "quantized already"
        if macs < least:
            return f"fewer than {least} multiply-accumulates"
        if macs // node.type.size * 255 * 255 >= 2**31:
            return "its sums may overflow i32"
        return ""

    def _calibrate(
        self,
        graph: Graph,
        samples: Samples,
        islands: Islands,
        grids: _Grids,
        power: Mapping[tuple[Value, int], Moments],
    ) -> tuple[dict[Place, tuple[Tensor, Tensor]], int]:
        """Scale and zero point by place, and how many samples were seen."""
        seen: dict[Place, Histogram] = {}
        watched: dict[Value, list[Statistic]] = {}
        for scale, values in islands.watched().items():
            seen[scale] = Histogram()
            for value in values:
                watched.setdefault(value, []).append(seen[scale])
        for (value, _), moments in power.items():
            watched.setdefault(value, []).append(moments)
        limit = samples.limit or 0
        count = observe(graph, samples, watched, lambda n: tell("calibrate", n, max(n, limit)))
        result = {}
        for scale, histogram in seen.items():
            grid = grids.of(scale)
            low, high = METHODS[self.method](histogram, grid, self.percentile)
            ends = (torch.tensor(end, dtype=torch.float64) for end in (low, high))
            result[scale] = grid.parameters(*ends)
        return result, count


@dataclass(frozen=True)
class _Grids:
    activations: Grid
    weights: Grid
    per_channel: bool

    def of(self, place: Place) -> Grid:
        """The second operand of a product of activations takes a weight's place, and its type."""
        return self.weights if place.right else self.activations


@dataclass(frozen=True)
class _Product:
    """A product to quantize: which operands are activations, and its weight's layer if it has one."""

    activations: tuple[int, ...]
    layer: Layer | None
    macs: int


@dataclass
class _Insertion:
    """Rewrites a graph to quantize-dequantize form."""

    islands: Islands
    products: Mapping[Node, _Product]
    grids: _Grids
    ranges: Mapping[Place, tuple[Tensor, Tensor]]
    power: Mapping[tuple[Value, int], Moments]
    constants: dict[Place, tuple[Value, Value]] = field(default_factory=dict)
    activations: dict[Place, Value] = field(default_factory=dict)
    weights: dict[tuple[Value, int], Value] = field(default_factory=dict)

    def rewrite(self, b: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        if isinstance(node.op, Constant):
            return None
        new = list(operands)
        for i, operand in enumerate(operands):
            place = self.islands.reads.get((node, i))
            if place is not None:
                new[i] = self._activation(b, place, operand)
        product = self.products.get(node)
        if product is not None and product.layer is not None:
            new[product.layer.place] = self._weight(b, product.layer)
        if tuple(new) == operands:
            return None
        if self.grids.activations.power_of_two and averages(node) and (node, 0) in self.islands.reads:
            mean = as_product(b, node, new[0], self.grids.weights)
            if mean is not None:
                return [mean]
        return b.append(dataclasses.replace(node, operands=tuple(new)))

    def _activation(self, b: Builder, place: Place, value: Value) -> Value:
        """The value as it is after quantization, made where it is first read."""
        found = self.activations.get(place)
        if found is None:
            dtype = self.grids.of(place).dtype
            with b.at(place.value.node.source):
                scale, zero = self._parameters(b, self.islands.ties[place], dtype)
                quantized = b(QuantizeOp(dtype), value, scale, zero)
                found = self.activations[place] = b(Dequantize(), quantized, scale, zero)
        return found

    def _parameters(self, b: Builder, key: Place, dtype: DType) -> tuple[Value, Value]:
        found = self.constants.get(key)
        if found is None:
            scale, zero = self.ranges[key]
            found = b.constant(scale), b.constant(Literal(zero.to(dtype.torch), dtype))
            self.constants[key] = found
        return found

    def _weight(self, b: Builder, layer: Layer) -> Value:
        key = (layer.weight, layer.out_axis)
        found = self.weights.get(key)
        if found is None:
            rows = layer.rows().float()
            if not bool(rows.isfinite().all()):
                raise UnsupportedError(
                    f"the weight of {layer.name} holds NaN or infinity", where=layer.node.source
                )
            grid, name = self.grids.weights, layer.weight.node.name
            flat = rows if self.grids.per_channel else rows.reshape(1, -1)
            moments = self.power.get((layer.x, layer.x_axis))
            if moments is None:
                scale, zero = grid.parameters(flat.amin(1), flat.amax(1))
            else:
                # The noise of an output is the weights' noise by the inputs, which are far from alike.
                importance = layer.spread(moments.rms.square()).expand(rows.shape).reshape(flat.shape)
                scale, zero = clip_rows(flat, grid, importance)
            integers = grid.quantize(flat, scale[:, None], zero[:, None]).reshape(rows.shape)
            stored = Literal(layer.unrows(integers).to(grid.dtype.torch), grid.dtype)
            if not self.grids.per_channel:
                scale, zero = scale[0], zero[0]
            parameters = [b.constant(scale, name=name and f"{name}.scale")]
            if not grid.symmetric:
                parameters.append(b.constant(Literal(zero.to(grid.dtype.torch), grid.dtype)))
            axis = layer.out_axis if self.grids.per_channel else 0
            found = b(Dequantize(axis), b.constant(stored, name=name), *parameters)
            self.weights[key] = found
        return found
