"""Several processes train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from hardy.compiler.training import CrossEntropy, GraphModule, fit
from tests.training.nets import classes, two_heads

ROOT = Path(__file__).parents[2]

# One worker: trains, and writes what it got to a file of its own.
SCRIPT = textwrap.dedent("""
    import json, os, sys
    from pathlib import Path
    import torch
    from hardy.compiler.text import print_graph
    from hardy.compiler.training import Checkpoint, CrossEntropy, GraphModule, fit
    from hardy.compiler.training.workers import joined
    from tests.training.nets import classes, two_heads

    torch.set_num_threads(1)
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    with joined() as worker:
        steps = []
        def progress(step, done, total):
            steps.append(done)
            first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
            if options.get("die") == done and worker.rank == 1 and first:
                os._exit(17)
        module = GraphModule(two_heads())
        history = fit(
            module, classes(21), CrossEntropy(output="output"), epochs=2, rate=0.05, batch=4, clip_norm=0.5,
            checkpoint=Checkpoint(folder / "run.safetensors", 3), progress=progress,
        )
        result = {"losses": history.losses, "steps": steps, "graph": print_graph(module.to_graph())}
        (folder / f"{worker.rank}.json").write_text(json.dumps(result))
""")


def torchrun(
    folder: Path, options: Mapping[str, object], *given: str, workers: int = 2
) -> list[dict[str, object]]:
    (folder / "script.py").write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={workers}",
        *given,
    ]
    command += [str(folder / "script.py"), str(folder), json.dumps(options)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / '.src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def alone() -> list[float]:
    module = GraphModule(two_heads())
    return fit(
        module, classes(21), CrossEntropy(output="output"), epochs=2, rate=0.05, batch=4, clip_norm=0.5
    ).losses


@pytest.mark.slow
def test_two_workers_take_the_steps_of_one(tmp_path: Path) -> None:
    # 21 samples in batches of four: the last batch of one leaves a worker without a sample.
    first, second = torchrun(tmp_path, {})
    assert first["losses"] == pytest.approx(alone(), abs=1e-5)
    assert first["graph"] == second["graph"]
    assert first["losses"] == second["losses"]


@pytest.mark.slow
def test_a_worker_that_dies_costs_no_more_than_the_last_interval(tmp_path: Path) -> None:
    first, _ = torchrun(tmp_path, {"die": 8}, "--max-restarts=1")
    assert first["steps"][0] == 7
    assert first["losses"] == pytest.approx(alone(), abs=1e-5)
