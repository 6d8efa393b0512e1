"""Generates a dataflow accelerator: HLS C++ with one module a layer, for small quantized networks.

Weights lie on chip, streams run between the modules, and the folding is chosen to balance them within the
board. See docs/dataflow.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files as resource_files

import numpy as np
import torch

from hardy.compiler.errors import TargetError
from hardy.compiler.interpret import check_inputs, run_node
from hardy.compiler.ir import Graph, Node, Value
from hardy.passes.fold_constants import FoldConstants
from hardy.targets.fpga.board import Board, find_board
from hardy.targets.fpga.dataflow import balance, folding
from hardy.targets.fpga.dataflow.depths import Depths, find_depths
from hardy.targets.fpga.dataflow.emit import layers as emit_layers
from hardy.targets.fpga.dataflow.emit import scripts, top
from hardy.targets.fpga.dataflow.host import Split, split
from hardy.targets.fpga.dataflow.pipeline import Pipeline, build
from hardy.targets.fpga.dataflow.refusal import too_large, too_slow
from hardy.targets.fpga.dataflow.report import Report, budget_of, report, surroundings
from hardy.targets.fpga.dataflow.resources import Resources
from hardy.targets.fpga.dataflow.simulation import CSimulation
from hardy.targets.fpga.dataflow.streams import from_stream, to_stream
from hardy.targets.fpga.dataflow.trace import Traffic, trace

LIBRARY = ("depthwise.h", "fifo.h", "integers.h", "product.h", "route.h", "simulation.h", "window.h")
VECTORS = 2  # frames that co-simulation runs at most
INTERFACES = ("memory", "stream")
ROUNDS = 4  # of folding, each with what FIFOs and adapters took in the one before


@dataclass(frozen=True)
class Options:
    """How to make an accelerator.

    `frames_per_second`: make the smallest that is so fast, instead of the fastest that fits.
    `utilization`: the part of the board it may take. `clock_mhz`: 0 takes the board's, at most 200.
    `name`: of the top function. `interface`: "memory" reads and writes frames there, "stream" has AXI
    streams of tokens as ports.
    """

    frames_per_second: float = 0.0
    utilization: float = 0.8
    clock_mhz: float = 0.0
    name: str = "accelerator"
    interface: str = "memory"

    def __post_init__(self) -> None:
        if not 0 < self.utilization <= 1:
            raise TargetError(f"utilization is above 0 and at most 1, not {self.utilization}")
        if self.clock_mhz < 0 or self.frames_per_second < 0:
            raise TargetError("a clock and a rate must not be negative")
        if self.interface not in INTERFACES:
            raise TargetError(f"an interface is {' or '.join(INTERFACES)}, not {self.interface!r}")
        if not self.name.isidentifier():
            raise TargetError(f"{self.name!r} is not a name in C++")

    def clock(self, board: Board) -> float:
        return self.clock_mhz or min(board.clock_mhz, 200)


@dataclass(frozen=True, eq=False)
class Design:
    """An accelerator: its C++ and scripts by path, and what it is estimated to take and to do."""

    graph: Graph
    parts: Split
    traffic: Traffic
    pipeline: Pipeline
    depths: Depths
    report: Report
    options: Options
    board: Board

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        return _files(self)

    def simulate(
        self, inputs: Mapping[str, torch.Tensor], *, plain_integers: bool = True
    ) -> dict[str, torch.Tensor]:
        """The outputs of the whole graph, those of the accelerator's part by C simulation.

        `plain_integers` takes the machine's own integers instead of ap_int: the same values, much faster.
        """
        return self.simulate_frames([inputs], plain_integers=plain_integers)[0]

    def simulate_frames(
        self, frames: Sequence[Mapping[str, torch.Tensor]], *, plain_integers: bool = True
    ) -> list[dict[str, torch.Tensor]]:
        """The same for several frames, which follow each other through the accelerator."""
        known = [self._before(inputs) for inputs in frames]
        ports = top.ports(self.pipeline)
        types = {p.name: p.stored.removesuffix("_t") for p in ports}
        given = {
            p.name: np.concatenate([to_stream(values[i.value], i.order, i.bits) for values in known])
            for p, i in zip([p for p in ports if p.is_input], self.traffic.inputs, strict=True)
        }
        outputs = [p.name for p in ports if not p.is_input]
        made = CSimulation(self.files, plain_integers).run(given, types, outputs)
        results = []
        for k, values in enumerate(known):
            for i, port in zip(self.traffic.outputs, outputs, strict=True):
                stream = made[port].reshape(len(frames), -1)[k]
                values[i.value] = from_stream(stream, i.order, i.value.type)
            results.append(self._after(values))
        return results

    def vectors(self, frames: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, bytes]:
        """Files for `vectors/`: inputs of the accelerator, and outputs that the graph's own references
        give."""
        # Ports come in the order of the interfaces, inputs first.
        interfaces = (*self.traffic.inputs, *self.traffic.outputs)
        parts: dict[str, list[bytes]] = {}
        for inputs in frames:
            values = self._compute(self.parts.core, self._before(inputs))
            for port, i in zip(top.ports(self.pipeline), interfaces, strict=True):
                data = to_stream(values[i.value], i.order, i.bits).astype(port.stored.removesuffix("_t"))
                parts.setdefault(f"vectors/{port.name}.bin", []).append(data.tobytes())
        return {path: b"".join(data) for path, data in parts.items()}

    def _before(self, inputs: Mapping[str, torch.Tensor]) -> dict[Value, torch.Tensor]:
        given = check_inputs(self.graph.input_types(), inputs)
        values = dict(zip(self.graph.inputs, given, strict=True))
        return self._compute(self.parts.before, values)

    def _after(self, values: dict[Value, torch.Tensor]) -> dict[str, torch.Tensor]:
        self._compute(self.parts.after, values)
        return {n: values[v] for n, v in zip(self.graph.output_names, self.graph.outputs, strict=True)}

    @staticmethod
    def _compute(nodes: Sequence[Node], values: dict[Value, torch.Tensor]) -> dict[Value, torch.Tensor]:
        for node in nodes:
            given = [v.literal.tensor if v.literal is not None else values[v] for v in node.operands]
            values.update(zip(node.values, run_node(node, given), strict=True))
        return values


def generate(graph: Graph, board: Board | str, options: Options | None = None) -> Design:
    """An accelerator for a graph of integers.

    UnsupportedError names the nodes that it cannot compute; TargetError says why no folding fits the board.
    """
    options = options or Options()
    board = find_board(board) if isinstance(board, str) else board
    graph = FoldConstants().run(graph)
    parts = split(graph)
    traffic = trace(graph, parts)
    budget = budget_of(board, options.utilization)
    clock = options.clock(board)
    pipeline, depths = _fit(traffic, board, budget, options, clock)
    made = report(pipeline, depths, board, clock, budget, parts.on_host)
    return Design(graph, parts, traffic, pipeline, depths, made, options, board)


def _fit(
    traffic: Traffic, board: Board, budget: Resources, options: Options, clock: float
) -> tuple[Pipeline, Depths]:
    """The pipeline whose estimate, with FIFOs and all, is within the budget."""
    layers = traffic.network.layers
    choices = [folding.options(layer) for layer in layers]
    interval = int(clock * 1e6 / options.frames_per_second) if options.frames_per_second else None
    reserve, goal = Resources(), interval
    for _ in range(ROUNDS):
        left = Resources(*[max(n - r, 0) for n, r in zip(budget.amounts, reserve.amounts, strict=True)])
        chosen = balance.balance(choices, left, goal)
        if chosen is None:
            if goal is not None and balance.balance(choices, left) is not None:
                raise too_slow(choices, left, board, goal, clock)
            raise too_large(layers, choices, left, board, reserve)
        pipeline = build(traffic.network, [o.fold for o in chosen])
        depths = find_depths(pipeline, max(o.cycles for o in chosen))
        pipeline = pipeline.with_depths(depths.chosen)
        around = surroundings(pipeline)
        total = around
        for option in chosen:
            total += option.resources
        slow = interval is not None and depths.timing.interval > interval
        if total.fits(budget) and not slow:
            return pipeline, depths
        if slow and goal is not None and interval is not None:
            # Stages wait for each other at times: the slowest must be faster by as much.
            goal = goal * interval // depths.timing.interval
        reserve = Resources(*map(max, zip(reserve.amounts, around.amounts, strict=True)))
    raise too_large(layers, choices, left, board, reserve)


def _files(design: Design) -> Mapping[str, bytes]:
    pipeline, options = design.pipeline, design.options
    text = {f"src/{name}": _library(name) for name in LIBRARY}
    text["src/layers.h"] = emit_layers.layers_header(pipeline)
    weighted = []
    for layer, fold in zip(pipeline.network.layers, pipeline.folds, strict=True):
        header = emit_layers.weights_header(layer, fold)
        if header is not None:
            text[f"src/weights_{layer.name}.h"] = header
            weighted.append(layer.name)
    streams = options.interface == "stream"
    text["src/top.h"] = top.top_header(pipeline, options.name, streams)
    text["src/top.cpp"] = top.top_source(pipeline, options.name, weighted, VECTORS, streams)
    text["src/testbench.cpp"] = top.testbench(pipeline, options.name, streams)
    text["build.tcl"] = scripts.build_script(options.name, design.board, options.clock(design.board))
    text["report.txt"] = str(design.report)
    text["report.json"] = design.report.to_json()
    made = {path: content.encode() for path, content in text.items()}
    if not streams:
        made |= scripts.driver(options.name, pipeline, design.traffic)
    return dict(sorted(made.items()))


def _library(name: str) -> str:
    return (resource_files("hardy.targets.fpga.dataflow") / "library" / name).read_text()


__all__ = ["Design", "Options", "generate"]
