"""`hardy inspect`: what a model or an artifact holds, and what each pass did to it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardy.compiler.cli.options import (
    Binds,
    Debug,
    Dims,
    Json,
    PassList,
    Shapes,
    allow_local_modules,
    read_binding,
)
from hardy.compiler.errors import UsageError

if TYPE_CHECKING:
    from hardy.compiler.artifact import Artifact
    from hardy.compiler.ir import Graph


@dataclass(frozen=True)
class Subject:
    """What is looked at. `texts` holds the graph before the first and after each pass that changed it."""

    title: str
    graph: Graph
    rows: Sequence[Mapping[str, Any]]
    texts: Mapping[str, str]
    about: Mapping[str, Any]
    weights: Sequence[Mapping[str, Any]] = ()


def inspect(
    subject: Annotated[
        str, typer.Argument(metavar="MODEL|DIR", help="A model as for `compile`, or an artifact.")
    ],
    target: Annotated[
        str,
        typer.Option("--target", "-t", help="Whose passes to run on a model; `none` for the import alone."),
    ] = "none",
    pass_name: Annotated[
        str | None,
        typer.Option(
            "--pass", metavar="NAME", help="The graph before and after this pass, by name or number."
        ),
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="What changed, line by line: by --pass, or by all passes together.")
    ] = False,
    ir: Annotated[bool, typer.Option("--ir", help="The final graph as text.")] = False,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", metavar="NAME", help="One of an artifact's own files, to the terminal or a pipe."
        ),
    ] = None,
    timeline: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Draw what an artifact's program does over time, as modelled."),
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the final graph as ONNX, for other viewers.")
    ] = None,
    dim: Dims = None,
    shape: Shapes = None,
    bind: Binds = None,
    passes: PassList = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a model or an artifact: interface, ops, passes, and the graph before and after each pass."""
    from hardy.compiler.artifact import claims_artifact
    from hardy.compiler.cli.output import print_json, progress_bar

    result: dict[str, Any] = {}
    if claims_artifact(Path(subject)):
        if dim or shape or bind or passes or target != "none":
            raise UsageError("an artifact is compiled already: options of compilation do not apply to it")
        from hardy.compiler.artifact import Artifact

        artifact = Artifact.open(Path(subject))
        if file is not None:
            _write_file(Path(subject), artifact, file)
            return
        found = _open(Path(subject), artifact)
        if timeline is not None:
            result["timeline"] = [str(p) for p in artifact.draw_timeline(timeline)]
    else:
        if file is not None or timeline is not None:
            raise UsageError(
                "--file and --timeline show an artifact, and this is a model", hint="compile it first"
            )
        allow_local_modules()
        with progress_bar(json) as progress:
            found = _import(subject, target, passes, read_binding(dim, shape, bind), progress)
    if onnx is not None:
        from hardy.compiler.export.onnx import export

        export(found.graph, onnx)
        result["onnx"] = str(onnx)
    if pass_name is not None or diff:
        before, after = _around(found.texts, pass_name)
        if diff:
            result["diff"] = _diff(found.texts, before, after)
        else:
            result |= {"before": found.texts[before], "after": found.texts[after]}
    elif ir:
        from hardy.compiler.text import print_graph

        result["ir"] = print_graph(found.graph)
    if json:
        print_json(_summary(found) | result)
    else:
        _print(found, result)


def _open(path: Path, artifact: Artifact) -> Subject:
    from hardy.compiler.artifact.built import TARGET

    manifest = artifact.manifest
    about = {
        "target": artifact.target_name,
        "device": manifest["target"]["device"]["name"],
        "model": manifest["model"],
        "hardy": manifest["hardy"],
        "digest": manifest["digest"],
        "import": artifact.report["import"],
        "files": [f for f in manifest["files"] if f.startswith(f"{TARGET}/")],
    }
    rows = artifact.report["passes"]
    return Subject(str(path), artifact.graph, rows, artifact.passes, about, _weights(path, artifact))


def _write_file(path: Path, artifact: Artifact, name: str) -> None:
    """A file of the artifact, unchanged, to standard output."""
    import sys

    manifest = artifact.manifest
    if name not in manifest["files"]:
        raise UsageError(f"{path} has no file {name!r}", hint=f"it has {', '.join(manifest['files'])}")
    sys.stdout.flush()
    sys.stdout.buffer.write((path / name).read_bytes())
    sys.stdout.buffer.flush()


