"""`hardy bisect`: which pass, rewrite or layer, and tensor spoiled a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardy.compiler.cli.options import (
    Binds,
    Debug,
    Dims,
    Json,
    PassList,
    SampleCount,
    Shapes,
    allow_local_modules,
    read_binding,
)
from hardy.compiler.errors import UsageError

if TYPE_CHECKING:
    from hardy.compiler.bisect import Culprit, Judge
    from hardy.compiler.calibration import Samples
    from hardy.compiler.ir import Graph


def bisect(
    model: Annotated[str, typer.Argument(help="An .onnx or .pt2 file, or package.module:function.")],
    data: Annotated[
        str, typer.Option(help="Samples: an .npz file, a folder of them, or package.module:function.")
    ],
    target: Annotated[str, typer.Option("--target", "-t", help="Whose passes `...` stands for.")] = "cpu",
    passes: PassList = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="A preset's passes.")] = None,
    least_sqnr: Annotated[
        float, typer.Option(metavar="DB", help="The outputs' signal to noise ratio must be at least this.")
    ] = 20.0,
    metric: Annotated[
        str | None,
        typer.Option(metavar="FUNCTION", help="Judge by package.module:function of outputs and feed."),
    ] = None,
    max_drop: Annotated[float, typer.Option(metavar="X", help="How much the metric may fall.")] = 0.01,
    samples: SampleCount = 32,
    dim: Dims = None,
    shape: Shapes = None,
    bind: Binds = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the first pass that spoils a model, and the rewrite, layer and tensor inside it."""
    from hardy.compiler.bisect import bisect_passes
    from hardy.compiler.calibration import open_samples
    from hardy.compiler.cli.output import print_json, progress_bar
    from hardy.compiler.driver import plan_passes
    from hardy.compiler.models import import_model
    from hardy.compiler.presets import preset_passes
    from hardy.compiler.progress import telling
    from hardy.targets.target import find_target

    if preset is not None and passes is not None:
        raise UsageError("a preset is a list of passes: give one or the other")
    allow_local_modules()
    graph = import_model(model, None, read_binding(dim, shape, bind), self_test=False).graph
    given = open_samples(data, graph.input_types())
    given = given if samples is None else given.first(samples)
    listed = passes if preset is None else preset_passes(preset)
    pipeline = plan_passes(find_target(target), listed, given, needed=False)
    with progress_bar(json) as progress, telling(progress):
        judge, least = _judge(graph, given, metric, least_sqnr, max_drop)
        found = bisect_passes(graph, pipeline, judge, least, given)
    if json:
        print_json({"least": least, "culprit": None if found is None else summary(found)})
    else:
        show(found, least)


def _judge(
    graph: Graph, samples: Samples, metric: str | None, least_sqnr: float, max_drop: float
) -> tuple[Judge, float]:
    from hardy.compiler.bisect import metric_judge, sqnr_judge
    from hardy.compiler.calibration.data import load_function

    if metric is None:
        return sqnr_judge(graph, samples), least_sqnr
    judge = metric_judge(load_function(metric), samples)
    return judge, judge(graph) - max_drop


def summary(found: Culprit) -> dict[str, Any]:
    """The culprit as JSON."""
    from hardy.compiler.cli.compare import row

    return {
        "pass": found.pass_name,
        "start": found.start,
        "steps": [{"index": s.index, "pass": s.name, "score": s.score} for s in found.steps],
        "rewrite": found.rewrite,
        "built": [{"op": n.op.name, "name": n.name, "source": n.source} for n in found.built],
        "layers": [{"layer": n, "source": at, "score": score} for n, at, score in found.layers],
        "values": [row(v) for v in found.values],
    }


def show(found: Culprit | None, least: float) -> None:
    """The passes with their scores, and what is to blame."""
    from hardy.compiler.cli.compare import value_table
    from hardy.compiler.cli.output import console, table

    screen = console()
    if found is None:
        screen.print(f"no pass brings the score below {least:.4g}")
        return
    steps = table("", "pass", "score", right=("", "score"))
    steps.add_row("", "the model", f"{found.start:.4g}")
    for s in found.steps:
        steps.add_row(str(s.index), s.name, f"{s.score:.4g}")
    screen.print(steps)
    screen.print(f"{found.pass_name} brings the score below {least:.4g}")
    if found.rewrite:
        screen.print(f"rewrite: {found.rewrite}")
        for node in found.built:
            screen.print(f"    built {node.op.name} {node.name or '-'}  # {node.source}")
    if found.layers:
        rows = table("layer", "score", "source", right=("score",), title="With the pass on one layer alone")
        for name, source, score in found.layers[:10]:
            rows.add_row(name, f"{score:.4g}", source)
        screen.print(rows)
    screen.print(value_table(found.values[:10], "Where the pass's error arises, worst first"))
