"""Data parallel training: two processes against one, and a worker that is killed on the way.

python -m benchmarks.data_parallel [--images N] [--epochs N] [--every N]

A small network learns Fashion-MNIST three times with the same global batches: in one process, in two
under `torchrun` (gloo), and in two of which the second is killed with SIGKILL in the middle, so that
`torchrun --max-restarts=1` starts both again and they continue from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.distillation import graph_of, samples_of
from examples.data import fashion_mnist
from examples.models.image_classifiers import two_convolutions
from hardy.compiler.training import Checkpoint, CrossEntropy, GraphModule, fit
from hardy.compiler.training.workers import joined

ROOT = Path(__file__).parents[1]
BATCH = 64
TOLERANCE = 1e-4


def train(folder: Path, images: int, epochs: int, every: int, kill: int | None) -> None:
    """One worker's part; the first writes the losses, and the number of each step as it is taken."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = GraphModule(graph_of(two_convolutions()))
    samples = samples_of(fashion_mnist.load("train").part(0, images))
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    with joined() as worker:

        def progress(step: str, done: int, total: int) -> None:
            if worker.rank == 0:
                with (folder / "steps").open("a") as file:
                    print(attempt, done, file=file)
            if done == kill and attempt == 0 and worker.rank == worker.world - 1:
                os.kill(os.getpid(), signal.SIGKILL)

        history = fit(
            module,
            samples,
            CrossEntropy(),
            epochs=epochs,
            rate=4e-3,
            batch=BATCH,
            schedule="one_cycle",
            checkpoint=Checkpoint(folder / "run.safetensors", every),
            progress=progress,
        )
        if worker.rank == 0:
            (folder / "losses.json").write_text(json.dumps(history.losses))


def start(folder: Path, workers: int, options: list[str]) -> tuple[list[float], list[tuple[int, int]], float]:
    """Losses, (attempt, step) as they were taken, and seconds."""
    launcher = [sys.executable]
    if workers > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
        launcher += ["--max-restarts=1"]
    command = [*launcher, "-m", "benchmarks.data_parallel", "--worker", str(folder), *options]
    folder.mkdir()
    began = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    seconds = time.perf_counter() - began
    steps = [tuple(map(int, line.split())) for line in (folder / "steps").read_text().splitlines()]
    return json.loads((folder / "losses.json").read_text()), [(a, s) for a, s in steps], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--kill", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        train(given.worker, given.images, given.epochs, given.every, given.kill)
        return
    options = [f"--images={given.images}", f"--epochs={given.epochs}", f"--every={given.every}"]
    kill = given.every * 3 + given.every // 2 + 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one, _, alone = start(folder / "one", 1, options)
        two, _, together = start(folder / "two", 2, options)
        mended, steps, killed = start(folder / "killed", 2, [*options, f"--kill={kill}"])
    reached = max(step for attempt, step in steps if attempt == 0)
    resumed = min(step for attempt, step in steps if attempt == 1)
    lost = reached - resumed + 1

    def difference(losses: list[float]) -> float:
        return max(abs(a - b) for a, b in zip(one, losses, strict=True))

    table = Table("run", "steps", "last loss", "largest difference of a loss to one process", "seconds")
    for label, losses, seconds in (
        ("one process", one, alone),
        ("two processes", two, together),
        ("two, one killed", mended, killed),
    ):
        table.add_row(
            label, str(len(losses)), f"{losses[-1]:.6f}", f"{difference(losses):.2e}", f"{seconds:.0f}"
        )
    console = Console()
    console.print(table)
    console.print(
        f"killed after step {reached}, resumed at step {resumed}: "
        f"{lost} steps lost, a checkpoint after every {given.every}"
    )
    if max(difference(two), difference(mended)) > TOLERANCE or lost > given.every:
        raise SystemExit("the losses differ by more than 1e-4, or more steps were lost than an interval")


if __name__ == "__main__":
    main()
