"""The subcommands by name."""

from __future__ import annotations

from typing import Annotated

import typer

from hardy import __version__
from hardy.compiler.cli.bench import bench
from hardy.compiler.cli.bisect import bisect
from hardy.compiler.cli.check_target import check_target
from hardy.compiler.cli.compare import compare
from hardy.compiler.cli.compile import compile
from hardy.compiler.cli.compress import compress
from hardy.compiler.cli.inspect import inspect
from hardy.compiler.cli.passes import passes
from hardy.compiler.cli.run import run
from hardy.compiler.cli.sensitivity import sensitivity
from hardy.compiler.cli.targets import targets
from hardy.compiler.cli.train import distill, finetune

app = typer.Typer(
    name="hardy",
    help="Fits a neural network to the hardware that runs it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fits a neural network to the hardware that runs it."""


for _command in (
    compile,
    inspect,
    run,
    bench,
    compress,
    compare,
    bisect,
    sensitivity,
    finetune,
    distill,
    targets,
    passes,
):
    app.command()(_command)
app.command("check-target")(check_target)
