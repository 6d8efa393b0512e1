"""Static quantization after training: integers wherever a product reads or writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    observe,
    samples_for,
)
from hardy.compiler.compare import output_errors
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph, Node, Value
from hardy.compiler.notes import note
from hardy.compiler.ops.activation import HardSigmoid, HardSwish
from hardy.compiler.ops.attention import Attention
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.quant import Dequantize
from hardy.compiler.pipeline import Pass, decibels
from hardy.compiler.progress import tell
from hardy.compiler.types import DType
from hardy.passes.decompose import Decompose
from hardy.passes.islands import Islands, Place, find_islands
from hardy.passes.layers import Layer, layers, select
from hardy.passes.quantize_dequantize import Grids, Plan, Product
from hardy.passes.rounding.layer_weights import round_by_moments, round_to_nearest
from hardy.passes.spare_products import Budget, Outcome, spare
from hardy.passes.stored_layers import stored_layers
from hardy.targets.target import QuantizationScheme

Method = OneOf["min_max", "percentile", "entropy", "mse"]
Rounding = OneOf["nearest", "gptq"]

# What is used where neither the options nor the target say otherwise.
U8_BY_I8 = QuantizationScheme(
    activations=DType.u8, weights=DType.i8, symmetric_activations=False, per_channel=True
)
# On how many samples the quantized graph is compared with the float one, spread over all of them.
COMPARED = 8
# On how many the second moments of layers' inputs are learned.
ROUNDED_ON = 64
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

    `rounding` is that of weights: "gptq" (Frantar et al., 2022, arXiv:2210.17323) lets weights to
    come make up for the error of those that were rounded, on second moments of the layers' inputs, and
    takes the mean error that is left out of the biases.

    Mixed precision: with `float_share`, products that hurt stay float, of at most this share of the
    multiply-accumulates, beside those that stay float anyway; with `sqnr_db`, until the outputs' signal
    to noise ratio reaches it; with both, whatever comes first. Devices of power-of-two scales have no
    floats: there nothing is spared, and the report says so. A graph that is quantized already is
    left as it is then, unless more than the share is float.

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
    rounding: Rounding = "nearest"
    float_share: float | None = None
    sqnr_db: float | None = None
    samples: int | None = None

    def run(self, graph: Graph) -> Graph:
        grids = self._grids()
        narrow = grids.activations.power_of_two
        apart = ((Attention,) if self.attention else ()) + ((HardSigmoid, HardSwish) if narrow else ())
        prepared = Decompose(lambda node: not isinstance(node.op, apart)).run(graph)
        products, kept = self._choose(prepared, grids)
        total = sum(n.op.macs(*[v.type for v in n.operands]) for n in graph.nodes)
        if not products or self._spared_before(graph, products, total):
            note("kept_float", kept)
            return graph
        samples = samples_for(self.name, self.calibration, graph.input_types(), self.samples)
        islands = find_islands(prepared, {n: p.activations for n, p in products.items()}, narrow)
        found = [p.layer for p in products.values() if p.layer is not None]
        power: dict[tuple[Value, int], Moments] = {}
        if self.method == "mse" and self.rounding == "nearest":
            power = {(y.x, y.x_axis): Moments(y.x_axis) for y in found}
        ranges, count = self._calibrate(prepared, samples, islands, grids, power)
        if self.rounding == "gptq":
            weights = round_by_moments(prepared, samples.spread(ROUNDED_ON, count), found, grids)
        else:
            weights = round_to_nearest(found, grids, power)
        plan = Plan(prepared, products, islands, grids, ranges, weights)
        few = samples.spread(COMPARED, count)
        wanted = self.float_share is not None or self.sqnr_db is not None
        if wanted and narrow:
            note("not_spared", "a device of power-of-two scales has no floats to spare products with")
        if wanted and not narrow:
            outcome = spare(graph, plan, Budget(total, self.float_share, self.sqnr_db), few)
            plan, result = outcome.plan, outcome.result
            kept += self._report(outcome, total)
        else:
            result = plan.apply()
        note("samples", count)
        note("integer_macs", sum(p.macs for p in plan.products.values()) / total)
        errors = output_errors(graph, result, few)
        note("sqnr_db", {name: error.sqnr_db for name, error in errors.items()})
        note("kept_float", kept)
        return result

    def _spared_before(self, graph: Graph, products: Mapping[Node, Product], total: int) -> bool:
        """Whether the float products of a graph that is quantized already are what is allowed."""
        if self.float_share is None and self.sqnr_db is None:
            return False
        budget = Budget(total, self.float_share, self.sqnr_db)
        quantized = any(_is_quantized(node) for node in graph.nodes)
        return quantized and budget.holds(sum(p.macs for p in products.values()))

    def _report(self, outcome: Outcome, total: int) -> list[dict[str, Any]]:
        """Notes on what was spared, and whether that is enough; the rows of what stays float for it."""
        rows = []
        for spared in outcome.spared:
            name = _name(spared.node, spared.product.layer)
            why = f"alone, it would leave the outputs {decibels(1.0, spared.alone):.1f} dB"
            rows.append({"layer": name, "macs": spared.product.macs, "why": why})
        before, after = (decibels(1.0, noise) for noise in (outcome.before, outcome.after))
        spared_macs = sum(s.product.macs for s in outcome.spared) / total
        note("spared", {"layers": len(rows), "macs": spared_macs, "sqnr_db_without": before})
        if self.sqnr_db is not None and after < self.sqnr_db:
            within = "" if self.float_share is None else f" within {self.float_share:.1%} of float products"
            note("not_reached", f"{self.sqnr_db:g} dB{within}: {after:.1f} dB is what was reached")
        return rows

    def _grids(self) -> Grids:
        """The grids of activations and weights; UsageError for options that do not fit."""
        if self.method not in METHODS:
            raise UsageError(f"there is no method {self.method!r}", hint=f"there are {', '.join(METHODS)}")
        if not 50 < self.percentile <= 100:
            raise UsageError(f"the percentile must be above 50 and at most 100, got {self.percentile}")
        if self.rounding not in ("nearest", "gptq"):
            raise UsageError(f"no rounding is {self.rounding!r}", hint="there are nearest, gptq")
        if self.float_share is not None and not 0 <= self.float_share <= 1:
            raise UsageError(f"a share of the products lies between 0 and 1, got {self.float_share}")
        scheme = self.scheme or U8_BY_I8
        weights = self.weights or scheme.weights
        power = scheme.power_of_two_scales if self.power_of_two is None else self.power_of_two
        symmetric = scheme.symmetric_activations if self.symmetric is None else self.symmetric
        signed = weights.is_integer and weights.range[0] < 0
        return Grids(
            activations=Grid(self.activations or scheme.activations, symmetric, power),
            weights=Grid(weights, signed, power),
            per_channel=scheme.per_channel if self.per_channel is None else self.per_channel,
        )

    def _choose(self, graph: Graph, grids: Grids) -> tuple[dict[Node, Product], list[dict[str, Any]]]:
        """The products to quantize, and those that stay float with the reason."""
        least = self.least_macs
        if least is None:
            least = 0 if grids.activations.power_of_two else LEAST_MACS
        found = {layer.node: layer for layer in layers(graph)}
        # Patterns may name layers that are quantized already.
        named = [*found.values(), *stored_layers(graph)]
        selected = {layer.node for layer in select(named, self.only, self.skip)}
        products: dict[Node, Product] = {}
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
                kept.append({"layer": _name(node, layer), "macs": macs, "why": why})
            else:
                places = (0, 1) if layer is None else (1 - layer.place,)
                products[node] = Product(places, layer, macs)
        return products, kept

    def _why_float(self, node: Node, layer: Layer | None, macs: int, least: int) -> str:
        if node.type.dtype is not DType.f32:
            return f"computes in {node.type.dtype}"
        if isinstance(node.op, Attention) or (layer is None and not self.attention):
            return "a product of two activations"
        if layer is None and (isinstance(node.op, Conv) or any(v.literal for v in node.operands)):
            return "its weight is not constant" if isinstance(node.op, Conv) else "a batch of weights"
        if _is_quantized(node):
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
        grids: Grids,
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


def _is_quantized(node: Node) -> bool:
    product = isinstance(node.op, Conv | Matmul)
    return product and all(isinstance(v.op, Dequantize) for v in node.operands[:2])


def _name(node: Node, layer: Layer | None) -> str:
    return layer.name if layer else node.name or node.source
