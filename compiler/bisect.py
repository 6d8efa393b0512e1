"""Finds what spoiled a model: the pass, inside it the rewrite or the layer, and the tensor."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hardy.compiler.calibration import Samples
from hardy.compiler.compare import Compared, compare_graphs, output_errors
from hardy.compiler.driver import fill
from hardy.compiler.errors import UnsupportedError, UsageError
from hardy.compiler.ir import Constant, Graph, Input, Node
from hardy.compiler.ledger import Ledger, recording
from hardy.compiler.pipeline import Pass
from hardy.compiler.progress import tell
from hardy.compiler.sensitivity import Metric, mean_metric
from hardy.compiler.verify import verify
from hardy.passes.layers import layers

# How good a graph is: higher is better.
Judge = Callable[[Graph], float]


def sqnr_judge(original: Graph, samples: Samples) -> Judge:
    """The least SQNR in dB of any float output, against the original's."""

    def judge(graph: Graph) -> float:
        errors = output_errors(original, graph, samples)
        if not errors:
            raise UsageError("the graph has no float output to compare", hint="give a metric")
        return min(e.sqnr_db for e in errors.values())

    return judge


def metric_judge(metric: Metric, samples: Samples) -> Judge:
    """The mean of a metric of the outputs, higher being better."""

    def judge(graph: Graph) -> float:
        return mean_metric(metric, graph, samples)

    return judge


@dataclass(frozen=True)
class Step:
    """A pass that changed the graph, and how good the graph was after it."""

    index: int
    name: str
    score: float


@dataclass(frozen=True)
class Culprit:
    """What was found.

    `steps` are the passes up to the one at fault. `rewrite` names the rewrite of it after which the
    score is below the limit, with the nodes that it built; `layers` are the scores with the pass on
    each layer alone, worst first, for a pass that can be limited to layers. `values` are the tensors
    that the pass changed, worst first.
    """

    start: float
    steps: tuple[Step, ...]
    rewrite: str
    built: tuple[Node, ...]
    layers: tuple[tuple[str, str, float], ...]
    values: tuple[Compared, ...]

    @property
    def pass_name(self) -> str:
        return self.steps[-1].name


def bisect_passes(
    graph: Graph, passes: Sequence[Pass], judge: Judge, least: float, samples: Samples
) -> Culprit | None:
    """The first pass after which the graph's score is below `least`, and what in it is to blame; None
    where every graph is good enough.

    UsageError where the graph is not good enough to begin with.
    """
    start = judge(graph)
    if not start >= least:
        raise UsageError(
            f"the model scores {start:.4g} before any pass, below {least:.4g}", hint="lower the limit"
        )
    steps: list[Step] = []
    for index, pass_ in enumerate(passes, start=1):
        tell(pass_.name, index - 1, len(passes))
        after = pass_.run(graph)
        if after is graph:
            continue
        verify(after)
        steps.append(Step(index, pass_.name, judge(after)))
        if not steps[-1].score >= least:
            return _inside(pass_, graph, after, judge, least, start, steps, samples)
        graph = after
    return None


def _inside(
    pass_: Pass,
    before: Graph,
    after: Graph,
    judge: Judge,
    least: float,
    start: float,
    steps: Sequence[Step],
    samples: Samples,
) -> Culprit:
    rewrite, built = _guilty_rewrite(pass_, before, judge, least)
    found = () if rewrite else _guilty_layers(pass_, before, judge)
    values = tuple(compare_graphs(before, after, samples).worst())
    return Culprit(start, tuple(steps), rewrite, built, found, values)


def _guilty_rewrite(pass_: Pass, graph: Graph, judge: Judge, least: float) -> tuple[str, tuple[Node, ...]]:
    """The rewrite that makes the difference, by halving their number; "" where the pass counts none, or
    the number of rewrites does not decide."""

    def limited(count: int) -> tuple[Graph, Ledger]:
        book = Ledger(count)
        with recording(book):
            return pass_.run(graph), book

    whole = Ledger()
    with recording(whole):
        pass_.run(graph)
    good, bad = 0, whole.total
    if bad == 0 or not judge(limited(0)[0]) >= least or judge(limited(bad)[0]) >= least:
        return "", ()
    while bad - good > 1:
        middle = (good + bad) // 2
        tell(f"{pass_.name}: {bad - good} rewrites left", 0, 0)
        if judge(limited(middle)[0]) >= least:
            good = middle
        else:
            bad = middle
    (one, fewer), (other, more) = limited(good), limited(bad)
    label = next(k for k, n in more.counts.items() if n > fewer.counts.get(k, 0))
    known = set(one.nodes)
    # Nodes that were only rebuilt over new operands are like one that was there.
    like = {(n.op, n.name, n.source) for n in one.nodes}
    fresh = [n for n in other.nodes if n not in known and (n.op, n.name, n.source) not in like]
    return f"{label} (rewrite {bad} of {whole.total})", tuple(
        n for n in fresh if not isinstance(n.op, Constant | Input)
    )


def _guilty_layers(pass_: Pass, graph: Graph, judge: Judge) -> tuple[tuple[str, str, float], ...]:
    """Name, source and score of every layer with the pass on it alone, worst first."""
    if not any(f.name == "only" for f in dataclasses.fields(pass_)):
        return ()
    found = []
    for layer in layers(graph):
        try:
            changed = fill(pass_, {"only": (glob.escape(layer.name),)}).run(graph)
        except (UsageError, UnsupportedError):
            continue
        if changed is not graph:
            found.append((layer.name, layer.node.source, judge(changed)))
    return tuple(sorted(found, key=lambda row: row[2]))
