"""Signs that rounding decides.

Two correct computations of one model round differently. Where a number is within rounding error of zero,
one may find it positive and the other negative, and `sign` makes a difference of two out of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from hardy.compiler.interpret import check_inputs, evaluate, run_node
from hardy.compiler.ir import Graph, Node
from hardy.compiler.ops.elementwise import Sign
from hardy.compiler.tolerance import allowed_error, compare

# Runs of the graph that the search may take.
RUNS = 128

Outputs = Mapping[str, torch.Tensor]
# Signs that are taken in place of the computed ones, by node and place in the flat result.
Taken = Mapping[Node, Mapping[int, float]]


@dataclass(frozen=True)
class Undecided:
    """A sign of a number that is no further from zero than two computations of it may differ.

    `distance` is that from zero, as a share of what the tolerance allows.
    """

    node: Node
    place: int
    sign: float
    distance: float

    @property
    def others(self) -> tuple[float, ...]:
        """What it may be as well."""
        return tuple(s for s in (-1.0, 0.0, 1.0) if s != self.sign)


def closest_outputs(
    graph: Graph, inputs: Mapping[str, torch.Tensor], expected: Outputs
) -> tuple[Outputs, int]:
    """The graph's outputs with undecided signs taken as `expected` suggests, and how many were changed.

    One sign after the other, the closest to zero first, is changed where that brings the outputs nearer,
    until they agree or nothing helps. No sign of a number beyond rounding error is changed, so that outputs
    which agree in the end are a possible result of the graph.
    """
    operands = check_inputs(graph.input_types(), inputs)
    taken: dict[Node, dict[int, float]] = {}
    outputs, undecided = _run(graph, operands, taken)
    error = _error(expected, outputs)
    tried: set[tuple[Node, int]] = set()
    runs = 1
    while error > 0:
        left = [u for u in undecided if (u.node, u.place) not in tried]
        if not left or runs >= RUNS:
            break
        one = left[0]
        tried.add((one.node, one.place))
        best = taken
        for sign in one.others:
            changed = taken | {one.node: {**taken.get(one.node, {}), one.place: sign}}
            found = _run(graph, operands, changed)
            runs += 1
            found_error = _error(expected, found[0])
            if found_error < error:
                (outputs, undecided), error, best = found, found_error, changed
        taken = best
    return outputs, sum(len(places) for places in taken.values())


def _run(graph: Graph, operands: Sequence[torch.Tensor], taken: Taken) -> tuple[Outputs, list[Undecided]]:
    """The outputs, and the signs that are undecided, those of numbers closest to zero first.

    Numbers that are zero exactly come last: most are, as those below zero are after a relu.
    """
    found: list[Undecided] = []

    def compute(node: Node, given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        results = run_node(node, given)
        if not isinstance(node.op, Sign) or not given[0].is_floating_point():
            return results
        x, sign = given[0].double().reshape(-1), results[0].flatten().clone()
        distance = x.abs() / allowed_error(given[0], scaled=True).reshape(-1)
        near = (distance <= 1).nonzero().reshape(-1)
        order = near[torch.where(x[near] == 0, math.inf, distance[near]).argsort(stable=True)][:RUNS]
        found.extend(
            Undecided(node, place, float(sign[place]), float(distance[place])) for place in order.tolist()
        )
        for place, value in taken.get(node, {}).items():
            # A sign taken further up may have moved this number away from zero.
            if float(distance[place]) <= 1:
                sign[place] = value
        return (sign.reshape(results[0].shape),)

    with torch.no_grad():
        outputs = evaluate(graph, operands, compute=compute)
    found.sort(key=lambda u: (u.distance == 0, u.distance))
    return dict(zip(graph.output_names, outputs, strict=True)), found


def _error(expected: Outputs, actual: Outputs) -> float:
    """The squares of all differences over what is allowed, where an output differs; 0 where all agree."""
    total = 0.0
    for name, want in expected.items():
        if compare(want, actual[name], scaled=True).passed:
            continue
        a, b = want.double(), actual[name].double()
        same = (a == b) | (a.isnan() & b.isnan())
        allowed = allowed_error(want, scaled=True).clamp(min=1e-300)
        ratio = torch.where(same, 0.0, (a - b).abs() / allowed).nan_to_num(nan=math.inf, posinf=math.inf)
        total += float(ratio.square().sum())
    return total
