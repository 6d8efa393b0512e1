"""Trains a whole graph, on labels or on what it computed before lossy passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from hardy.compiler.errors import UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.notes import note
from hardy.compiler.pipeline import Pass
from hardy.passes.recover import opened


@dataclass(frozen=True)
class Finetune(Pass):
    """Train the graph end to end; what compression did to it stays, and so does a graph that gets no better.

    `calibration` is data as `open_samples` takes it, of which `samples` feeds are used (all by
    default). Without `label`, the graph before the first lossy pass (`original`, which the pipeline
    fills in) is the teacher: of its outputs themselves, or of their softmax at `temperature` where
    outputs are logits. With `label`, the name of the classes in the data, cross entropy has the weight
    `label_weight` and the teacher the rest.

    Integer weights learn through their rounding; `learn_scales` trains the scales too (not where they
    must be powers of two). For `keep` see `GraphModule`. `hidden` pairs modules or nodes of this graph
    with those of the original, whose results are matched too with `hidden_weight`; above an
    `attention_weight` of 0, what attention looks at is matched. `remember` keeps the teacher's outputs
    for the samples in memory. `checkpoint` is a file that is written after every `checkpoint_every`
    steps, and continued from if it exists.
    """

    exact: ClassVar[bool] = False

    calibration: Any = None
    samples: int | None = None
    original: Graph | None = None
    label: str | None = None
    label_weight: float = 1.0
    temperature: float | None = None
    output: str | None = None
    epochs: int = 3
    rate: float = 1e-4
    batch: int = 32
    seed: int = 0
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    clip_norm: float | None = None
    keep: Literal["nothing", "zeros", "ties"] = "zeros"
    learn_scales: bool = False
    vectorize: bool = True
    checkpoint: str | None = None
    checkpoint_every: int = 100
    hidden: tuple[tuple[str, str], ...] = ()
    hidden_weight: float = 1.0
    attention_weight: float = 0.0
    remember: bool = False

    def run(self, graph: Graph) -> Graph:
        samples = opened(self.calibration, graph, self.name, self.samples)
        options: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                *("epochs", "rate", "batch", "seed", "weight_decay", "schedule", "clip_norm"),
                *("keep", "learn_scales", "vectorize"),
            )
        }
        # Training itself stands on `passes.layers`.
        from hardy.compiler.training.checkpoint import Checkpoint
        from hardy.compiler.training.distill import distill, finetune, named_value, teaching
        from hardy.compiler.training.losses import CrossEntropy, Loss, MatchAttention, MatchHidden
        from hardy.compiler.training.quantized import float_weights

        if self.checkpoint is not None:
            options["checkpoint"] = Checkpoint(Path(self.checkpoint), self.checkpoint_every)

        if self.label is not None and self.label_weight == 1:
            trained, history = finetune(graph, samples, CrossEntropy(self.label, self.output), **options)
        elif self.original is None:
            raise UsageError(
                "finetune needs a label, or the original graph as its teacher",
                hint="name the label, or run it in a pipeline, after lossy passes",
            )
        elif self.original is graph and self.label is None:
            return graph
        else:
            learning = float_weights(graph)
            extra: list[tuple[float, Loss]] = []
            if self.hidden:
                pairs = [(named_value(learning, a), named_value(self.original, b)) for a, b in self.hidden]
                extra.append((self.hidden_weight, MatchHidden(pairs)))
            if self.attention_weight > 0:
                extra.append((self.attention_weight, MatchAttention(learning, self.original)))
            loss = teaching(self.label, self.label_weight, self.temperature, self.output, extra)
            trained, history = distill(
                self.original, learning, samples, loss, remembered=self.remember, **options
            )
        note("steps", len(history.losses))
        note("before", history.before)
        note("after", history.after)
        kept = history.improved()
        note("kept", kept)
        note("loss", {f"epoch {i + 1}": value for i, value in enumerate(history.epochs)})
        return trained if kept else graph
