"""The search: tries recipes, measures them on the target, and keeps what is best within the budget."""

from __future__ import annotations

import glob
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hardy.compiler.artifact import Artifact
from hardy.compiler.calibration import Feed, Samples, inputs_of
from hardy.compiler.cost import statistics
from hardy.compiler.driver import compile_model, fill, run_passes
from hardy.compiler.errors import HardyError, TargetError, UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.models import Binding
from hardy.compiler.pass_list import Listed
from hardy.compiler.pipeline import Pass
from hardy.compiler.progress import tell
from hardy.compiler.search.interval import Drop, paired_drop
from hardy.compiler.search.metrics import Metric, figure
from hardy.compiler.search.recipes import RECIPES, Recipe
from hardy.compiler.sensitivity import scan
from hardy.compiler.timing import time_in_turn
from hardy.passes.pipelines import DEFAULT
from hardy.passes.quantize import Quantize
from hardy.targets.target import Target

Objective = Literal["latency", "size", "macs"]

# A candidate whose gain is smaller than this is noise.
LEAST_GAIN = 0.02
# Samples on which layers are ranked.
RANKED_ON = 4


@dataclass(frozen=True)
class Goal:
    """What to make small, and by how much the metric may fall; with `relative`, as a share of what the
    original reaches."""

    objective: Objective
    max_drop: float
    relative: bool = False


@dataclass(frozen=True)
class Trial:
    """One candidate and what was measured. `latency` is its median time over the original's in the same
    run, `size` and `macs` likewise; `error` says why a candidate could not be built."""

    name: str
    spared: tuple[str, ...] = ()
    metric: float | None = None
    drop: Drop | None = None
    latency: float | None = None
    size: float | None = None
    macs: float | None = None
    within: bool = False
    error: str = ""

    def value(self, objective: Objective) -> float:
        """What the objective makes small, relative to the original."""
        found: float | None = getattr(self, objective)
        assert found is not None
        return found


