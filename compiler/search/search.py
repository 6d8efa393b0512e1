"""The search: tries recipes, measures them on the target, and keeps what is best within the budget."""

from __future__ import annotations

import glob
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hardy.compiler.artifact import Artifact
from hardy.compiler.artifact.built import WEIGHTS
from hardy.compiler.calibration import Feed, Samples, inputs_of
from hardy.compiler.cost import statistics
from hardy.compiler.driver import WeightForm, compile_model, fill, run_passes
from hardy.compiler.errors import HardyError, TargetError, UsageError
from hardy.compiler.ir import Graph
from hardy.compiler.models import Binding
from hardy.compiler.pass_list import Listed
from hardy.compiler.pipeline import Pass
from hardy.compiler.progress import tell
from hardy.compiler.search.interval import Drop, paired_drop
from hardy.compiler.search.metrics import Metric, figure
from hardy.compiler.search.recipes import RECIPES, Objective, Ranking, Recipe
from hardy.compiler.sensitivity import scan
from hardy.compiler.timing import time_in_turn
from hardy.passes.pipelines import DEFAULT
from hardy.targets.target import Target

# A candidate whose gain is smaller than this is noise.
LEAST_GAIN = 0.02
# Samples on which layers are ranked.
RANKED_ON = 4
# How often a candidate is timed that seems slower than the original, since neighbours on the machine are.
TIMINGS = 3


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
    run; likewise `size` (bytes of the artifact on disk), `weights` (of its weights alone) and `macs`.
    `error` says why a candidate could not be built."""

    name: str
    spared: tuple[str, ...] = ()
    metric: float | None = None
    drop: Drop | None = None
    latency: float | None = None
    size: float | None = None
    weights: float | None = None
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

    The data's first `calibration` samples calibrate and recover; the metric is of the others. Where the
    objective is size, candidates store their weights coded.
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
    _rankings: dict[Ranking, list[str]] = field(default_factory=dict)

    def run(self, deadline: float | None = None) -> Iterator[Trial]:
        """Try every recipe; stop before the next one where `deadline` (of `time.monotonic`) is past."""
        self._prepare()
        recipes = [recipe for recipe in self.recipes if self.goal.objective in recipe.serves]
        for number, recipe in enumerate(recipes):
            if deadline is not None and time.monotonic() > deadline:
                return
            tell(f"try {recipe.name}", number, len(recipes))
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
        tell("compile the original", 0, 0)
        self.float_artifact = self.best = self._compile(None, "raw")
        self.expected = [self._outputs(self.float_artifact, f) for f in self.held]
        self.scores = self._score(self.expected)
        self.bytes, self.weight_bytes = stored_bytes(self.float_artifact)
        mean = float(self.scores.mean())
        self.original = Trial("original", (), mean, Drop(0.0, 0.0, 0.0), 1.0, 1.0, 1.0, 1.0, True)

    def _try(self, recipe: Recipe, deadline: float | None) -> Iterator[Trial]:
        """The recipe on all layers; where that costs too much, sparing the layers that hurt most."""
        trial, artifact = self._measure(recipe, ())
        yield self._keep(trial, artifact)
        if trial.within or trial.drop is None or recipe.spares is None:
            return
        ranked = self._ranked(recipe.spares)
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
        form: WeightForm = "coded" if self.goal.objective == "size" else "raw"
        try:
            artifact = self._compile(recipe.build([glob.escape(name) for name in spared]), form)
        except HardyError as error:
            return Trial(recipe.name, shown, error=str(error).replace("\n", " ")), None
        scores = self._score([self._outputs(artifact, f) for f in self.held])
        drop = paired_drop(self.scores, scores)
        size, weights = stored_bytes(artifact)
        before, after = statistics(self.cleaned).macs, statistics(artifact.graph).macs
        trial = Trial(
            recipe.name,
            shown,
            float(scores.mean()),
            drop,
            self._latency(artifact),
            size / self.bytes,
            weights / self.weight_bytes,
            after / before if before else 1.0,
            drop.high <= self.budget,
        )
        return trial, artifact

    def _latency(self, artifact: Artifact) -> float:
        """The time of a run over the original's; the least of several where the first is no gain: what is
        slower is so each time."""
        feed = inputs_of(self.graph, self.held[0])
        least = float("inf")
        for _ in range(TIMINGS):
            timing = time_in_turn(
                {"original": lambda: self.float_artifact.run(feed), "candidate": lambda: artifact.run(feed)},
                seconds=self.seconds,
            )
            least = min(least, timing["candidate"].median / timing["original"].median)
            if least <= 1 + LEAST_GAIN:
                break
        return least

    def _compile(self, passes: tuple[Listed, ...] | None, weights: WeightForm) -> Artifact:
        given = {"calibration": self.learned}
        return compile_model(
            self.graph,
            None,
            binding=Binding({}, {}, {}),
            target=self.target,
            passes=passes and tuple(fill(p, given) if isinstance(p, Pass) else p for p in passes),
            keep_passes=False,
            weights=weights,
        ).artifact

    def _outputs(self, artifact: Artifact, feed: Feed) -> Mapping[str, Tensor]:
        return artifact.run(inputs_of(self.graph, feed))

    def _score(self, outputs: Sequence[Mapping[str, Tensor]]) -> Tensor:
        figures = [
            figure(self.metric, mine, feed, original)
            for mine, feed, original in zip(outputs, self.held, self.expected, strict=True)
        ]
        return torch.tensor(figures, dtype=torch.float64)

    def _ranked(self, ranking: Ranking) -> list[str]:
        """The layers by what the ranking's pass does to the outputs on each alone, worst first."""
        if ranking not in self._rankings:
            tell("rank the layers", 0, 0)
            few = self.learned.first(RANKED_ON)
            tried = fill(ranking.pass_, {"calibration": few})
            points = scan(self.cleaned, tried, ranking.option, [ranking.setting], few, progress=tell).points
            known = [(p.sqnr_db, p.layer) for p in points if p.sqnr_db is not None]
            self._rankings[ranking] = [layer for _, layer in sorted(known)]
        return self._rankings[ranking]


def _beats(a: Trial, b: Trial, objective: Objective) -> bool:
    """Whether a is at least as good in both, and better in one."""
    assert a.metric is not None
    assert b.metric is not None
    x, y = (a.value(objective), -a.metric), (b.value(objective), -b.metric)
    return x != y and all(p <= q for p, q in zip(x, y, strict=True))


def stored_bytes(artifact: Artifact) -> tuple[int, int]:
    """What the artifact occupies on disk, and what its weights do."""
    with tempfile.TemporaryDirectory(prefix="hardy-size-") as folder:
        place = Path(folder, "artifact")
        artifact.save(place)
        total = sum(f.stat().st_size for f in place.rglob("*") if f.is_file())
        return total, (place / WEIGHTS).stat().st_size
