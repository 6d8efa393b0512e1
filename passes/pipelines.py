"""The pipelines that every target starts from, as visible tuples."""

from __future__ import annotations

from hardy.compiler.pipeline import Pass
from hardy.passes.absorb_transposes import AbsorbTransposes
from hardy.passes.clean_reshapes import CleanReshapes
from hardy.passes.clean_transposes import CleanTransposes
from hardy.passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.fold_batch_norm import FoldBatchNorm
from hardy.passes.fold_constants import FoldConstants
from hardy.passes.fuse_patterns import FusePatterns
from hardy.passes.simplify import Simplify

# Leaves out what need not be computed. Products absorb transpositions before constants are folded,
# so that large weights are not copied.
REDUCE: tuple[Pass, ...] = (
    EliminateDeadCode(),
    Simplify(),
    AbsorbTransposes(),
    FoldConstants(),
    EliminateCommonSubexpressions(),
    Simplify(),
)

# The same, with transpositions and reshapes moved so that they cancel.
CLEANUP: tuple[Pass, ...] = (
    *REDUCE,
    CleanTransposes(),
    AbsorbTransposes(),
    CleanReshapes(),
    Simplify(),
    EliminateDeadCode(),
)

# What `hardy inspect` runs, and what targets put their own passes after: the graph in the largest
# ops that hardy has. Patterns are sought twice: as exporters left them, since moving transpositions
# can turn a normalization of the last axis into one of another, and again when these are out of
# the way of what they hide.
DEFAULT: tuple[Pass, ...] = (
    *REDUCE,
    FusePatterns(),
    *CLEANUP,
    FoldBatchNorm(),
    FusePatterns(),
    Simplify(),
    FoldConstants(),
    EliminateCommonSubexpressions(),
    EliminateDeadCode(),
)
