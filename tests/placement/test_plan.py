"""Plans: stages that devices run one after another compute what the whole graph computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardy.compiler.errors import TargetError
from hardy.compiler.interpret import evaluate
from hardy.compiler.ir import Builder, Constant, Graph, Input, Node, Value
from hardy.compiler.ops.activation import Relu
from hardy.compiler.ops.elementwise import Add, Neg
from hardy.compiler.ops.linear import Matmul
from hardy.compiler.pipeline import random_inputs
from hardy.compiler.placement import bundle, open_bundle, plan_stages
from hardy.compiler.placement.bundle import StagePackage
from hardy.compiler.placement.lowering import lower_stage
from hardy.compiler.types import DType, TensorType
from hardy.compiler.verify import verify
from hardy.targets.target import Loaded, Runner, find_target
from tests.strategies import graphs

F32 = TensorType(DType.f32, (4,))


@given(st.data())
def test_stages_on_any_devices_compute_the_whole(data: st.DataObject) -> None:
    graph = data.draw(graphs(whole=True))
    devices: dict[Node, str] = {}

    def device_of(node: Node) -> str:
        return devices.setdefault(node, data.draw(st.sampled_from("abc")))

    plan = plan_stages(graph, device_of)
    given_inputs = list(random_inputs(graph.input_types()).values())
    known: dict[Value, torch.Tensor] = dict(zip(graph.inputs, given_inputs, strict=True))
    placed = 0
    for stage in plan.stages:
        verify(stage.part.graph)
        results = evaluate(stage.part.graph, [known[v] for v in stage.part.takes])
        known |= zip(stage.part.gives, results, strict=True)
        placed += sum(not isinstance(n.op, Input | Constant) for n in stage.part.graph.nodes)
    assert placed == len(devices)
    for value, expected in zip(graph.outputs, evaluate(graph, given_inputs), strict=True):
        if not isinstance(value.op, Constant):
            assert torch.equal(known[value], expected)


def two_branches() -> Graph:
    """Each branch has a node for device a, then one for b, and the sum is for a."""
    b = Builder()
    x = b.input("x", F32)
    left = b(Neg(), b(Relu(), x))
    right = b(Neg(), b(Relu(), b(Relu(), x)))
    return b.finish({"y": b(Add(), left, right)})


def by_op(node: Node) -> str:
    return "b" if isinstance(node.op, Neg) else "a"


def test_branches_that_alternate_between_devices_share_their_stages() -> None:
    plan = plan_stages(two_branches(), by_op)
    assert [s.device for s in plan.stages] == ["a", "b", "a"]
    assert [len(s.part.gives) for s in plan.stages] == [2, 2, 1]


def test_the_device_that_starts_is_the_one_that_needs_fewer_stages() -> None:
    b = Builder()
    x = b.input("x", F32)
    # Starting on a, `first` would come alone and b, a, b would have to follow.
    first = b(Relu(), x)
    second = b(Relu(), b(Neg(), x))
    plan = plan_stages(b.finish({"y": b(Neg(), b(Add(), first, second))}), by_op)
    assert [s.device for s in plan.stages] == ["b", "a", "b"]


def test_a_plan_says_which_share_of_the_products_a_device_computes() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.f32, (2, 4)))
    y = b(Matmul(), x, b.constant(torch.ones(4, 12)))
    z = b(Matmul(), y, b.constant(torch.ones(12, 4)))
    graph = b.finish({"z": b(Relu(), b(Matmul(), z, b.constant(torch.ones(4, 4))))})
    wide = [n for n in graph.nodes if isinstance(n.op, Matmul)][:2]
    plan = plan_stages(graph, lambda n: "fast" if n in wide else "slow")
    assert plan.share("fast") == 2 * 4 * (12 + 12) / (2 * 4 * (12 + 12 + 4))


def test_a_bundle_of_stages_runs_from_its_files(tmp_path: Path) -> None:
    b = Builder()
    x, y = b.input("x", F32), b.input("y", F32)
    total = b(Add(), b(Neg(), b(Relu(), x)), y)
    constant = b.constant(torch.arange(3.0))
    graph = b.finish({"total": total, "same": x, "fixed": constant, "again": total})
    plan = plan_stages(graph, by_op)
    package = bundle(plan, [lower_stage(find_target("cpu"), s.part.graph) for s in plan.stages])
    for name, data in package.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    seen: list[str] = []

    def load(device: str, stage: Loaded) -> Runner:
        seen.append(device)
        return find_target(device).load(stage)

    runner = open_bundle(StagePackage(tmp_path, graph, package.manifest, package.weights), load)
    inputs = [torch.tensor([1.0, -2.0, 3.0, 0.0]), torch.ones(4)]
    results = runner.run(inputs)
    assert len(seen) == 3
    for ours, expected in zip(results, evaluate(graph, inputs), strict=True):
        assert torch.equal(ours, expected)
    results[1].zero_()
    assert inputs[0][0] == 1.0


def test_a_target_that_needs_the_graphs_weights_runs_no_stage() -> None:
    with pytest.raises(TargetError, match="reference cannot run stages"):
        lower_stage(find_target("reference"), two_branches())
