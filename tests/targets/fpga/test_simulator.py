"""The simulator against confirmed results, and against a plain one on random programs."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.compiler.errors import TargetError
from hardy.targets.cpu.isa import by_name, missing_on_host
from hardy.targets.fpga import simulate
from hardy.targets.fpga.config import find_config
from hardy.targets.fpga.isa import ProgramError, Uop, decode, encode, encode_uops
from hardy.targets.fpga.queues import Queue
from hardy.targets.fpga.simulator import run as simulator_run
from tests.targets.fpga.plain import run_plainly
from tests.targets.fpga.random_programs import Case, cases
from tests.targets.fpga.test_isa import GOLDEN

VECTORS = Path(__file__).parents[2] / "data" / "vta_vectors"
PYNQ = find_config("pynq-z1")


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.json")), ids=lambda p: p.stem)
def test_programs_give_the_confirmed_images(path: Path) -> None:
    vector = json.loads(path.read_text())
    before = np.random.default_rng(vector["seed"]).integers(0, 256, vector["dram_bytes"], dtype=np.uint8)
    _patch(before, vector["patches"])
    after = before.copy()
    _patch(after, vector["expected_changes"])
    given = before.copy()
    np.testing.assert_array_equal(simulate(bytes.fromhex(vector["instructions"]), given), after)
    np.testing.assert_array_equal(given, before)


def _patch(image: np.ndarray[Any, Any], patches: list[tuple[int, str]]) -> None:
    for address, text in patches:
        data = np.frombuffer(bytes.fromhex(text), np.uint8)
        image[address : address + data.size] = data


def test_the_confirmed_programs_are_there() -> None:
    assert len(list(VECTORS.glob("*.json"))) == 24


def test_a_product_with_bias_shift_and_clip_equals_numpy() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(-128, 128, (1, 32), dtype=np.int8)
    b = rng.integers(-128, 128, (16, 32), dtype=np.int8)
    bias = rng.integers(-(2**12), 2**12, 16, dtype=np.int32)
    dram = np.zeros(0x7000, np.uint8)

    def put(address: int, data: bytes) -> None:
        dram[address : address + len(data)] = np.frombuffer(data, np.uint8)

    put(0x2000, a.tobytes())
    put(0x3000, b.reshape(16, 2, 16).transpose(1, 0, 2).tobytes())
    put(0x4000, bias.tobytes())
    put(0x6000, encode_uops([Uop(5, 0, 0), Uop(5, 1, 1), Uop(5, 5, 0)], PYNQ))
    result = simulate(encode([i for i, _ in GOLDEN], PYNQ), dram.tobytes())
    expected = np.clip((a.astype(np.int32) @ b.astype(np.int32).T + bias) >> 6, -128, 127)
    np.testing.assert_array_equal(result[0x5000:0x5010].view(np.int8), expected[0])
    assert not result[0x5010:0x6000].any()


def test_dram_is_a_line_of_bytes() -> None:
    with pytest.raises(ProgramError, match="line of bytes"):
        simulate(encode([GOLDEN[-1][0]], PYNQ), np.zeros((2, 2), np.uint8))
    with pytest.raises(TargetError, match="no configuration is called"):
        simulate(b"", b"", "pynq")


@given(cases())
@settings(max_examples=150, deadline=None)
def test_random_programs_agree_with_the_plain_simulator(case: Case) -> None:
    expected = run_plainly(case.program, case.dram, case.config, lambda ready: ready[0])
    code = encode(case.program, case.config)
    np.testing.assert_array_equal(simulate(code, case.dram, case.config), expected)


@given(cases(relaxed=True), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_what_is_not_refused_gives_one_result_in_every_order(case: Case, choice: random.Random) -> None:
    code = encode(case.program, case.config)
    outcomes: list[Any] = []
    for priority in itertools.permutations(Queue):
        try:
            outcomes.append(simulate(code, case.dram, case.config, priority=priority))
        except ProgramError:
            outcomes.append(None)
    refused = [outcome is None for outcome in outcomes]
    assert all(refused) or not any(refused)
    if not any(refused):
        plain = run_plainly(case.program, case.dram, case.config, choice.choice)
        for outcome in outcomes:
            np.testing.assert_array_equal(outcome, plain)


@pytest.mark.parametrize("name", ["portable", "avx2", "avx512", "avx512+vnni"])
def test_every_instruction_set_computes_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    isa = by_name(name)
    if missing := missing_on_host(isa):
        pytest.skip(f"this machine has no {', '.join(missing)}")
    vector = json.loads((VECTORS / "v0118.json").read_text())
    dram = np.random.default_rng(vector["seed"]).integers(0, 256, vector["dram_bytes"], dtype=np.uint8)
    _patch(dram, vector["patches"])
    code = bytes.fromhex(vector["instructions"])
    expected = run_plainly(decode(code, PYNQ), dram, PYNQ, lambda ready: ready[0])
    monkeypatch.setattr(simulator_run, "host", lambda: isa)
    np.testing.assert_array_equal(simulate(code, dram), expected)


def test_the_example_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "vta.md").read_text()
    exec(text.partition("```python\n")[2].partition("```")[0], {})
    assert int(capsys.readouterr().out) > 0
