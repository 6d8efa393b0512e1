"""Finds what the elements of a cluster read where, and which loop transformations would make that simple."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hardy.compiler.ir import Node, Value
from hardy.targets.cpu.lower import index
from hardy.targets.cpu.lower.cluster import is_immediate
from hardy.targets.cpu.lower.index import Axis, Index, Loaded
from hardy.targets.cpu.lower.movement import SOURCES, At, Choice, Inside, Read, Test, sources


def chosen(choice: Choice) -> Read | None:
    """The operand that a choice always takes, None where it depends on the loop."""
    low, high = choice.selector.bounds
    start = 0
    for limit, read in zip(choice.limits, choice.reads, strict=True):
        if start <= low and high < limit:
            return read
        start = limit
    return None


def undecided(inside: Inside) -> list[Test] | None:
    """The tests that depend on the loop; None where one always fails."""
    left = []
    for test in inside.tests:
        low, high = test.index.bounds
        if high < test.low or low >= test.high:
            return None
        whole = test.step == 1 or (test.index + -test.low).remainder(test.step) == index.ZERO
        if low < test.low or high >= test.high or not whole:
            left.append(test)
    return left


@dataclass
class Trace:
    """What evaluating elements at some index tuples reads, and what would simplify it.

    `reads` are the flat positions of loads, `tests` the indices whose value decides a branch, `splits` and
    `cuts` the wanted loop transformations.
    """

    inside: set[Node]
    bound: Mapping[Value, object] = field(default_factory=dict)
    reads: dict[tuple[Value, Index], None] = field(default_factory=dict)
    tests: list[Index] = field(default_factory=list)
    splits: dict[tuple[Axis, int], None] = field(default_factory=dict)
    cuts: dict[Axis, set[int]] = field(default_factory=dict)
    _seen: set[tuple[Value, At]] = field(default_factory=set)

    def visit(self, value: Value, at: At) -> None:
        if (value, at) in self._seen or is_immediate(value) or value in self.bound:
            return
        self._seen.add((value, at))
        if value.node not in self.inside:
            flat = index.flatten(at, value.type.shape)
            self.reads[value, flat] = None
            for wanted in index.factors_wanted(flat):
                self.splits[wanted] = None
            self._loads(flat)
            return
        node = value.node
        if type(node.op) not in SOURCES:
            for operand in node.operands:
                self.visit(operand, index.broadcast(at, operand.type.shape))
            return
        source = sources(node, at)
        if isinstance(source, Read):
            self.visit(source.value, source.at)
        elif isinstance(source, Choice):
            self._choice(source)
        else:
            self._inside(source)

    def _choice(self, choice: Choice) -> None:
        read = chosen(choice)
        if read is not None:
            self.visit(read.value, read.at)
            return
        self._undecided(choice.selector, choice.limits)
        for read in choice.reads:
            self.visit(read.value, read.at)

    def _inside(self, inside: Inside) -> None:
        tests = undecided(inside)
        if tests is None:
            return
        for test in tests:
            self._undecided(test.index, (test.low, test.high))
        self.visit(inside.read.value, inside.read.at)

    def _undecided(self, selector: Index, limits: tuple[int, ...]) -> None:
        self.tests.append(selector)
        self._loads(selector)
        if len(selector.terms) == 1:
            ((atom, c),) = selector.terms.items()
            if isinstance(atom, Axis) and c == 1:
                points = {p - selector.constant for p in limits}
                self.cuts.setdefault(atom, set()).update(p for p in points if 0 < p < atom.extent)

    def _loads(self, flat: Index) -> None:
        for atom in flat.terms:
            if isinstance(atom, Loaded):
                self.visit(atom.value, atom.at)
            elif not isinstance(atom, Axis):
                self._loads(atom.index)
