"""Lowers one stage of a plan for its device."""

from __future__ import annotations

from typing import Any

from hardy.compiler.driver import plan_passes, run_passes
from hardy.compiler.errors import HardyError, TargetError
from hardy.compiler.ir import Graph
from hardy.compiler.placement.bundle import LoweredStage
from hardy.targets.target import Package, Target, refuse_unsupported


def lower_stage(target: Target, graph: Graph) -> LoweredStage:
    """A stage's graph through the target's own passes and stages of lowering.

    TargetError for a target that would need the data of the graph's constants at run time.
    """
    if target.keeps_graph_weights:
        raise TargetError(f"{target.name} cannot run stages: it needs the graph's weights when it runs")
    final = run_passes(graph, plan_passes(target, None)).graph
    refuse_unsupported(target, final)
    state: Any = final
    for step in target.stages():
        try:
            state = step.run(state)
        except HardyError as error:
            error.where = "; ".join(filter(None, [f"stage {step.name} of {target.name}", error.where]))
            raise
    if not isinstance(state, Package):
        raise TargetError(f"the last stage of {target.name} gave a {type(state).__name__}, not a Package")
    return LoweredStage(target.name, final, state)
