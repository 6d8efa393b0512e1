"""Layouts, constants, memory, micro-op kernels and slots, each alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.targets.fpga.config import find_config
from hardy.targets.fpga.isa import Uop, encode_uops
from hardy.targets.fpga.lower.constants import constant_input, constants, spell
from hardy.targets.fpga.lower.kernels import Kernel, Loop, is_hazardous, spread, uops
from hardy.targets.fpga.lower.layer import Layer
from hardy.targets.fpga.lower.layout import pack_activation, pack_weights, unpack_activation
from hardy.targets.fpga.lower.memory import Lifetime, align, share
from hardy.targets.fpga.lower.residency import Slots, Space
from hardy.targets.fpga.lower.uops import encode_words
from tests.targets.fpga.lower.strategies import layers

CONFIGS = ("1x4", "2x8", "pynq-z1")


@given(st.sampled_from(CONFIGS), st.tuples(*[st.integers(1, 20)] * 4))
@settings(deadline=None)
def test_unpacking_gives_back_what_was_packed(config: str, shape: tuple[int, int, int, int]) -> None:
    x = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    packed = pack_activation(x, find_config(config))
    np.testing.assert_array_equal(unpack_activation(packed, shape), x)
    assert packed.sum(dtype=int) == x.sum(dtype=int)


@given(st.sampled_from(CONFIGS), layers())
@settings(max_examples=50, deadline=None)
def test_weights_in_blocks_are_the_layers_weights(config: str, layer: Layer) -> None:
    b = find_config(config).block
    packed = pack_weights(layer, find_config(config))
    whole = np.zeros((len(packed.start) * b, layer.shape[1] + 4 * b, *layer.kernel), np.int8)
    for o, start in enumerate(packed.start):
        for i in range(packed.count):
            channel = (start + i) * b
            whole[o * b : (o + 1) * b, channel : channel + b] = packed.values[o, i].transpose(2, 3, 0, 1)
    per_group, per_outputs = layer.weights.shape[1], layer.outputs // layer.groups
    expected = np.zeros_like(whole)
    for o in range(layer.outputs):
        first = o // per_outputs * per_group
        expected[o, first : first + per_group] = layer.weights[o]
    np.testing.assert_array_equal(whole, expected)


@given(st.sampled_from(CONFIGS), st.lists(st.integers(-(2**18), 2**18), min_size=1, max_size=20))
def test_a_spelled_bias_times_the_constant_input_is_the_bias(config: str, values: list[int]) -> None:
    elements = spell(np.asarray(values), find_config(config), most=100)
    assert elements is not None
    vector = constant_input(find_config(config))[0].astype(int)
    got = (elements.astype(int) @ vector).sum(1).ravel()
    np.testing.assert_array_equal(got[: len(values)], values)
    assert not got[len(values) :].any()


def test_a_bias_that_is_too_large_to_spell_goes_to_the_vector_unit() -> None:
    layer = Layer("layer", (1, 16, 1, 1), np.ones((16, 16, 1, 1), np.int8), bias=np.full(16, 2**30, np.int32))
    found = constants(layer, find_config("pynq-z1"))
    assert found.spelled.shape[1] == 0
    np.testing.assert_array_equal(found.vectors, np.full((1, 1, 1, 16), 2**30))


lifetimes = st.lists(
    st.tuples(st.integers(1, 500), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12
).map(lambda rows: [Lifetime(n, size, min(a, b), max(a, b)) for n, (size, a, b) in enumerate(rows)])


@given(lifetimes)
def test_tensors_that_live_at_the_same_time_share_no_byte(tensors: list[Lifetime]) -> None:
    offsets, total = share(tensors, 16)
    for n, a in enumerate(tensors):
        assert offsets[a.key] % 16 == 0
        assert offsets[a.key] + a.size <= total
        for b in tensors[:n]:
            if a.first <= b.last and b.first <= a.last:
                assert offsets[a.key] + a.size <= offsets[b.key] or offsets[b.key] + b.size <= offsets[a.key]


def test_tensors_that_never_meet_share_their_place() -> None:
    tensors = [Lifetime("a", 100, 0, 1), Lifetime("b", 100, 2, 3)]
    assert share(tensors, 16) == ({"a": 0, "b": 0}, align(100, 16))


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.integers(1, 3),
    st.booleans(),
)
def test_spread_kernels_keep_their_micro_ops_and_never_meet(
    dsts: list[int], count: int, reads_acc: bool
) -> None:
    kernel = Kernel(uops(np.asarray(dsts), np.arange(len(dsts)) % 4), Loop(1 if reads_acc else count))
    apart = spread(kernel, (10, 11, 12), reads_acc=reads_acc)
    assert not is_hazardous(apart, apart.alu(0) if reads_acc else apart.gemm())  # type: ignore[arg-type] # any opcode
    kept = apart.uops[apart.uops[:, 0] < 10]
    np.testing.assert_array_equal(kept, kernel.uops)


def test_micro_ops_are_encoded_as_the_instruction_set_says() -> None:
    config = find_config("1x8")
    rows = np.asarray([(1, 2, 3), (5, 7, 0)])
    expected = encode_uops((Uop(*map(int, row)) for row in rows), config)
    assert encode_words(rows, config).tobytes() == expected


def test_what_is_used_again_latest_is_replaced() -> None:
    slots = Slots(Space(30), [0, 10, 20], 10, {"a": [0, 5], "b": [1, 9], "c": [2, 6], "d": [4]})
    for time, key in enumerate("abc"):
        slots.request(key, time, time - 1)
    start, free = slots.request("d", 4, 3)
    assert (start, free) == (10, 1)


def test_what_the_step_before_uses_is_kept_while_there_is_another() -> None:
    slots = Slots(Space(20), [0, 10], 10, {"a": [0, 3], "b": [1], "c": [2]})
    slots.request("a", 0, -1)
    slots.request("b", 1, 0)
    assert slots.request("c", 2, 1)[0] == 0


def test_regions_that_exceed_a_buffer_are_a_fault() -> None:
    with pytest.raises(AssertionError, match="exceed"):
        Space(10).place([6, 6])
