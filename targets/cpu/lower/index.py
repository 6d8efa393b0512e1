"""Index arithmetic: integer linear combinations of loop axes, with known bounds.

Where an element of a tensor comes from is computed here, in Python, before any code is written: so that
divisions and remainders of reshapes vanish, contiguous loops merge, and it is known which access is a vector
load, which a broadcast and which a gather.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from hardy.compiler.ir import Value

_serial = itertools.count()


class Axis:
    """A loop over 0 .. extent - 1. Compares by identity."""

    __slots__ = ("extent", "serial")

    def __init__(self, extent: int) -> None:
        self.extent = extent
        self.serial = next(_serial)

    @property
    def bounds(self) -> tuple[int, int]:
        return 0, self.extent - 1

    def axes(self) -> Iterator[Axis]:
        yield self


@dataclass(frozen=True)
class Quotient:
    """floor(index / divisor), where no simpler form is known."""

    index: Index
    divisor: int

    @property
    def bounds(self) -> tuple[int, int]:
        low, high = self.index.bounds
        return low // self.divisor, high // self.divisor

    def axes(self) -> Iterator[Axis]:
        return self.index.axes()


@dataclass(frozen=True)
class Remainder:
    """index mod divisor, never negative."""

    index: Index
    divisor: int

    @property
    def bounds(self) -> tuple[int, int]:
        return 0, self.divisor - 1

    def axes(self) -> Iterator[Axis]:
        return self.index.axes()


@dataclass(frozen=True)
class Loaded:
    """An index read from a tensor at run time: below zero it counts from `size`, and it stays in range."""

    value: Value
    at: tuple[Index, ...]
    size: int

    @property
    def bounds(self) -> tuple[int, int]:
        return 0, self.size - 1

    def axes(self) -> Iterator[Axis]:
        for index in self.at:
            yield from index.axes()


Atom = Axis | Quotient | Remainder | Loaded


class Index:
    """constant + sum of coefficient * atom."""

    def __init__(self, terms: Mapping[Atom, int], constant: int = 0) -> None:
        self.terms = dict(terms)
        self.constant = constant

    @cached_property
    def key(self) -> tuple[frozenset[tuple[Atom, int]], int]:
        return frozenset(self.terms.items()), self.constant

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.terms, self.constant + other)
        terms = dict(self.terms)
        for atom, c in other.terms.items():
            total = terms.get(atom, 0) + c
            if total:
                terms[atom] = total
            else:
                del terms[atom]
        return Index(terms, self.constant + other.constant)

    def __mul__(self, factor: int) -> Index:
        if factor == 0:
            return ZERO
        return Index({a: c * factor for a, c in self.terms.items()}, self.constant * factor)

    def __rsub__(self, other: int) -> Index:
        return self * -1 + other

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest value, both attained or not."""
        low = high = self.constant
        for atom, c in self.terms.items():
            ends = [c * b for b in atom.bounds]
            low, high = low + min(ends), high + max(ends)
        return low, high

    @cached_property
    def all_axes(self) -> frozenset[Axis]:
        return frozenset(self.axes())

    def axes(self) -> Iterator[Axis]:
        for atom in self.terms:
            yield from atom.axes()

    def bent(self) -> set[Axis]:
        """Axes that do not enter linearly."""
        return {axis for atom in self.terms if not isinstance(atom, Axis) for axis in atom.axes()}

    def _divide(self, divisor: int) -> tuple[Index, Index]:
        """(q, r) with self = q * divisor + r, r as small as the coefficients allow."""
        q = {a: c // divisor for a, c in self.terms.items() if c % divisor == 0}
        r = {a: c for a, c in self.terms.items() if c % divisor}
        return Index(q, self.constant // divisor), Index(r, self.constant % divisor)

    def quotient(self, divisor: int) -> Index:
        """floor(self / divisor)."""
        if divisor == 1:
            return self
        q, r = self._divide(divisor)
        low, high = r.bounds
        if low // divisor == high // divisor:
            return q + low // divisor
        return q + Index({Quotient(r, divisor): 1})

    def remainder(self, divisor: int) -> Index:
        """self mod divisor."""
        if divisor == 1:
            return ZERO
        _, r = self._divide(divisor)
        low, high = r.bounds
        if low // divisor == high // divisor:
            return r + -(low // divisor) * divisor
        return Index({Remainder(r, divisor): 1})

    def substitute(self, mapping: Mapping[Axis, Index]) -> Index:
        """The index with axes replaced; divisions are simplified anew."""
        if not any(axis in mapping for axis in self.all_axes):
            return self
        result = Index({}, self.constant)
        for atom, c in self.terms.items():
            result = result + _replace(atom, mapping) * c
        return result


ZERO = Index({})


def _replace(atom: Atom, mapping: Mapping[Axis, Index]) -> Index:
    if isinstance(atom, Axis):
        return mapping.get(atom) or Index({atom: 1})
    if isinstance(atom, Quotient):
        return atom.index.substitute(mapping).quotient(atom.divisor)
    if isinstance(atom, Remainder):
        return atom.index.substitute(mapping).remainder(atom.divisor)
    return Index({Loaded(atom.value, tuple(i.substitute(mapping) for i in atom.at), atom.size): 1})


def of_axis(axis: Axis) -> Index:
    return Index({axis: 1}) if axis.extent != 1 else ZERO


def constant(value: int) -> Index:
    return Index({}, value)


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Elements between neighbours on each axis of a row-major tensor."""
    result = [1] * len(shape)
    for i in reversed(range(len(shape) - 1)):
        result[i] = result[i + 1] * shape[i + 1]
    return tuple(result)


def flatten(at: Sequence[Index], shape: Sequence[int]) -> Index:
    """The element number of an index tuple."""
    total = ZERO
    for index, stride in zip(at, strides(shape), strict=True):
        total = total + index * stride
    return total


def unflatten(flat: Index, shape: Sequence[int]) -> tuple[Index, ...]:
    """The index tuple of an element number that lies inside the tensor."""
    if 0 in shape:
        return (ZERO,) * len(shape)
    result = []
    for i, (size, stride) in enumerate(zip(shape, strides(shape), strict=True)):
        if size == 1:
            result.append(ZERO)
            continue
        index = flat.quotient(stride)
        result.append(index if i == 0 else index.remainder(size))
    return tuple(result)


def broadcast(at: Sequence[Index], shape: Sequence[int]) -> tuple[Index, ...]:
    """The index tuple into an operand of `shape` that is broadcast under the index tuple `at`."""
    tail = at[len(at) - len(shape) :]
    return tuple(ZERO if n == 1 else i for i, n in zip(tail, shape, strict=True))


def factors_wanted(index: Index) -> Iterator[tuple[Axis, int]]:
    """(axis, inner extent) of the splits that would let a quotient or remainder inside `index` vanish."""
    for atom in index.terms:
        if isinstance(atom, Quotient | Remainder):
            yield from factors_wanted(atom.index)
            for axis, c in atom.index.terms.items():
                inner = atom.divisor // abs(c) if c else 0
                if (
                    isinstance(axis, Axis)
                    and atom.divisor % c == 0
                    and 1 < inner < axis.extent
                    and axis.extent % inner == 0
                ):
                    yield axis, inner
        elif isinstance(atom, Loaded):
            for inside in atom.at:
                yield from factors_wanted(inside)
