"""What holds for every exact pass on any graph."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardy.compiler.conformance import Case, all_cases
from hardy.compiler.interpret import run
from hardy.compiler.ir import Builder, Graph
from hardy.compiler.literal import Literal
from hardy.compiler.ops.activation import Softmax
from hardy.compiler.ops.linear import Conv, Matmul
from hardy.compiler.ops.norm import LayerNorm, ReduceMean
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.pipeline import Pass, Pipeline, Validate, random_inputs
from hardy.passes import (
    BUILT_IN,
    CLEANUP,
    DEFAULT,
    AbsorbTransposes,
    Anchor,
    CenterChannels,
    ChannelsLast,
    CleanReshapes,
    CleanTransposes,
    Decompose,
    EliminateCommonSubexpressions,
    EliminateDeadCode,
    Equalize,
    FoldBatchNorm,
    FoldConstants,
    FormGroups,
    FuseDequantize,
    FusePatterns,
    GroupPolicy,
    LowerBinary,
    Simplify,
    SmoothQuant,
    WidenConvolutions,
)
from tests.integer_strategies import integer_graphs, integer_inputs
from tests.rewriting import apply, ops
from tests.strategies import graphs

POLICY = GroupPolicy(
    anchors={
        Conv: Anchor("conv"),
        Matmul: Anchor("matmul"),
        Softmax: Anchor("softmax", producers=True),
        LayerNorm: Anchor("layer_norm", producers=True),
        ReduceSum: Anchor("reduce", producers=True),
        ReduceMean: Anchor("reduce", producers=True, consumers=False),
    },
    nodes=6,
)
PASSES: tuple[Pass, ...] = (
    AbsorbTransposes(),
    ChannelsLast(),
    CleanReshapes(),
    CleanTransposes(),
    Decompose(),
    EliminateCommonSubexpressions(),
    EliminateDeadCode(),
    Equalize(),
    FoldBatchNorm(),
    FoldConstants(),
    FormGroups(POLICY),
    FormGroups(GroupPolicy(outputs=3)),
    FuseDequantize(),
    FusePatterns(),
    LowerBinary(),
    Simplify(),
    WidenConvolutions(),
)


# They need data for the graph at hand and have tests of their own.
NEED_DATA = {CenterChannels, SmoothQuant}


def test_every_built_in_exact_pass_is_tried() -> None:
    assert {p for p in BUILT_IN if p.exact} - NEED_DATA == {type(p) for p in PASSES}


@pytest.mark.parametrize("pass_", PASSES, ids=lambda p: p.name)
@settings(max_examples=30, deadline=None)
@given(graph=graphs())
def test_an_exact_pass_keeps_the_outputs(pass_: Pass, graph: Graph) -> None:
    apply(pass_, graph)


@pytest.mark.parametrize("pass_", PASSES, ids=lambda p: p.name)
@settings(max_examples=20, deadline=None)
@given(graph=graphs(whole=True))
def test_an_exact_pass_keeps_whole_numbers_to_the_bit(pass_: Pass, graph: Graph) -> None:
    after = apply(pass_, graph)
    inputs = random_inputs(graph.input_types(), 7)
    expected, actual = run(graph, inputs), run(after, inputs)
    assert all(torch.equal(expected[n], actual[n]) for n in expected)


def require_same_bits(before: Graph, after: Graph) -> None:
    inputs = integer_inputs(before, 7)
    expected, actual = run(before, inputs), run(after, inputs)
    assert all(torch.equal(expected[n], actual[n]) for n in expected)


@pytest.mark.parametrize("pass_", PASSES, ids=lambda p: p.name)
@settings(max_examples=20, deadline=None)
@given(graph=integer_graphs())
def test_an_exact_pass_keeps_integers_to_the_bit(pass_: Pass, graph: Graph) -> None:
    require_same_bits(graph, apply(pass_, graph))


@settings(max_examples=20, deadline=None)
@given(graph=integer_graphs(steps=20))
def test_the_pipelines_keep_integers_to_the_bit(graph: Graph) -> None:
    grouped = Pipeline((*DEFAULT, ChannelsLast(), *CLEANUP, FormGroups(POLICY))).run(graph).graph
    require_same_bits(graph, grouped)
    require_same_bits(graph, Pipeline((Decompose(), *DEFAULT, Decompose(), *CLEANUP)).run(graph).graph)


@settings(max_examples=40, deadline=None)
@given(graph=graphs(steps=20))
def test_the_pipelines_keep_the_outputs_at_every_step(graph: Graph) -> None:
    Pipeline((*DEFAULT, ChannelsLast(), *CLEANUP, FormGroups(POLICY))).run(graph, [Validate()])
    Pipeline((Decompose(), *DEFAULT, Decompose(), *CLEANUP)).run(graph, [Validate()])


@settings(max_examples=30, deadline=None)
@given(graph=graphs(steps=20), limit=st.integers(0, 20))
def test_a_pipeline_may_stop_after_any_rewrite(graph: Graph, limit: int) -> None:
    result = Pipeline((*DEFAULT, FormGroups(POLICY))).run(graph, [Validate()], limit=limit)
    assert sum(sum(r.rewrites.values()) for r in result.records) <= limit


@settings(max_examples=30, deadline=None)
@given(graph=graphs(steps=20) | integer_graphs(steps=20))
def test_groups_hold_each_node_once(graph: Graph) -> None:
    after = FormGroups(POLICY).run(graph)
    flat = Decompose(lambda node: node.op.name != "group").run(after)
    before = ops(EliminateDeadCode().run(graph))
    assert sorted(ops(EliminateDeadCode().run(flat))) == sorted(before)


def with_constants(case: Case, inputs: set[int]) -> Graph:
    """The case's graph with all inputs but these as constants."""
    b = Builder(case.graph.name)
    operands = [
        b.input(name, t) if i in inputs else b.constant(Literal(case.inputs[name], t.dtype))
        for i, (name, t) in enumerate(case.graph.input_types().items())
    ]
    outputs = b.inline(case.graph, operands)
    return b.finish(dict(zip(case.graph.output_names, outputs, strict=True)))


CHUNKS = 8
# One chunk always runs; the others are for the full suite.
SLOW = [pytest.param(i, marks=pytest.mark.slow) for i in range(1, CHUNKS)]


@pytest.mark.parametrize("chunk", [0, *SLOW])
def test_the_pipelines_keep_every_op_of_the_shared_suite(chunk: int) -> None:
    expand = (Decompose(), *DEFAULT, Decompose(), ChannelsLast(), *CLEANUP, FormGroups(POLICY))
    wide = (*DEFAULT, ChannelsLast(), WidenConvolutions(), *CLEANUP, FormGroups(POLICY))
    for case in all_cases()[chunk::CHUNKS]:
        Pipeline(expand).run(case.graph, [Validate(case.inputs)])
        some = with_constants(case, {0})
        given = {n: case.inputs[n] for n in some.input_names}
        Pipeline(wide).run(some, [Validate(given)])


@pytest.mark.parametrize("chunk", [0, *SLOW])
def test_pipelines_come_to_rest_on_every_op_of_the_shared_suite(chunk: int) -> None:
    for case in all_cases()[chunk::CHUNKS]:
        once = Pipeline(DEFAULT).run(case.graph).graph
        assert Pipeline(DEFAULT).run(once).graph is once, case.name