@dataclass
class Search:
    """A search over one graph. `run` yields each trial as it ends; `best` is at any time the artifact to
    take, the original's where nothing better was found.

    The data's first `calibration` samples calibrate and recover; the metric is of the others.
    """

    graph: Graph
    target: Target
    samples: Samples
    metric: Metric
    goal: Goal
    calibration: int = 128
    recipes: Sequence[Recipe] = RECIPES
    seconds: float = 2.0
    trials: list[Trial] = field(default_factory=list)
    chosen: Trial | None = None
    best: Artifact | None = None
    _ranking: list[str] | None = None

    def run(self, deadline: float | None = None) -> Iterator[Trial]:
        """Try every recipe; stop before the next one where `deadline` (of `time.monotonic`) is past."""
        self._prepare()
        for number, recipe in enumerate(self.recipes):
            if deadline is not None and time.monotonic() > deadline:
                return
            tell(f"try {recipe.name}", number, len(self.recipes))
            yield from self._try(recipe, deadline)

    def front(self) -> list[Trial]:
        """The trials that no other beats in both metric and objective, and the original."""
        done = [t for t in (self.original, *self.trials) if t.drop is not None]
        objective = self.goal.objective
        return sorted(
            (t for t in done if not any(_beats(o, t, objective) for o in done)),
            key=lambda t: t.value(objective),
        )

    def refusal(self) -> str:
        """Why the original is kept; "" where it is not."""
        if self.chosen is not None:
            return ""
        built = [t for t in self.trials if t.drop is not None]
        if not built:
            return "no candidate could be built"
        if not any(t.within for t in built):
            least = min(t.drop.high for t in built if t.drop is not None)
            return f"no candidate is within the budget; the least upper end of a drop is {least:.4g}"
        return f"no candidate within the budget is better in {self.goal.objective}"

    @property
    def budget(self) -> float:
        """The largest drop that is allowed, in the metric's own unit."""
        share = abs(self.original.metric or 0.0) if self.goal.relative else 1.0
        return self.goal.max_drop * share

    def _prepare(self) -> None:
        """Split the data, compile the original and measure it."""
        missing = self.target.check()
        if missing:
            raise TargetError(f"{self.target.name} cannot be measured here: {'; '.join(missing)}")
        if self.goal.max_drop < 0:
            raise UsageError(f"the allowed drop must not be negative, got {self.goal.max_drop}")
        types = self.graph.input_types()
        self.held = [f for i, f in enumerate(self.samples.feeds(types)) if i >= self.calibration]
        if not self.held:
            raise UsageError(
                f"{self.samples.origin} has no more than {self.calibration} samples, all for calibration",
                hint="give more data, or fewer samples to calibrate on",
            )
        self.learned = self.samples.first(self.calibration)
        self.cleaned = run_passes(self.graph, DEFAULT).graph
        tell("compile the original", 0, len(self.recipes))
        self.float_artifact = self.best = self._compile(None)
        self.expected = [self._outputs(self.float_artifact, f) for f in self.held]
        self.scores = self._score(self.expected)
        self.bytes = stored_bytes(self.float_artifact)
        mean = float(self.scores.mean())
        self.original = Trial("original", (), mean, Drop(0.0, 0.0, 0.0), 1.0, 1.0, 1.0, True)

    def _try(self, recipe: Recipe, deadline: float | None) -> Iterator[Trial]:
        """The recipe on all layers; where that costs too much, sparing the layers that hurt most."""
        trial, artifact = self._measure(recipe, ())
        yield self._keep(trial, artifact)
        if trial.within or trial.drop is None or not recipe.mixed:
            return
        ranked = self._ranked()
        count = 1
        while count < len(ranked):
            if deadline is not None and time.monotonic() > deadline:
                return
            trial, artifact = self._measure(recipe, ranked[:count])
            yield self._keep(trial, artifact)
            if trial.within or trial.error:
                return
            count *= 2

    def _keep(self, trial: Trial, artifact: Artifact | None) -> Trial:
        self.trials.append(trial)
        if trial.within and artifact is not None:
            objective = self.goal.objective
            least = 1 - LEAST_GAIN if self.chosen is None else self.chosen.value(objective)
            # What is smaller must not be slower either.
            no_slower = trial.latency is not None and trial.latency <= 1 + LEAST_GAIN
            if trial.value(objective) < least and no_slower:
                self.chosen, self.best = trial, artifact
        return trial

    def _measure(self, recipe: Recipe, spared: Sequence[str]) -> tuple[Trial, Artifact | None]:
        shown = tuple(spared)
        try:
            artifact = self._compile(recipe.build([glob.escape(name) for name in spared]))
        except HardyError as error:
            return Trial(recipe.name, shown, error=str(error).replace("\n", " ")), None
        scores = self._score([self._outputs(artifact, f) for f in self.held])
        drop = paired_drop(self.scores, scores)
        feed = inputs_of(self.graph, self.held[0])
        timing = time_in_turn(
            {"original": lambda: self.float_artifact.run(feed), "candidate": lambda: artifact.run(feed)},
            seconds=self.seconds,
        )
        latency = timing["candidate"].median / timing["original"].median
        before, after = statistics(self.cleaned).macs, statistics(artifact.graph).macs
        trial = Trial(
            recipe.name,
            shown,
            float(scores.mean()),
            drop,
            latency,
            stored_bytes(artifact) / self.bytes,
            after / before if before else 1.0,
            drop.high <= self.budget,
        )
        return trial, artifact

    def _compile(self, passes: tuple[Listed, ...] | None) -> Artifact:
        given = {"calibration": self.learned}
        return compile_model(
            self.graph,
            None,
            binding=Binding({}, {}, {}),
            target=self.target,
            passes=passes and tuple(fill(p, given) if isinstance(p, Pass) else p for p in passes),
            keep_passes=False,
        ).artifact

    def _outputs(self, artifact: Artifact, feed: Feed) -> Mapping[str, Tensor]:
        return artifact.run(inputs_of(self.graph, feed))

    def _score(self, outputs: Sequence[Mapping[str, Tensor]]) -> Tensor:
        figures = [
            figure(self.metric, mine, feed, original)
            for mine, feed, original in zip(outputs, self.held, self.expected, strict=True)
        ]
        return torch.tensor(figures, dtype=torch.float64)

    def _ranked(self) -> list[str]:
        """The layers by what quantizing each alone does to the outputs, worst first."""
        if self._ranking is None:
            tell("rank the layers", 0, 0)
            few = self.learned.first(RANKED_ON)
            tried = Quantize(calibration=few)
            points = scan(self.cleaned, tried, "method", ["min_max"], few, progress=tell).points
            known = [(p.sqnr_db, p.layer) for p in points if p.sqnr_db is not None]
            self._ranking = [layer for _, layer in sorted(known)]
        return self._ranking


def _beats(a: Trial, b: Trial, objective: Objective) -> bool:
    """Whether a is at least as good in both, and better in one."""
    assert a.metric is not None
    assert b.metric is not None
    x, y = (a.value(objective), -a.metric), (b.value(objective), -b.metric)
    return x != y and all(p <= q for p, q in zip(x, y, strict=True))


def stored_bytes(artifact: Artifact) -> int:
    """What the artifact occupies on disk."""
    with tempfile.TemporaryDirectory(prefix="hardy-size-") as folder:
        place = Path(folder, "artifact")
        artifact.save(place)
        return sum(f.stat().st_size for f in place.rglob("*") if f.is_file())
