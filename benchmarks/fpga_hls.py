"""The generated HLS C++ on whole networks: its C simulation against the simulator and the reference.

python -m benchmarks.fpga_hls [NAME ...] [--json]

`vta`: the accelerator for VTA instructions runs the program of a compiled network on a random input; the
whole DRAM image afterwards is compared with the functional simulator's. `dataflow`: a network as an
accelerator of its own, compiled from the packaged C++, against the reference interpretation of the
artifact's graph on test images; `interval` is its slowest layer's cycles between two frames, `within 20 %`
counts the layers with products whose own interval is at least 80 % of that, and `fastest` is the least of
them. Cycles are estimates: no HLS tool and no board was there.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hardy
from benchmarks.fpga import NETWORKS, TARGET, Network
from hardy.compiler.cli.output import console, table
from hardy.compiler.interpret import evaluate
from hardy.targets.fpga import simulate
from hardy.targets.fpga.config import find_config
from hardy.targets.fpga.hls import simulate_hls
from hardy.targets.fpga.lower.layout import Region

DATAFLOW = "fpga:dataflow:zcu104"
SMALL = ("lenet_300_100", "resnet_8")  # whose weights fit on chip
FRAMES = 4


@dataclass(frozen=True)
class VtaRow:
    network: str
    macs: int
    simulator_s: float
    hls_s: float


@dataclass(frozen=True)
class DataflowRow:
    network: str
    frames: int
    layers: int
    interval: int
    balanced: int
    fastest: int
    frames_per_second: float


def compiled(network: Network, target: str, out: Path) -> hardy.Artifact:
    return hardy.compile(
        network.graph,
        target=target,
        preset="int8",
        calibration=network.calibration,
        keep_graph_weights=True,
        keep_passes=False,
        out=out,
    )


def vta(name: str, network: Network, folder: Path) -> VtaRow:
    """The first stage of VTA in both simulators; the program ends where an image differs."""
    artifact = compiled(network, TARGET, folder / name)
    stages = artifact.manifest["target"]["package"]["stages"]
    number, stage = next((i, s) for i, s in enumerate(stages) if s["device"].startswith("vta:"))
    package: Mapping[str, Any] = stage["package"]
    config = find_config(package["config"])
    files = folder / name / "target" / "stages" / f"{number}-vta"
    code = (files / "instructions.bin").read_bytes()
    dram = np.fromfile(files / "dram.bin", np.uint8)
    rng = np.random.default_rng(0)
    for place in package["inputs"]:
        x = rng.integers(-128, 128, place["shape"]).astype(np.int8)
        Region(place["offset"], tuple(place["shape"])).write(dram, x, config)
    simulate(code, dram, config)  # What both simulators are made of is compiled once for all.
    simulate_hls(code, dram, config)
    started = time.perf_counter()
    ours = simulate(code, dram, config)
    middle = time.perf_counter()
    theirs = simulate_hls(code, dram, config)
    ended = time.perf_counter()
    if not np.array_equal(ours, theirs):
        sys.exit(f"{name}: C simulation differs in {int((ours != theirs).sum())} bytes of the DRAM image")
    return VtaRow(name, stage["macs"], middle - started, ended - middle)


def dataflow(name: str, network: Network, folder: Path) -> DataflowRow:
    """A network as one accelerator; the program ends where an output differs."""
    artifact = compiled(network, DATAFLOW, folder / f"{name}-dataflow")
    stages = artifact.manifest["target"]["package"]["stages"]
    number = next(i for i, s in enumerate(stages) if s["device"].startswith("dataflow:"))
    path = folder / f"{name}-dataflow" / "target" / "stages" / f"{number}-dataflow" / "report.json"
    report = json.loads(path.read_bytes())
    for feed in network.test[:FRAMES]:
        given = [feed[n] for n in artifact.inputs]
        for ours, reference in zip(artifact.run(feed).values(), evaluate(artifact.graph, given), strict=True):
            if not torch.equal(ours, reference):
                sys.exit(f"{name}: the accelerator's C++ differs from the artifact's graph")
    intervals = [max(r["head_cycles"], r["window_cycles"]) for r in report["layers"] if r["macs"]]
    return DataflowRow(
        network=name,
        frames=FRAMES,
        layers=len(intervals),
        interval=max(intervals),
        balanced=sum(n >= 0.8 * max(intervals) for n in intervals),
        fastest=min(intervals),
        frames_per_second=report["frames_per_second"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)
    names = given.names or list(NETWORKS)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: NETWORKS[name]() for name in names}
        first = [vta(name, network, Path(folder)) for name, network in found.items()]
        second = [dataflow(name, found[name], Path(folder)) for name in names if name in SMALL]
    if given.json:
        print(json.dumps({"vta": [asdict(r) for r in first], "dataflow": [asdict(r) for r in second]}))
        return
    columns = ("MACs", "functional simulator s", "C simulation s")
    shown = table("network", *columns, "DRAM images", right=columns, title=f"HLS C++ of {TARGET}")
    for v in first:
        shown.add_row(v.network, f"{v.macs:,}", f"{v.simulator_s:.2f}", f"{v.hls_s:.2f}", "equal")
    console().print(shown)
    right = ("equal frames", "layers", "interval", "within 20 %", "fastest", "frames/s")
    shown = table("network", *right, right=right, title=f"HLS C++ of {DATAFLOW}; cycles are estimates")
    for d in second:
        cycles = (f"{d.interval:,}", str(d.balanced), f"{d.fastest:,}", f"{d.frames_per_second:,.0f}")
        shown.add_row(d.network, str(d.frames), str(d.layers), *cycles)
    console().print(shown)


if __name__ == "__main__":
    main()
