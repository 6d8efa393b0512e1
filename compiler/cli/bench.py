"""`hardy bench`: how long one run of an artifact takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hardy.compiler.cli.options import Debug, Json
from hardy.compiler.cli.run import Given, read_inputs
from hardy.compiler.errors import UsageError

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from hardy.targets.target import Runner

# How the libraries under the targets are told their number of threads, before they are loaded.
_THREAD_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def bench(
    artifact: Annotated[Path, typer.Argument(metavar="DIR", help="The artifact's folder.")],
    given: Given = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="onnxruntime=FILE.onnx", help="Time this beside the artifact, call by call."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for every contender.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="About how long to measure.")] = 3.0,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also time every step of the program, slowest first.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time an artifact on random (or given) inputs: median, best and 90th percentile after a warm-up."""
    if threads is not None:
        os.environ |= {name: str(threads) for name in _THREAD_VARIABLES}
    import torch

    from hardy.compiler.artifact import load
    from hardy.compiler.artifact.arrays import as_tensor
    from hardy.compiler.cli.output import console, duration, print_json, table
    from hardy.compiler.interpret import check_inputs
    from hardy.compiler.timing import time_in_turn

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(artifact)
    arrays = read_inputs(loaded, given, random=True)
    named = {n: as_tensor(n, a, loaded.inputs.get(n)) for n, a in arrays.items()}
    inputs = check_inputs(loaded.inputs, named)
    runner = loaded.prepare()
    contenders: dict[str, Callable[[], object]] = {loaded.target_name: lambda: runner.run(inputs)}
    for text in peer or ():
        contenders |= _peer(text, named, threads)
    timings = time_in_turn(contenders, seconds=seconds)
    first = timings[loaded.target_name].median
    steps = _profile(loaded.target_name, runner, inputs) if profile else []
    if json:
        rows: list[dict[str, Any]] = [{"name": n, **vars(t)} for n, t in timings.items()]
        listed = [{"step": name, "seconds": spent} for name, spent in steps]
        about = {"artifact": str(artifact), "remark": loaded.target.remark(), "threads": threads}
        print_json({**about, "results": rows, "profile": listed})
        return
    right = ("median", "best", "p90", "runs", "ratio")
    shown = table("", *right, right=right)
    for name, t in timings.items():
        ratio = f"{t.median / first:.2f}"
        shown.add_row(name, duration(t.median), duration(t.best), duration(t.p90), str(t.runs), ratio)
    console().print(shown)
    if loaded.target.remark():
        console().print(loaded.target.remark())
    if steps:
        console().print(_profile_table(steps))


def _profile(target: str, runner: Runner, inputs: Sequence[torch.Tensor]) -> list[tuple[str, float]]:
    """The steps of one run and their seconds, slowest first."""
    from hardy.targets.target import Profiler

    if not isinstance(runner, Profiler):
        raise UsageError(f"the target {target} cannot time the steps of a program")
    return sorted(runner.profile(inputs), key=lambda step: -step[1])


def _profile_table(steps: Sequence[tuple[str, float]]) -> Table:
    from hardy.compiler.cli.output import duration, table

    total = sum(spent for _, spent in steps)
    shown = table("step", "median", "share", right=("median", "share"))
    for name, spent in steps:
        shown.add_row(name, duration(spent), f"{spent / total:.1%}")
    return shown


def _peer(text: str, inputs: dict[str, torch.Tensor], threads: int | None) -> dict[str, Callable[[], object]]:
    name, equals, file = text.partition("=")
    if name != "onnxruntime" or not equals:
        raise UsageError(f"--peer {text}: expected onnxruntime=FILE.onnx")
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError("onnxruntime is not installed", hint="pip install onnxruntime") from error
    from onnxruntime.capi.onnxruntime_pybind11_state import (
        Fail,
        InvalidArgument,
        InvalidGraph,
        InvalidProtobuf,
        NoSuchFile,
        NotImplemented,
    )

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        arrays = {n: t.numpy() for n, t in inputs.items()}
        session.run(None, arrays)
    except (
        Fail,
        InvalidArgument,
        InvalidGraph,
        InvalidProtobuf,
        NoSuchFile,
        NotImplemented,
        ValueError,
    ) as error:
        raise UsageError(f"onnxruntime does not run {file}: {error}") from error
    return {f"onnxruntime ({file})": lambda: session.run(None, arrays)}
