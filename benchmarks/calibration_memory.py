"""Peak memory of calibration by number of samples: it must not grow.

python -m benchmarks.calibration_memory [--json]

Each count and method runs in a process of its own, which makes its samples one by one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator

import torch
from torch import nn

from hardy.compiler.cli.output import console, table

COUNTS = (100, 10_000)
METHODS = ("min_max", "percentile", "entropy", "mse")
SHAPE = (1, 3, 32, 32)


def samples(count: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(SHAPE, generator=generator) for _ in range(count))


def measure(count: int, method: str) -> int:
    """Quantize a small network here; the greatest resident set of this process in bytes."""
    import hardy
    from hardy.passes import Quantize

    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 32, 3)
    )
    graph = hardy.trace(module.eval(), (torch.zeros(SHAPE),), self_test=False)
    Quantize(calibration=lambda: samples(count), method=method).run(graph)  # type: ignore[arg-type]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_subprocess(count: int, method: str) -> int:
    command = [sys.executable, "-m", "benchmarks.calibration_memory", "--measure", str(count), method]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--measure", nargs=2, metavar=("COUNT", "METHOD"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(measure(int(given.measure[0]), given.measure[1]))
        return
    rows = {method: [in_subprocess(count, method) for count in COUNTS] for method in METHODS}
    if given.json:
        print(json.dumps({m: dict(zip(map(str, COUNTS), peaks, strict=True)) for m, peaks in rows.items()}))
        return
    shown = table("method", *[f"{n} samples, MB" for n in COUNTS], "ratio", right=("ratio",))
    for method, peaks in rows.items():
        shown.add_row(method, *[f"{p / 1e6:.1f}" for p in peaks], f"{peaks[-1] / peaks[0]:.3f}")
    console().print(shown)


if __name__ == "__main__":
    main()
