"""`hardy compress`: the fastest or smallest form of a model at a bounded loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hardy.compiler.cli.options import (
    Binds,
    Debug,
    Dims,
    Json,
    Shapes,
    allow_local_modules,
    read_binding,
)
from hardy.compiler.errors import UsageError

if TYPE_CHECKING:
    from hardy.compiler.search import Search


def compress(
    model: Annotated[str, typer.Argument(help="An .onnx or .pt2 file, or package.module:function.")],
    data: Annotated[
        str, typer.Option(help="Samples: an .npz file, a folder of them, or package.module:function.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the best artifact and the trials.")],
    metric: Annotated[
        str,
        typer.Option(
            help="accuracy (of `label` in the data), agreement or cosine (with the original), or "
            "package.module:function of outputs and sample; higher is better."
        ),
    ] = "accuracy",
    max_drop: Annotated[
        str, typer.Option(metavar="X", help="How much the metric may fall; with %, of what it was.")
    ] = "0.5%",
    objective: Annotated[
        Literal["latency", "size", "macs"], typer.Option(help="What to make small.")
    ] = "latency",
    target: Annotated[str, typer.Option("--target", "-t", help="See `hardy targets`.")] = "cpu",
    calibration: Annotated[
        int, typer.Option(metavar="N", min=1, help="The first N samples calibrate; the others test.")
    ] = 128,
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="Start nothing new after M minutes.")
    ] = None,
    dim: Dims = None,
    shape: Shapes = None,
    bind: Binds = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Try ways to compress a model, measure them on the target, and keep the best within the budget."""
    import time

    from hardy.compiler.calibration import open_samples
    from hardy.compiler.cli.output import print_json, progress_bar
    from hardy.compiler.models import import_model
    from hardy.compiler.progress import telling
    from hardy.compiler.search import Goal, Search, find_metric
    from hardy.compiler.search.report import check_folder, write_best, write_trials
    from hardy.targets.target import find_target

    check_folder(out)
    goal = Goal(objective, *_read_drop(max_drop))
    allow_local_modules()
    graph = import_model(model, None, read_binding(dim, shape, bind), self_test=True).graph
    samples = open_samples(data, graph.input_types())
    search = Search(graph, find_target(target), samples, find_metric(metric), goal, calibration)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    stopped = ""
    with progress_bar(json) as progress, telling(progress):
        try:
            for _ in search.run(deadline):
                write_best(search, out)
                write_trials(search, out)
        except KeyboardInterrupt:
            if search.best is None:
                raise
            stopped = "interrupted"
    if deadline is not None and time.monotonic() > deadline:
        stopped = f"after {minutes:g} minutes"
    write_best(search, out)
    summary = write_trials(search, out, stopped)
    if json:
        print_json(summary)
    else:
        _print(search, out, stopped)


def _read_drop(text: str) -> tuple[float, bool]:
    """`0.005` as it is, `0.5%` as a share."""
    number, relative = text.removesuffix("%"), text.endswith("%")
    try:
        value = float(number) / (100 if relative else 1)
    except ValueError as error:
        raise UsageError(f"--max-drop {text}: expected a number such as 0.005, or 0.5%") from error
    if not 0 <= value < float("inf"):
        raise UsageError(f"--max-drop {text}: the drop must not be negative")
    return value, relative


def _print(search: Search, out: Path, stopped: str) -> None:
    from hardy.compiler.cli.output import console, table
    from hardy.compiler.search.report import BEST, PLOT, TRIALS

    right = ("spared", "metric", "drop", "95 % interval", "time", "bytes", "weights", "MACs")
    rows = table("candidate", *right, right=right, title="Relative to the original")
    for trial in (search.original, *search.trials):
        rows.add_row(trial.name, *_cells(trial))
    screen = console()
    screen.print(rows)
    if search.chosen is not None:
        spared = f", {len(search.chosen.spared)} spared" if search.chosen.spared else ""
        screen.print(f"chosen: {search.chosen.name}{spared}")
    if stopped:
        screen.print(f"stopped {stopped}: the best so far")
    refusal = search.refusal()
    if refusal:
        screen.print(f"the original is kept: {refusal}")
    for trial in search.trials:
        if trial.error:
            screen.print(f"{trial.name}: {trial.error}")
    screen.print(f"{out / BEST}: the artifact to take; {TRIALS} and {PLOT} beside it show every trial")


def _cells(trial: Any) -> list[str]:
    if trial.drop is None:
        return [str(len(trial.spared) or ""), *["-"] * 7]
    d = trial.drop
    return [
        str(len(trial.spared) or ""),
        f"{trial.metric:.4f}",
        f"{d.mean:+.4f}",
        f"{d.low:+.4f} .. {d.high:+.4f}",
        *[f"{v:.2f}" for v in (trial.latency, trial.size, trial.weights, trial.macs)],
    ]
