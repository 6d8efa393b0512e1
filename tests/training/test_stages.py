"""Graphs in stages: balanced, whole together, and trained as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch

from hardy.compiler.errors import UnsupportedError, UsageError
from hardy.compiler.interpret import evaluate, run
from hardy.compiler.ir import Builder
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.training import CrossEntropy, GraphModule, fit
from hardy.compiler.training.batches import Batches, Shard
from hardy.compiler.training.stages import Stage, _balanced, fit_stages, split
from hardy.compiler.types import DType, TensorType
from tests.training.nets import classes, perceptron
from tests.training.test_recover import network

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("balance", ["bytes", "macs"])
def test_stages_one_after_another_compute_the_whole(count: int, balance: str) -> None:
    graph = network()
    parts = split(graph, count, balance)  # type: ignore[arg-type]
    assert len(parts) == count
    x = torch.randn(1, 8)
    known = {graph.inputs[0]: x}
    for part in parts:
        results = evaluate(part.graph, [known[v] for v in part.takes])
        known |= zip(part.gives, results, strict=True)
    (expected,) = run(graph, {"input": x}).values()
    assert torch.equal(known[graph.outputs[0]], expected)


@pytest.mark.parametrize(
    "weights", [[5, 1, 1, 1, 5, 1], [1, 1, 1, 9], [0, 4, 0, 4, 0, 4], [3, 0, 0, 2, 7, 1, 1]]
)
@pytest.mark.parametrize("count", [2, 3])
def test_the_heaviest_stage_is_as_light_as_can_be(weights: list[int], count: int) -> None:
    def heaviest(ends: Sequence[int]) -> int:
        return max(sum(weights[a:b]) for a, b in pairwise([0, *ends]))

    ends = _balanced(weights, count)
    every = [(*inner, len(weights)) for inner in combinations(range(1, len(weights)), count - 1)]
    assert len(ends) == count
    assert heaviest(ends) == min(heaviest(e) for e in every)


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="too few for 9 stages"):
        split(perceptron(), 9, "macs")


def test_a_weight_that_two_stages_share_is_refused() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (2, 2)))
    w, u = b.constant(torch.eye(2), name="tied"), b.constant(torch.ones(2, 2))
    y = b(Matmul(), b(Matmul(), b(Matmul(), x, w), u), w)
    with pytest.raises(UnsupportedError, match="the constant tied is used in stages 0 and 1"):
        Stage(b.finish({"y": y}), CrossEntropy(), Shard(0, 2))


@pytest.mark.parametrize("micro_batches", [1, 3, 50])
def test_micro_batches_have_the_gradients_of_the_batch(micro_batches: int) -> None:
    graph, samples = perceptron(), classes(10)
    (feeds,) = Batches(samples, graph.input_types(), 10).epoch(0)
    stage = Stage(graph, CrossEntropy(), Shard(), micro_batches=micro_batches)
    loss = stage.step(feeds)
    whole = GraphModule(graph)
    outputs, _ = whole.batch(feeds)
    expected = torch.nn.functional.cross_entropy(outputs["output"].flatten(0, 1), feeds["label"].flatten())
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(stage.module.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_one_stage_trains_as_fit_does() -> None:
    options = {"epochs": 2, "rate": 0.05, "batch": 8, "clip_norm": 0.5}
    _, staged = fit_stages(perceptron(), classes(20), CrossEntropy(), **options)  # type: ignore[arg-type]
    expected = fit(GraphModule(perceptron()), classes(20), CrossEntropy(), **options)  # type: ignore[arg-type]
    assert staged.losses == pytest.approx(expected.losses, abs=1e-5)


SCRIPT = """
import json, sys
from pathlib import Path
import torch
from hardy.compiler.text import print_graph
from hardy.compiler.training import CrossEntropy
from hardy.compiler.training.stages import fit_stages
from hardy.compiler.training.workers import joined
from tests.training.nets import classes
from tests.training.test_recover import network

torch.set_num_threads(1)
with joined() as worker:
    graph, history = fit_stages(
        network(), classes(21), CrossEntropy(), epochs=2, rate=0.05, batch=6, micro_batches=4, clip_norm=0.5
    )
    result = {"losses": history.losses, "graph": print_graph(graph)}
    Path(sys.argv[1], f"{worker.rank}.json").write_text(json.dumps(result))
"""


@pytest.mark.slow
@pytest.mark.parametrize("stages", [2, 3])
def test_stages_in_processes_of_their_own_train_as_one(tmp_path: Path, stages: int) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={stages}"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / '.src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(stages)]
    options = {"epochs": 2, "rate": 0.05, "batch": 6, "clip_norm": 0.5}
    expected = fit(GraphModule(network()), classes(21), CrossEntropy(), **options)  # type: ignore[arg-type]
    for result in results:
        assert result["losses"] == pytest.approx(expected.losses, abs=1e-5)
        assert result["graph"] == results[0]["graph"]
