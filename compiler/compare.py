"""Where two graphs of one model part: the error of every value that both compute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hardy.compiler.calibration import Samples, inputs_of
from hardy.compiler.errors import UsageError
from hardy.compiler.interpret import evaluate, run, run_node
from hardy.compiler.ir import Graph, Node, Value
from hardy.compiler.pairing import computed, paired_loosely
from hardy.compiler.pipeline import decibels
from hardy.compiler.progress import tell


@dataclass
class Error:
    """How far one tensor is from another over all samples, as running sums in f64."""

    signal: float = 0.0
    power: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    largest: float = 0.0

    def update(self, expected: Tensor, actual: Tensor) -> None:
        e, a = expected.reshape(-1).double(), actual.reshape(-1).double()
        difference = e - a
        self.signal += float(e @ e)
        self.power += float(a @ a)
        self.product += float(e @ a)
        self.noise += float(difference @ difference)
        self.largest = max(self.largest, float(difference.abs().max())) if e.numel() else self.largest

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise); infinite where nothing differs."""
        return decibels(self.signal, self.noise)

    @property
    def cosine(self) -> float:
        """The cosine of the angle between the tensors; 1 where both are zero."""
        if self.signal == 0 or self.power == 0:
            return 1.0 if self.signal == self.power else 0.0
        return self.product / math.sqrt(self.signal * self.power)


@dataclass(frozen=True)
class Compared:
    """One value that both graphs compute.

    `total` is its error as the changed graph computes it; `local` is the error that arises between
    here and the values before, which are given as the original has them.
    """

    name: str
    source: str
    op: str
    shape: tuple[int, ...]
    total: Error = field(default_factory=Error)
    local: Error = field(default_factory=Error)


@dataclass(frozen=True)
class Comparison:
    """The compared values, in the order of the changed graph; `unpaired` values of the original have no
    counterpart."""

    values: tuple[Compared, ...]
    outputs: Mapping[str, Error]
    unpaired: int
    samples: int

    def worst(self) -> list[Compared]:
        """Where most error arises first."""
        return sorted(self.values, key=lambda v: (v.local.sqnr_db, v.total.sqnr_db))


def compare_graphs(original: Graph, changed: Graph, samples: Samples) -> Comparison:
    """Run both graphs on every sample and compare the values that `paired_loosely` finds.

    What is kept does not grow with the samples. UsageError where the inputs or outputs differ.
    """
    _require_same_interface(original, changed)
    pairs = paired_loosely(changed, original)
    rows = {
        mine: Compared(_label(other.node), other.node.source, other.op.name, other.type.shape)
        for mine, other in pairs.items()
    }
    outputs = {name: Error() for name, t in original.output_types().items() if t.dtype.is_float}
    count = 0
    with torch.no_grad():
        for feed in samples.feeds(original.input_types()):
            operands = [feed[name] for name in original.input_names]
            _compare_once(original, changed, operands, pairs, rows, outputs)
            count += 1
            tell("compare", count, max(count, samples.limit or 0))
    unpaired = len(computed(original)) - len(pairs)
    ordered = [rows[v] for v in computed(changed) if v in rows]
    return Comparison(tuple(ordered), outputs, unpaired, count)


def _label(node: Node) -> str:
    """The node's name, else that of a constant that it reads, such as a layer's weight."""
    return node.name or next((v.node.name for v in node.operands if v.literal and v.node.name), "")


def output_errors(original: Graph, changed: Graph, samples: Samples) -> dict[str, Error]:
    """The errors of the float outputs alone. UsageError as in `compare_graphs`."""
    _require_same_interface(original, changed)
    errors = {name: Error() for name, t in original.output_types().items() if t.dtype.is_float}
    for feed in samples.feeds(original.input_types()):
        given = inputs_of(original, feed)
        expected, actual = run(original, given), run(changed, given)
        for name, error in errors.items():
            error.update(expected[name], actual[name])
    return errors


def _require_same_interface(original: Graph, changed: Graph) -> None:
    for what, mine, other in (
        ("inputs", original.input_types(), changed.input_types()),
        ("outputs", original.output_types(), changed.output_types()),
    ):
        if mine != other:
            raise UsageError(
                f"the {what} of the two models differ",
                hint="; ".join(", ".join(f"{n}: {t}" for n, t in side.items()) for side in (mine, other)),
            )


def _compare_once(
    original: Graph,
    changed: Graph,
    operands: Sequence[Tensor],
    pairs: Mapping[Value, Value],
    rows: Mapping[Value, Compared],
    outputs: Mapping[str, Error],
) -> None:
    """One sample: the original, the changed graph as it is, and the changed graph put right at each pair."""
    partners = {other: mine for mine, other in pairs.items()}
    expected: dict[Value, Tensor] = {}

    def keep(value: Value, tensor: Tensor) -> None:
        partner = partners.get(value)
        if partner is not None:
            expected[partner] = tensor

    def see(value: Value, tensor: Tensor) -> None:
        if value in rows:
            rows[value].total.update(expected[value], tensor)

    def put_right(node: Node, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        results = list(run_node(node, given))
        for i, value in enumerate(node.values):
            if value in rows:
                rows[value].local.update(expected[value], results[i])
                results[i] = expected[value]
        return tuple(results)

    wanted = evaluate(original, operands, keep)
    actual = evaluate(changed, operands, see)
    evaluate(changed, operands, compute=put_right)
    for name, e, a in zip(original.output_names, wanted, actual, strict=True):
        if name in outputs:
            outputs[name].update(e, a)
