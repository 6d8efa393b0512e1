"""`hardy sensitivity`: which layers a lossy pass hurts."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Annotated, Any

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
    from hardy.compiler.pipeline import Pass
    from hardy.compiler.sensitivity import Scan


def sensitivity(
    model: Annotated[str, typer.Argument(help="An .onnx or .pt2 file, or package.module:function.")],
    data: Annotated[
        str, typer.Option(help="Samples: an .npz file, a folder of them, or package.module:function.")
    ],
    pass_text: Annotated[
        str, typer.Option("--pass", metavar="PASS", help="The pass to try, with its other options.")
    ] = "prune(structure='element')",
    at: Annotated[str, typer.Option(metavar="VALUES", help="Settings of the option to try.")] = "0.3,0.5,0.7",
    option: Annotated[str, typer.Option(help="The option of the pass that takes the settings.")] = "sparsity",
    only: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Layers to try, by name or source.")
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="Use the first N samples.")] = 32,
    metric: Annotated[
        str | None,
        typer.Option(metavar="FUNCTION", help="package.module:function of outputs and feed, to a number."),
    ] = None,
    dim: Dims = None,
    shape: Shapes = None,
    bind: Binds = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Try a pass on one layer after the other, and show what it does to the outputs."""
    from hardy.compiler.calibration import open_samples
    from hardy.compiler.calibration.data import load_function
    from hardy.compiler.cli.output import print_json, progress_bar
    from hardy.compiler.driver import run_passes
    from hardy.compiler.models import import_model
    from hardy.compiler.progress import telling
    from hardy.compiler.sensitivity import scan
    from hardy.passes import DEFAULT

    allow_local_modules()
    imported = import_model(model, None, read_binding(dim, shape, bind), self_test=False)
    graph = run_passes(imported.graph, DEFAULT).graph
    given = open_samples(data, graph.input_types()).first(samples)
    settings = _settings(at)
    tried = _pass(pass_text, option, settings[0], given)
    with progress_bar(json) as progress, telling(progress):
        result = scan(
            graph,
            tried,
            option,
            settings,
            given,
            only=tuple(only or ()),
            metric=None if metric is None else load_function(metric),
        )
    if json:
        print_json(_summary(result, pass_text, option))
    else:
        _print(result, settings)


def _settings(text: str) -> list[Any]:
    try:
        values = ast.literal_eval(f"[{text}]")
    except (SyntaxError, ValueError) as error:
        raise UsageError(
            f"--at {text}: expected values such as 0.3,0.5", hint="quote text: \"'2:4'\""
        ) from error
    if not values:
        raise UsageError("--at names no setting")
    return list(values)


def _pass(text: str, option: str, first: Any, data: Any) -> Pass:
    """The pass with its first setting, since it may need one, and the data where it takes any."""
    from hardy.compiler.driver import fill
    from hardy.compiler.pass_list import parse_pass
    from hardy.passes import passes_by_name

    name, bracket, rest = text.strip().partition("(")
    others = rest.removesuffix(")").strip()
    joined = f"{name}({option}={first!r}{', ' + others if bracket and others else ''})"
    return fill(parse_pass(joined, passes_by_name()), {"calibration": data})


def _summary(result: Scan, pass_text: str, option: str) -> dict[str, Any]:
    import dataclasses

    return {
        "pass": pass_text,
        "option": option,
        "metric": result.metric,
        "points": [dataclasses.asdict(p) for p in result.points],
    }


def _print(result: Scan, settings: list[Any]) -> None:
    from hardy.compiler.cli.output import console, table

    shown = [str(s) for s in settings]
    rows = table("layer", *shown, right=shown, title="SQNR of the outputs in dB (metric)")
    for start in range(0, len(result.points), len(settings)):
        some = result.points[start : start + len(settings)]
        cells = []
        for p in some:
            noise = p.reason if p.sqnr_db is None else f"{p.sqnr_db:.1f}"
            cells.append(noise if p.metric is None else f"{noise} ({p.metric:.4g})")
        rows.add_row(some[0].layer, *cells)
    screen = console()
    screen.print(rows)
    if result.metric is not None:
        screen.print(f"the metric of the model as it is: {result.metric:.4g}")
