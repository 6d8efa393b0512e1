"""`hardy compare`: where two versions of a model part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardy.compiler.cli.options import (
    Binds,
    Debug,
    Dims,
    Json,
    SampleCount,
    Shapes,
    allow_local_modules,
    read_binding,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from hardy.compiler.compare import Compared, Comparison, Error
    from hardy.compiler.ir import Graph

MODEL = "An .onnx or .pt2 file, an artifact that holds its graph, or package.module:function."


def compare(
    a: Annotated[str, typer.Argument(help=MODEL, metavar="ORIGINAL")],
    b: Annotated[str, typer.Argument(help=MODEL, metavar="CHANGED")],
    data: Annotated[
        str, typer.Option(help="Samples: an .npz file, a folder of them, or package.module:function.")
    ],
    samples: SampleCount = None,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Show the worst N values.")] = 20,
    dim: Dims = None,
    shape: Shapes = None,
    bind: Binds = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare two versions of a model value by value, worst first."""
    from hardy.compiler.artifact import is_artifact
    from hardy.compiler.calibration import open_samples
    from hardy.compiler.cli.output import print_json, progress_bar
    from hardy.compiler.compare import compare_graphs
    from hardy.compiler.models import Binding, import_model
    from hardy.compiler.progress import telling

    allow_local_modules()
    binding = read_binding(dim, shape, bind)

    def graph_of(model: str) -> Graph:
        bound = Binding({}, {}, {}) if is_artifact(Path(model)) else binding
        return import_model(model, None, bound, self_test=False).graph

    original, changed = graph_of(a), graph_of(b)
    given = open_samples(data, original.input_types())
    given = given if samples is None else given.first(samples)
    with progress_bar(json) as progress, telling(progress):
        result = compare_graphs(original, changed, given)
    if json:
        print_json(summary(result))
    else:
        show(result, top)


def summary(result: Comparison) -> dict[str, Any]:
    """The comparison as JSON, worst first."""
    return {
        "samples": result.samples,
        "unpaired": result.unpaired,
        "outputs": {name: _figures(e) for name, e in result.outputs.items()},
        "values": [row(v) for v in result.worst()],
    }


def row(value: Compared) -> dict[str, Any]:
    """One compared value as JSON."""
    return {
        "name": value.name,
        "source": value.source,
        "op": value.op,
        "shape": list(value.shape),
        "local": _figures(value.local),
        "total": _figures(value.total),
    }


def _figures(error: Error) -> dict[str, float]:
    return {"sqnr_db": error.sqnr_db, "cosine": error.cosine, "largest": error.largest}


def value_table(values: Sequence[Compared], title: str) -> Table:
    """One row a value: the error that arises there, and what has come together by then."""
    from hardy.compiler.cli.output import table

    right = ("arising dB", "total dB", "cosine", "largest")
    rows = table("value", "op", *right, "source", right=right, title=title)
    for v in values:
        rows.add_row(
            v.name or "-",
            v.op,
            f"{v.local.sqnr_db:.1f}",
            f"{v.total.sqnr_db:.1f}",
            f"{v.total.cosine:.5f}",
            f"{v.total.largest:.3g}",
            v.source,
        )
    return rows


def show(result: Comparison, top: int) -> None:
    """The worst values as a table, and the outputs."""
    from hardy.compiler.cli.output import console

    screen = console()
    worst = result.worst()
    screen.print(value_table(worst[:top], "Where error arises, worst first"))
    if len(worst) > top:
        screen.print(f"... and {len(worst) - top} better ones (--top {len(worst)})")
    for name, e in result.outputs.items():
        screen.print(f"output {name}: {e.sqnr_db:.1f} dB, cosine {e.cosine:.6f}, largest {e.largest:.3g}")
    if result.unpaired:
        screen.print(f"{result.unpaired} values of the original have no counterpart to compare with")
    screen.print(f"{result.samples} samples")
