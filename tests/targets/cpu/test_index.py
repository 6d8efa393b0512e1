"""Index arithmetic agrees with integer arithmetic, and simplifies what reshapes bring."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hardy.targets.cpu.lower import index
from hardy.targets.cpu.lower.index import Axis, Index, Quotient, Remainder


def value(i: Index, at: dict[Axis, int]) -> int:
    total = i.constant
    for atom, c in i.terms.items():
        if isinstance(atom, Axis):
            total += c * at[atom]
        elif isinstance(atom, Quotient):
            total += c * (value(atom.index, at) // atom.divisor)
        else:
            assert isinstance(atom, Remainder)
            total += c * (value(atom.index, at) % atom.divisor)
    return total


@given(
    st.lists(st.tuples(st.integers(2, 5), st.integers(-7, 7)), min_size=1, max_size=3),
    st.integers(-20, 20),
    st.integers(1, 9),
)
def test_quotient_and_remainder_are_those_of_integers(
    terms: list[tuple[int, int]], constant: int, divisor: int
) -> None:
    axes = [Axis(extent) for extent, _ in terms]
    i = Index({a: c for a, (_, c) in zip(axes, terms, strict=True) if c}, constant)
    for place in itertools.product(*(range(a.extent) for a in axes)):
        at = dict(zip(axes, place, strict=True))
        n = value(i, at)
        low, high = i.bounds
        assert low <= n <= high
        assert value(i.quotient(divisor), at) == n // divisor
        assert value(i.remainder(divisor), at) == n % divisor


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_unflatten_undoes_flatten(shape: list[int]) -> None:
    at = tuple(index.of_axis(Axis(n)) for n in shape)
    assert index.unflatten(index.flatten(at, shape), shape) == at


def test_merging_two_axes_and_splitting_them_again_leaves_no_division() -> None:
    rows, columns = Axis(6), Axis(8)
    flat = index.flatten((index.of_axis(rows), index.of_axis(columns)), (6, 8))
    split = index.unflatten(flat, (6, 2, 4))
    assert [a for i in split for a in i.terms if not isinstance(a, Axis)] == [
        Quotient(index.of_axis(columns), 4),
        Remainder(index.of_axis(columns), 4),
    ]
    assert (columns, 4) in {w for i in split for w in index.factors_wanted(i)}


def test_substituting_a_split_axis_simplifies_a_division_away() -> None:
    axis, high, low = Axis(12), Axis(3), Axis(4)
    i = index.of_axis(axis).quotient(4)
    split = i.substitute({axis: index.of_axis(high) * 4 + index.of_axis(low)})
    assert split == index.of_axis(high)
