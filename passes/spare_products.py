"""Which products hurt most when they are quantized, and which of them stay float for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hardy.compiler.calibration import Samples, inputs_of
from hardy.compiler.compare import Error, output_errors
from hardy.compiler.interpret import evaluate, run_node
from hardy.compiler.ir import Constant, Graph, Input, Node, Value
from hardy.compiler.ops.rules import along
from hardy.compiler.pipeline import decibels
from hardy.compiler.progress import tell
from hardy.passes.channel_scales import output_axis
from hardy.passes.quantize_dequantize import Plan, Product

# A product stays float within a budget only if that takes away this share of the noise that is left.
WORTH = 0.05


@dataclass(frozen=True)
class Budget:
    """What keeps products float: at most `float_share` of `macs` multiply-accumulates, until the outputs
    reach `sqnr_db`; each is no limit where it is None."""

    macs: int
    float_share: float | None
    sqnr_db: float | None

    def met(self, noise: float) -> bool:
        return self.sqnr_db is not None and decibels(1.0, noise) >= self.sqnr_db

    def holds(self, float_macs: int) -> bool:
        return self.float_share is None or float_macs <= self.float_share * self.macs


@dataclass(frozen=True)
class Spared:
    """A product that stays float, and the outputs' noise when it alone is quantized, by their power."""

    node: Node
    product: Product
    alone: float


@dataclass(frozen=True)
class Outcome:
    """The plan that is left, its graph, and the outputs' noise over their power, before and after."""

    plan: Plan
    result: Graph
    spared: tuple[Spared, ...]
    before: float
    after: float


def spare(original: Graph, plan: Plan, budget: Budget, samples: Samples) -> Outcome:
    """Leave products float, those first whose quantization alone moves the outputs most.

    Noises of single products roughly add up: how many are needed is foreseen from their sum, then what
    is left is measured, and more are taken where that is not enough. What is spared without making the
    outputs better is quantized after all.
    """
    result = plan.apply()
    before = noise = _relative(output_errors(original, result, samples))
    best = Outcome(plan, result, (), before, before)
    if budget.met(noise) or noise == 0:
        return best
    alone = noise_alone(plan, samples)
    left = dict(sorted(alone.items(), key=lambda item: -item[1]))
    spared: list[Spared] = []
    while not budget.met(noise):
        chosen = _next(plan, left, budget, noise, sum(s.product.macs for s in spared))
        if not chosen:
            break
        for node in chosen:
            spared.append(Spared(node, plan.products[node], left.pop(node)))
        fewer = plan.without({s.node for s in spared})
        result = fewer.apply()
        noise = _relative(output_errors(original, result, samples))
        if noise < best.after:
            best = Outcome(fewer, result, tuple(spared), before, noise)
        if budget.sqnr_db is None:
            break
    return best


def _next(
    plan: Plan, left: Mapping[Node, float], budget: Budget, noise: float, float_macs: int
) -> list[Node]:
    """The products to leave float next: until that should be enough, or all that are worth it."""
    total = rest = sum(left.values())
    chosen: list[Node] = []
    for node, own in left.items():
        if own <= 0 or (budget.float_share is not None and own < WORTH * rest):
            break
        if not budget.holds(float_macs + plan.products[node].macs):
            continue
        chosen.append(node)
        float_macs += plan.products[node].macs
        rest -= own
        if budget.met(noise * max(rest, 0.0) / total):
            break
    return chosen


def noise_alone(plan: Plan, samples: Samples) -> dict[Node, float]:
    """The outputs' noise over their power, mean over float outputs, when one product alone is quantized.

    Only what depends on the product is computed again, from the float values of the sample, which are
    held for one sample at a time.
    """
    graph = plan.graph
    outputs = [v for v in graph.outputs if v.type.dtype.is_float]
    errors: dict[Node, dict[Value, Error]] = {n: {v: Error() for v in outputs} for n in plan.products}
    place = {node: i for i, node in enumerate(graph.nodes)}
    with torch.inference_mode():
        for feed in samples.feeds(graph.input_types()):
            values: dict[Value, Tensor] = {}
            given = inputs_of(graph, feed)
            evaluate(graph, [given[name] for name in graph.input_names], values.__setitem__)
            for number, (node, product) in enumerate(plan.products.items()):
                tell("measure layers", number, len(plan.products))
                changed = {node.values[0]: _quantized(plan, node, product, values)}
                _carry_on(graph.nodes[place[node] + 1 :], values, changed)
                for value, error in errors[node].items():
                    error.update(values[value], changed.get(value, values[value]))
    return {node: _relative({str(i): e for i, e in enumerate(by.values())}) for node, by in errors.items()}


def _quantized(plan: Plan, node: Node, product: Product, values: Mapping[Value, Tensor]) -> Tensor:
    """The product's result with its operands rounded."""
    operands = [values[v] for v in node.operands]
    for i in product.activations:
        place = plan.islands.reads[node, i]
        scale, zero = plan.ranges[plan.islands.ties[place]]
        operands[i] = plan.grids.of(place).rounded(operands[i], scale, zero)
    layer = product.layer
    if layer is None:
        return run_node(node, operands)[0]
    rounded = plan.weight_of(layer)
    operands[layer.place] = layer.unrows(rounded.rows())
    (result,) = run_node(node, operands)
    if rounded.shift is not None:
        result = result + along(rounded.shift.to(result.dtype), output_axis(layer), result.ndim)
    return result


def _carry_on(nodes: Sequence[Node], values: Mapping[Value, Tensor], changed: dict[Value, Tensor]) -> None:
    """What depends on the changed values, put among them."""
    for node in nodes:
        if isinstance(node.op, Input | Constant) or not any(v in changed for v in node.operands):
            continue
        results = run_node(node, [changed[v] if v in changed else values[v] for v in node.operands])
        changed.update(zip(node.values, results, strict=True))


def _relative(errors: Mapping[str, Error]) -> float:
    """Noise over signal, the mean over outputs with a signal."""
    shares = [e.noise / e.signal for e in errors.values() if e.signal > 0]
    return sum(shares) / len(shares) if shares else 0.0
