"""Lowers one stage of a plan for its device."""

from __future__ import annotations

from hardy.compiler.driver import lower, plan_passes, run_passes
from hardy.compiler.errors import TargetError
from hardy.compiler.ir import Graph
from hardy.compiler.placement.bundle import LoweredStage
from hardy.targets.target import Target


def lower_stage(target: Target, graph: Graph) -> LoweredStage:
    """A stage's graph through the target's own passes and stages of lowering.

    TargetError for a target that would need the data of the graph's constants at run time.
    """
    if target.keeps_graph_weights:
        raise TargetError(f"{target.name} cannot run stages: it needs the graph's weights when it runs")
    final = run_passes(graph, plan_passes(target, None)).graph
    return LoweredStage(target.name, final, lower(target, final))
