"""Placement: which device computes which part of a graph, and how the parts run together."""

from hardy.compiler.placement.bundle import LoweredStage, StagedRunner, bundle, open_bundle
from hardy.compiler.placement.plan import Plan, PlannedStage, plan_stages

__all__ = [
    "LoweredStage",
    "Plan",
    "PlannedStage",
    "StagedRunner",
    "bundle",
    "open_bundle",
    "plan_stages",
]
