"""Trains graphs: their float constants become parameters, and go back into the graph afterwards."""

from hardy.compiler.training.checkpoint import Checkpoint
from hardy.compiler.training.fit import History, fit
from hardy.compiler.training.graph_module import GraphModule, Keep
from hardy.compiler.training.losses import (
    CrossEntropy,
    Loss,
    MatchAttention,
    MatchHidden,
    MatchOutputs,
    Seen,
    SoftTargets,
    Taught,
    Weighted,
)

__all__ = [
    "Checkpoint",
    "CrossEntropy",
    "GraphModule",
    "History",
    "Keep",
    "Loss",
    "MatchAttention",
    "MatchHidden",
    "MatchOutputs",
    "Seen",
    "SoftTargets",
    "Taught",
    "Weighted",
    "fit",
]
