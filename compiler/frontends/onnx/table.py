"""The one table from operators to importers, keyed by (domain, operator)."""

from __future__ import annotations

from hardy.compiler.frontends.onnx import (
    activation,
    attention,
    classic,
    contrib,
    contrib_quant,
    control,
    conv,
    elementwise,
    gather,
    linear,
    norm,
    pool,
    quant,
    recurrent,
    reduce,
    resample,
    sample,
    shape,
    signal,
    training,
)
from hardy.compiler.frontends.onnx.context import Importer

STANDARD = (
    elementwise,
    activation,
    shape,
    gather,
    reduce,
    linear,
    conv,
    pool,
    norm,
    resample,
    recurrent,
    quant,
    control,
    attention,
    sample,
    signal,
)

IMPORTERS: dict[tuple[str, str], Importer] = {
    ("", name): importer for family in STANDARD for name, importer in family.IMPORTERS.items()
}
IMPORTERS |= {("", name): importer for name, importer in (classic.STANDARD | contrib.STANDARD).items()}
IMPORTERS |= {("com.microsoft", name): importer for name, importer in contrib.IMPORTERS.items()}
IMPORTERS |= {("com.microsoft", name): importer for name, importer in contrib_quant.IMPORTERS.items()}
IMPORTERS |= {("ai.onnx.ml", name): importer for name, importer in classic.IMPORTERS.items()}
IMPORTERS |= {("ai.onnx.preview.training", name): importer for name, importer in training.IMPORTERS.items()}
