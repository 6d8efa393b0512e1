"""Memory plans: nothing that is alive at the same time overlaps, and in-place results share on purpose."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hardy.targets.cpu.memory import Interval, lifetimes, place, plan, share_in_place
from hardy.targets.cpu.program import Call, KernelFunction, Program, Ref
from hardy.targets.cpu.runner import ALIGNMENT

intervals = st.lists(
    st.tuples(st.integers(0, 1000), st.integers(0, 12), st.integers(0, 6)).map(
        lambda t: Interval(t[0], t[1], t[1] + t[2])
    ),
    max_size=25,
)


def arena(index: int) -> Ref:
    return Ref("arena", index)


@given(intervals)
def test_buffers_alive_together_do_not_overlap(buffers: list[Interval]) -> None:
    offsets = place(buffers)
    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    for (a, x), (b, y) in itertools.combinations(zip(offsets, buffers, strict=True), 2):
        if x.overlaps(y):
            assert a + x.size <= b or b + y.size <= a


@given(intervals)
def test_a_buffer_that_outlives_the_index_is_placed_apart_as_well(buffers: list[Interval]) -> None:
    stretched = [Interval(v.size, v.first * 1000, v.last * 1000) for v in buffers]
    offsets = place(stretched)
    for (a, x), (b, y) in itertools.combinations(zip(offsets, stretched, strict=True), 2):
        if x.overlaps(y):
            assert a + x.size <= b or b + y.size <= a


def test_a_chain_of_buffers_takes_the_memory_of_two() -> None:
    program = Program((), ())
    refs = [program.buffer(256) for _ in range(10)]
    kernel = KernelFunction("copy", None)
    program.calls = [Call(kernel, pair, (1,)) for pair in itertools.pairwise(refs)]
    assert plan(program).total == plan(program).lower_bound() == 512


def test_a_result_takes_over_the_memory_of_an_operand_that_dies() -> None:
    kernel = KernelFunction("relu", None, in_place=((0, 1),))
    calls = [Call(kernel, (arena(0), arena(1)), (1,)), Call(kernel, (arena(1), arena(2)), (1,))]
    assert share_in_place(lifetimes([64, 64, 64], calls), calls) == [0, 0, 0]


def test_an_operand_that_is_needed_later_keeps_its_memory() -> None:
    kernel = KernelFunction("relu", None, in_place=((0, 1),))
    calls = [Call(kernel, (arena(0), arena(1)), (1,)), Call(kernel, (arena(0), arena(2)), (1,))]
    assert share_in_place(lifetimes([64, 64, 64], calls), calls) == [0, 1, 0]


def test_an_operand_that_is_read_twice_in_the_call_keeps_its_memory() -> None:
    kernel = KernelFunction("product", None, in_place=((1, 2),))
    calls = [Call(kernel, (arena(0), arena(0), arena(1)), (2,))]
    assert share_in_place(lifetimes([64, 64], calls), calls) == [0, 1]


def test_the_table_names_what_shares_memory() -> None:
    program = Program((), ())
    a, b = program.buffer(100), program.buffer(100)
    program.calls = [Call(KernelFunction("relu", None, in_place=((0, 1),)), (a, b), (1,))]
    text = plan(program).table()
    assert text.splitlines()[0] == "arena 128 bytes, 2 buffers, lower bound 128"
    assert text.splitlines()[3].split() == ["1", "0", "100", "0", "0", "0"]
