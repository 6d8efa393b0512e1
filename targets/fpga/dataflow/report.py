"""What an accelerator is estimated to take and to do: per layer, per FIFO, and against the board."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from hardy.targets.fpga.board import Board
from hardy.targets.fpga.dataflow.depths import Depths
from hardy.targets.fpga.dataflow.folding import Fold, cycles, head_cycles, layer_resources, window_cycles
from hardy.targets.fpga.dataflow.layers import Layer
from hardy.targets.fpga.dataflow.pipeline import Pipeline, Process
from hardy.targets.fpga.dataflow.resources import CONTROL, KINDS, Resources, fifo
from hardy.targets.fpga.dataflow.schedule import latency


def budget_of(board: Board, utilization: float) -> Resources:
    """The part of a board that an accelerator may take: place and route needs the rest."""
    whole = (board.lut, board.ff, board.dsp, 2 * board.bram36)
    return Resources(*[int(n * utilization) for n in whole])


def surroundings(pipeline: Pipeline) -> Resources:
    """All but the layers: FIFOs, adapters, copies, memory ports."""
    total = Resources()
    for f in pipeline.fifos.values():
        total += fifo(f.depth, f.width)
    for process in pipeline.processes:
        if process.layer is None:
            total += _moving(pipeline, process)
    return total


def _moving(pipeline: Pipeline, process: Process) -> Resources:
    width = max(pipeline.fifos[n].width for n in (*process.reads, *process.writes))
    if process.kind in ("load", "store"):
        return CONTROL + Resources(lut=600, ff=800, bram=2)  # an AXI master with its burst buffers
    if process.kind == "copies":
        return CONTROL
    return CONTROL + Resources(lut=width, ff=width)


@dataclass(frozen=True)
class LayerReport:
    """A layer: cycles between frames of its product and its window, the depth of its pipeline, its
    folding, and what it takes. All estimates."""

    name: str
    source: str
    macs: int
    fold: Fold
    head_cycles: int
    window_cycles: int
    latency: int
    input_bits: int
    weight_bits: int
    sum_bits: int
    output_bits: int
    resources: Resources

    @property
    def cycles(self) -> int:
        return max(self.head_cycles, self.window_cycles)


@dataclass(frozen=True)
class FifoReport:
    """A FIFO: tokens deep, bits wide; `least` is the depth below which the network deadlocks, 0 for the
    usual one."""

    name: str
    depth: int
    width: int
    least: int


@dataclass(frozen=True)
class Report:
    """Estimates for a design, made without the vendor's tools. Cycles at `clock_mhz`."""

    board: str
    part: str
    clock_mhz: float
    latency: int
    interval: int
    layers: tuple[LayerReport, ...]
    fifos: tuple[FifoReport, ...]
    surroundings: Resources
    total: Resources
    budget: Resources
    on_host: tuple[str, ...]

    @property
    def frames_per_second(self) -> float:
        return self.clock_mhz * 1e6 / self.interval

    def to_json(self) -> str:
        data: dict[str, Any] = {
            "estimated": True,
            **asdict(self),
            "frames_per_second": self.frames_per_second,
        }
        return json.dumps(data, indent=2) + "\n"

    def __str__(self) -> str:
        lines = [
            f"{self.board} ({self.part}) at {self.clock_mhz:g} MHz",
            "Every figure is an estimate: no HLS tool has run.",
            f"interval {self.interval} cycles (about {self.frames_per_second:,.0f} frames/s), "
            f"latency {self.latency} cycles (about {self.latency / self.clock_mhz:,.1f} us)",
            "",
            f"{'layer':24} {'cycles':>9} {'pipe':>5} {'PE':>4} {'SIMD':>5} {'x*w>sum bits':>13} "
            f"{'LUT':>7} {'FF':>7} {'DSP':>5} {'BRAM18':>6}",
        ]
        for x in self.layers:
            bits = f"{x.input_bits}*{x.weight_bits}>{x.sum_bits}"
            lines.append(
                f"{x.name[:24]:24} {x.cycles:9} {x.latency:5} {x.fold.pe:4} {x.fold.simd:5} {bits:>13} "
                + _row(x.resources)
            )
        lines.append(f"{'FIFOs, adapters, ports':66} " + _row(self.surroundings))
        lines.append(f"{'total':66} " + _row(self.total))
        lines.append(f"{'budget':66} " + _row(self.budget))
        deep = [f for f in self.fifos if f.least or f.depth > 32]
        if deep:
            lines += ["", "deep FIFOs (in brackets the least depth that does not deadlock):"]
            lines += [
                f"  {f.name}: {f.depth} x {f.width} bits" + (f" [{f.least}]" if f.least else "") for f in deep
            ]
        if self.on_host:
            lines += ["", f"on the host: {', '.join(self.on_host)}"]
        return "\n".join(lines) + "\n"


def _row(r: Resources) -> str:
    return f"{r.lut:7} {r.ff:7} {r.dsp:5} {r.bram:6}"


def report(
    pipeline: Pipeline, depths: Depths, board: Board, clock_mhz: float, budget: Resources, on_host: list[str]
) -> Report:
    layers = [
        _layer(layer, fold, next(p for p in pipeline.processes if p.name == layer.name))
        for layer, fold in zip(pipeline.network.layers, pipeline.folds, strict=True)
    ]
    around = surroundings(pipeline)
    total = around
    for entry in layers:
        total += entry.resources
    fifos = [
        FifoReport(f.name, f.depth, f.width, depths.least.get(f.name, 0)) for f in pipeline.fifos.values()
    ]
    return Report(
        board.name,
        board.part,
        clock_mhz,
        depths.timing.latency,
        depths.timing.interval,
        tuple(layers),
        tuple(fifos),
        around,
        total,
        budget,
        tuple(on_host),
    )


def _layer(layer: Layer, fold: Fold, process: Process) -> LayerReport:
    return LayerReport(
        layer.name,
        layer.source,
        layer.macs,
        fold,
        head_cycles(layer, fold),
        window_cycles(layer, fold),
        latency(process),
        layer.x.bits,
        layer.w.bits if layer.weights is not None else 0,
        layer.sums.bits,
        layer.output.range.bits,
        layer_resources(layer, fold),
    )


__all__ = ["KINDS", "FifoReport", "LayerReport", "Report", "budget_of", "cycles", "report", "surroundings"]
