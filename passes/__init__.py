"""Passes, one verb a file, and how they are found by name.

A package of its own adds passes through the entry-point group `hardy.passes`, whose entries name
subclasses of `Pass`.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from hardy.compiler.errors import UsageError
from hardy.compiler.pipeline import Pass
from hardy.passes.absorb_transposes import AbsorbTransposes
from hardy.passes.adaround import AdaRound
from hardy.passes.binarize import Binarize
from hardy.passes.cast_floats import CastFloats
from hardy.passes.center_channels import CenterChannels
from hardy.passes.channels_last import ChannelsLast
from hardy.passes.clean_reshapes import CleanReshapes
from hardy.passes.clean_transposes import CleanTransposes
from hardy.passes.clip_weights import ClipWeights
from hardy.passes.cluster import Cluster
from hardy.passes.correct_bias import CorrectBias
from hardy.passes.decompose import Decompose
from hardy.passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from hardy.passes.eliminate_dead_code import EliminateDeadCode
from hardy.passes.equalize import Equalize
from hardy.passes.finetune import Finetune
from hardy.passes.fold_batch_norm import FoldBatchNorm
from hardy.passes.fold_constants import FoldConstants
from hardy.passes.fuse_dequantize import FuseDequantize
from hardy.passes.fuse_patterns import FusePatterns
from hardy.passes.group import Anchor, FormGroups, GroupPolicy
from hardy.passes.lower_binary import LowerBinary
from hardy.passes.lower_quantization import LowerQuantization
from hardy.passes.pipelines import CLEANUP, DEFAULT
from hardy.passes.prune import Prune
from hardy.passes.prune_channels import PruneChannels
from hardy.passes.quantize import Quantize
from hardy.passes.quantize_dynamic import QuantizeDynamic
from hardy.passes.quantize_weights import QuantizeWeights
from hardy.passes.recover import Recover
from hardy.passes.simplify import Simplify
from hardy.passes.smooth_quant import SmoothQuant
from hardy.passes.widen_convolutions import WidenConvolutions

__all__ = [
    "BUILT_IN",
    "CLEANUP",
    "DEFAULT",
    "AbsorbTransposes",
    "AdaRound",
    "Anchor",
    "Binarize",
    "CastFloats",
    "CenterChannels",
    "ChannelsLast",
    "CleanReshapes",
    "CleanTransposes",
    "ClipWeights",
    "Cluster",
    "CorrectBias",
    "Decompose",
    "EliminateCommonSubexpressions",
    "EliminateDeadCode",
    "Equalize",
    "Finetune",
    "FoldBatchNorm",
    "FoldConstants",
    "FormGroups",
    "FuseDequantize",
    "FusePatterns",
    "GroupPolicy",
    "LowerBinary",
    "LowerQuantization",
    "Prune",
    "PruneChannels",
    "Quantize",
    "QuantizeDynamic",
    "QuantizeWeights",
    "Recover",
    "Simplify",
    "SmoothQuant",
    "WidenConvolutions",
    "passes_by_name",
]

ENTRY_POINTS = "hardy.passes"

BUILT_IN: tuple[type[Pass], ...] = (
    AbsorbTransposes,
    AdaRound,
    Binarize,
    CastFloats,
    CenterChannels,
    ChannelsLast,
    CleanReshapes,
    CleanTransposes,
    ClipWeights,
    Cluster,
    CorrectBias,
    Decompose,
    EliminateCommonSubexpressions,
    EliminateDeadCode,
    Equalize,
    Finetune,
    FoldBatchNorm,
    FoldConstants,
    FormGroups,
    FuseDequantize,
    FusePatterns,
    LowerBinary,
    LowerQuantization,
    Prune,
    PruneChannels,
    Quantize,
    QuantizeDynamic,
    QuantizeWeights,
    Recover,
    Simplify,
    SmoothQuant,
    WidenConvolutions,
)


def passes_by_name() -> dict[str, type[Pass]]:
    """Every pass that is installed; UsageError names a plug-in that cannot be loaded."""
    found = {p.name: p for p in BUILT_IN}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            loaded = entry.load()
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"the pass plug-in {entry.name!r} cannot be loaded: {error}",
                where=entry.value,
                hint="install what it needs, or uninstall the package that declares it",
            ) from error
        if not (isinstance(loaded, type) and issubclass(loaded, Pass)):
            raise UsageError(f"the pass plug-in {entry.name!r} is not a subclass of Pass", where=entry.value)
        if found.setdefault(loaded.name, loaded) is not loaded:
            raise UsageError(f"there are two passes called {loaded.name!r}", where=entry.value)
    return found
