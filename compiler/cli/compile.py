"""`hardy compile`: a model to an artifact on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from hardy.compiler.cli.options import (
    Binds,
    Calibration,
    Debug,
    Dims,
    Json,
    PassList,
    Preset,
    SampleCount,
    Shapes,
    allow_local_modules,
    read_binding,
)

if TYPE_CHECKING:
    from hardy.compiler.driver import WeightForm


def compile(
    model: Annotated[str, typer.Argument(help="An .onnx or .pt2 file, or package.module:function.")],
    target: Annotated[str, typer.Option("--target", "-t", help="See `hardy targets`.")] = "cpu",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The artifact's folder.")] = None,
    dim: Dims = None,
    shape: Shapes = None,
    bind: Binds = None,
    passes: PassList = None,
    preset: Preset = None,
    calibration: Calibration = None,
    samples: SampleCount = None,
    dump: Annotated[
        Path | None, typer.Option(help="A folder for the graph after each pass and each stage of lowering.")
    ] = None,
    stop_after: Annotated[
        str | None, typer.Option(metavar="PASS", help="Stop after this pass and keep the graph as it stands.")
    ] = None,
    validate: Annotated[
        bool, typer.Option("--validate", help="Compare outputs after every pass, and of the program.")
    ] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="Compare the import with the source model.")
    ] = True,
    keep_passes: Annotated[
        bool, typer.Option("--keep-passes/--no-keep-passes", help="Keep the graph's text after each pass.")
    ] = True,
    keep_graph_weights: Annotated[
        bool, typer.Option("--keep-graph-weights", help="Keep the data of the final graph's constants.")
    ] = False,
    weights: Annotated[
        str,
        typer.Option(
            metavar="raw|coded", help="How tensors are stored: as they are, or in the fewest bytes."
        ),
    ] = "raw",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile a model for a target and write the artifact."""
    from hardy.compiler.cli.output import progress_bar
    from hardy.compiler.driver import compile_model
    from hardy.compiler.errors import UsageError

    if out is None and dump is None:
        raise UsageError(
            "nothing would be kept", hint="give -o DIR for the artifact, or --dump DIR for the graphs"
        )
    allow_local_modules()
    binding = read_binding(dim, shape, bind)
    with progress_bar(json) as progress:
        result = compile_model(
            model,
            None,
            binding=binding,
            target=target,
            passes=passes,
            preset=preset,
            calibration=calibration,
            samples=samples,
            out=out,
            dump=dump,
            stop_after=stop_after,
            validate=validate,
            self_test=self_test,
            keep_passes=keep_passes,
            keep_graph_weights=keep_graph_weights,
            weights=cast("WeightForm", weights),
            progress=progress,
        )
    print_compilation(result, out, json)


def print_compilation(result: Any, out: Path | None, json: bool) -> None:
    """What a compilation gave, as tables or as JSON."""
    from hardy.compiler.cli.output import console, duration, print_json, size
    from hardy.compiler.cli.tables import interface_table, print_passes, records_json, types_json

    artifact = result.artifact
    check = result.imported.check
    records = records_json(result.passes)
    program = None if result.program is None else {n: d.absolute for n, d in result.program.items()}
    if json:
        print_json(
            {
                "artifact": None if out is None else str(out),
                "digest": artifact.manifest.get("digest"),
                "target": artifact.target_name,
                "inputs": types_json(artifact.inputs),
                "outputs": types_json(artifact.outputs),
                "import": None if check is None else check.to_json(),
                "program": program,
                "passes": records,
                "seconds": dict(result.seconds),
            }
        )
        return
    screen = console()
    screen.print(interface_table(artifact.inputs, artifact.outputs))
    print_passes(screen, records)
    if check is not None:
        screen.print(check.summary())
    if program is not None:
        largest = max(program.values(), default=0.0)
        screen.print(f"program agrees with the reference: largest difference {largest:.3g}")
    if out is not None:
        stored = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
        total = duration(sum(result.seconds.values()))
        screen.print(f"{out}: {artifact.target_name}, {size(stored)}, compiled in {total}")
