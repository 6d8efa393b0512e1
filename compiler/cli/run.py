"""`hardy run`: an artifact on inputs from files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardy.compiler.cli.options import Debug, Json, read_array, read_arrays
from hardy.compiler.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hardy.compiler.artifact import Artifact

Given = Annotated[
    list[str] | None,
    typer.Option(
        "--input", "-i", metavar="NAME=FILE.npy|FILE.npz", help="Input data, by name or many at once."
    ),
]


def run(
    artifact: Annotated[Path, typer.Argument(metavar="DIR", help="The artifact's folder.")],
    given: Given = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.npz", help="Where results go.")
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Random data for inputs that are not given.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an artifact and show its outputs' shapes and statistics."""
    from hardy.compiler.artifact import load
    from hardy.compiler.cli.output import console, print_json, table

    if out is not None and out.suffix != ".npz":
        raise UsageError(f"{out} must end in .npz")
    loaded = load(artifact)
    results = loaded.run(read_inputs(loaded, given, random))
    if out is not None:
        _write(out, results)
    figures = {name: _figures(str(loaded.outputs[name]), t) for name, t in results.items()}
    if json:
        remark = loaded.target.remark()
        print_json({"outputs": figures, "file": None if out is None else str(out), "remark": remark})
        return
    columns = ("least", "greatest", "mean", "deviation")
    rows = table("output", "type", *columns, "first values", right=columns)
    for name, row in figures.items():
        first = ", ".join(_short(v) for v in row["first"])
        rows.add_row(name, row["type"], *(_short(row.get(c)) for c in columns), first)
    screen = console()
    screen.print(rows)
    if loaded.target.remark():
        screen.print(loaded.target.remark())
    if out is not None:
        screen.print(f"wrote {out}")


def read_inputs(loaded: Artifact, given: list[str] | None, random: bool) -> dict[str, Any]:
    """The inputs that the options name; InputError for one that is given twice."""
    from hardy.compiler.pipeline import random_inputs

    inputs: dict[str, np.ndarray[Any, Any] | torch.Tensor] = {}
    for text in given or ():
        name, equals, file = text.partition("=")
        arrays = {name: read_array(Path(file))} if equals else read_arrays(Path(text))
        for key, array in arrays.items():
            if key in inputs:
                raise InputError(f"input {key!r} is given twice")
            inputs[key] = array
    if random:
        return {**random_inputs(loaded.inputs), **inputs}
    return dict(inputs)


def _figures(type_name: str, tensor: torch.Tensor) -> dict[str, Any]:
    wide = tensor.double().reshape(-1)
    row: dict[str, Any] = {"type": type_name, "first": wide[:4].tolist()}
    if wide.numel():
        row |= {
            "least": wide.min().item(),
            "greatest": wide.max().item(),
            "mean": wide.mean().item(),
            "deviation": wide.std(correction=0).item(),
        }
    return row


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _write(path: Path, results: dict[str, torch.Tensor]) -> None:
    """Write an .npz, whole or not at all; bf16 and f8, which NumPy lacks, become f32, which holds them."""
    import os
    import secrets
    import zipfile

    import numpy as np
    import torch

    lacking = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
    arrays = {n: (t.float() if t.dtype in lacking else t).numpy() for n, t in results.items()}
    hidden = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
    try:
        with hidden.open("xb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                # Not np.savez, whose own parameters some names would collide with.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
        os.replace(hidden, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        hidden.unlink(missing_ok=True)
