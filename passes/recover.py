"""Recovers what lossy passes before it have cost, block after block, from unlabelled data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hardy.compiler.calibration import Samples, open_samples
from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.notes import note
from hardy.compiler.pipeline import Pass


@dataclass(frozen=True)
class Recover(Pass):
    """Train compressed blocks, one after another, to give what those of the original gave.

    `calibration` is data as `open_samples` takes it, of which `samples` feeds are used (all by
    default); labels are not needed. `original` is the graph before the first lossy pass, which the
    pipeline fills in. For `keep` and `by` see `compiler/training/recover.py`; a block that does not get
    better keeps its weights. The report holds each block's error before and after.
    """

    exact: ClassVar[bool] = False

    calibration: Any = None
    samples: int | None = None
    original: Graph | None = None
    epochs: int = 5
    rate: float = 1e-3
    batch: int = 32
    seed: int = 0
    keep: Literal["nothing", "zeros", "ties"] = "zeros"
    by: Literal["blocks", "layers"] = "blocks"
    vectorize: bool = True

    def run(self, graph: Graph) -> Graph:
        if self.original is None:
            raise UsageError(
                "recover needs the original graph", hint="run it in a pipeline, after lossy passes"
            )
        if self.original is graph:
            return graph
        # Training itself stands on `passes.layers`.
        from hardy.compiler.training.recover import recover

        recovered, blocks = recover(
            self.original,
            graph,
            opened(self.calibration, graph, self.name, self.samples),
            epochs=self.epochs,
            rate=self.rate,
            batch=self.batch,
            seed=self.seed,
            keep=self.keep,
            by=self.by,
            vectorize=self.vectorize,
        )
        note("blocks", [block.to_json() for block in blocks])
        return recovered


def opened(calibration: Any, graph: Graph, name: str, count: int | None) -> Samples:
    """The samples of a pass that learns from data; UsageError where it has none."""
    if calibration is None:
        raise UsageError(f"{name} needs data", hint="give it with calibration= (--calibration)")
    samples = open_samples(calibration, graph.input_types())
    return samples if count is None else samples.first(count)