def _weights(path: Path, artifact: Artifact) -> list[dict[str, Any]]:
    """How each tensor of an artifact is stored, the largest first."""
    from hardy.compiler.artifact.built import WEIGHTS
    from hardy.compiler.artifact.weights import stored_weights

    names: dict[str, str] = {}
    for node in artifact.graph.nodes:
        literal = node.values[0].literal
        if literal is not None:
            names.setdefault(literal.digest, node.name)
    names |= {digest: name for name, digest in artifact.manifest["weights"].items()}
    rows = []
    for digest, stored in stored_weights(path / WEIGHTS).items():
        rows.append(
            {
                "weight": names.get(digest) or digest,
                "type": str(stored.type),
                "form": stored.form,
                "raw_bytes": stored.raw_bytes,
                "bytes": stored.nbytes,
                "bits": round(8 * stored.nbytes / max(stored.elements, 1), 3),
            }
        )
    return sorted(rows, key=lambda row: -row["raw_bytes"])


def _import(subject: str, target: str, passes: str | None, binding: Any, progress: Any) -> Subject:
    from hardy.compiler.driver import TextKeeper, plan_passes, run_passes
    from hardy.compiler.models import import_model
    from hardy.compiler.pass_list import resolve_passes
    from hardy.targets.target import find_target

    if progress:
        progress("import the model", 0, 1)
    imported = import_model(subject, None, binding, self_test=False)
    if target == "none":
        pipeline = resolve_passes(passes or (), ())
    else:
        pipeline = plan_passes(find_target(target), passes)
    keeper = TextKeeper()
    result = run_passes(imported.graph, pipeline, [keeper])
    rows = [r.to_json() for r in result.records]
    about = {"model": dict(imported.provenance)} | ({} if target == "none" else {"target": target})
    return Subject(subject, result.graph, rows, keeper.texts, about)


def _around(texts: Mapping[str, str], pass_name: str | None) -> tuple[str, str]:
    """The files of the graph before and after a pass (or all of them); UsageError lists those there are."""
    names = list(texts)
    if not names:
        raise UsageError(
            "the artifact does not hold the graph after each pass", hint="compile with --keep-passes"
        )
    if pass_name is None:
        return names[0], names[-1]
    for i, name in enumerate(names[1:], start=1):
        stem = name.removesuffix(".ir")
        number, _, plain = stem.partition("-")
        if pass_name in (stem, plain, number):
            return names[i - 1], name
    listing = ", ".join(n.removesuffix(".ir") for n in names[1:]) or "none"
    raise UsageError(f"no pass {pass_name!r} changed the graph", hint=f"those that did: {listing}")


def _diff(texts: Mapping[str, str], before: str, after: str) -> str:
    lines = difflib.unified_diff(
        texts[before].splitlines(), texts[after].splitlines(), before, after, lineterm="", n=1
    )
    return "\n".join(lines)


def _summary(found: Subject) -> dict[str, Any]:
    import dataclasses

    from hardy.compiler.cli.tables import op_counts, types_json
    from hardy.compiler.cost import statistics

    return {
        "subject": found.title,
        **found.about,
        "inputs": types_json(found.graph.input_types()),
        "outputs": types_json(found.graph.output_types()),
        "statistics": dataclasses.asdict(statistics(found.graph)),
        "ops": dict(sorted(op_counts(found.graph).items())),
        "passes": list(found.rows),
    } | ({"weights": list(found.weights)} if found.weights else {})


def _print(found: Subject, result: Mapping[str, Any]) -> None:
    import dataclasses

    from hardy.compiler.cli.output import console
    from hardy.compiler.cli.tables import (
        interface_table,
        op_counts,
        op_table,
        print_passes,
        statistics_line,
        weight_table,
    )
    from hardy.compiler.cost import statistics

    if "diff" in result:
        print(result["diff"])
        return
    if "before" in result:
        print(f"# before\n{result['before']}\n# after\n{result['after']}", end="")
        return
    if "ir" in result:
        print(result["ir"], end="")
        return
    screen = console()
    for key, value in found.about.items():
        if value:
            if key == "import":
                value = (
                    f"not checked: {value['skipped']}"
                    if value["skipped"]
                    else f"agreed with {value['against']}"
                )
            elif isinstance(value, Mapping):
                value = ", ".join(f"{k} {v}" for k, v in value.items() if isinstance(v, str) and v)
            elif isinstance(value, list):
                value = ", ".join(value)
            screen.print(f"{key}: {value}")
    screen.print(interface_table(found.graph.input_types(), found.graph.output_types()))
    screen.print(statistics_line(dataclasses.asdict(statistics(found.graph))))
    screen.print(op_table(op_counts(found.graph)))
    if found.rows:
        print_passes(screen, found.rows)
    if found.weights:
        screen.print(weight_table(found.weights))
    for path in (*result.get("timeline", ()), *([result["onnx"]] if "onnx" in result else ())):
        screen.print(f"wrote {path}")
