"""Dedicated dataflow accelerators as targets: `fpga:dataflow:zcu104`, `fpga:dataflow:pynq-z1+cpu:avx2`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hardy.compiler.errors import Refusal, UnsupportedError
from hardy.compiler.ir import Constant, Graph, Input, Node
from hardy.compiler.pipeline import Pass
from hardy.compiler.placement.plan import Plan
from hardy.compiler.types import DType
from hardy.targets.fpga.board import Board, find_board
from hardy.targets.fpga.dataflow.design import generate
from hardy.targets.fpga.dataflow.emit.top import ports
from hardy.targets.fpga.dataflow.host import split
from hardy.targets.fpga.dataflow.simulation import CSimulation
from hardy.targets.fpga.dataflow.streams import from_stream, to_stream
from hardy.targets.fpga.dataflow.table import supports
from hardy.targets.fpga.scheme import SCHEME
from hardy.targets.hosted import HostedTarget, parse_host
from hardy.targets.target import Device, Loaded, Package, Runner, Support, Target

DEFAULT_BOARD = "zcu104"


@dataclass(frozen=True)
class DataflowTarget(HostedTarget):
    """A board with an accelerator made for one network. The host quantizes what comes in and reads what goes
    out."""

    board: Board
    host: Target

    kind = "fpga"
    summary = "HLS C++ of a dataflow accelerator for one small network, run by C simulation"

    @classmethod
    def create(cls, argument: str) -> DataflowTarget:
        name, host = parse_host(argument)
        return cls(find_board(name or DEFAULT_BOARD), host)

    @property
    def name(self) -> str:
        return f"fpga:dataflow:{self.board.name}+{self.host.name}"

    @property
    def device_name(self) -> str:
        return f"dataflow:{self.board.name}"

    def describe(self) -> Device:
        board = self.board
        return Device(
            name=f"{board.name} with a dataflow accelerator",
            kind="fpga",
            features=(board.part, f"{board.dsp} DSP", f"{board.lut} LUT", f"{board.bram36} BRAM"),
            # A multiply-accumulate of 8 bits a DSP slice and cycle.
            peak={DType.i8: 2e6 * board.dsp * board.clock_mhz},
            quantization=SCHEME,
            sparsity=("channels",),
        )

    def takes(self, node: Node) -> Support:
        return supports(node)

    def choose(self, graph: Graph) -> Set[Node]:
        return set(split(graph).core)

    def passes(self) -> tuple[Pass, ...]:
        from hardy.passes.lower_binary import LowerBinary
        from hardy.passes.lower_quantization import LowerQuantization
        from hardy.passes.pipelines import CLEANUP, DEFAULT

        return (LowerBinary(), *DEFAULT, LowerQuantization(), *CLEANUP)

    def check_plan(self, plan: Plan) -> None:
        """UnsupportedError where the network falls into several parts, which one accelerator cannot be."""
        own = [s for s in plan.stages if s.device == self.device_name]
        if len(own) > 1:
            first, last = (plan.stages.index(s) for s in (own[0], own[-1]))
            between = [
                Refusal(n.op.name, n.source, self.takes(n).reason or "it lies behind an op of the host")
                for s in plan.stages[first:last]
                if s.device != self.device_name
                for n in s.part.graph.nodes
                if not isinstance(n.op, Input | Constant)
            ]
            raise UnsupportedError(
                f"the network falls into {len(own)} parts, and a dataflow accelerator is one",
                refusals=between,
            )

    def lower_part(self, graph: Graph) -> Package:
        design = generate(graph, self.board)
        made = ports(design.pipeline)
        interfaces = (*design.traffic.inputs, *design.traffic.outputs)
        rows, orders = [], {}
        for port, interface in zip(made, interfaces, strict=True):
            rows.append(
                {
                    "port": port.name,
                    "input": port.is_input,
                    "element": port.stored.removesuffix("_t"),
                    "bits": interface.bits,
                    "value": _name(graph, interface.value),
                }
            )
            orders[f"order/{port.name}"] = torch.from_numpy(interface.order.astype(np.int32))
        report = design.report
        estimate = {
            "clock_mhz": report.clock_mhz,
            "latency_cycles": report.latency,
            "interval_cycles": report.interval,
            "frames_per_second": report.frames_per_second,
        }
        return Package(dict(design.files), orders, {"ports": rows, "estimate": estimate})

    def load_part(self, part: Loaded) -> Runner:
        return CRunner(part)

    def advice(self, graph: Graph) -> str:
        return "quantize the model in the device's scheme: --preset int8 --calibration DATA"

    def remark(self) -> str:
        return (
            f"no {self.board.name} here: the accelerator's C++ runs as C simulation, "
            f"the rest on {self.host.name}"
        )


def _name(graph: Graph, value: Any) -> str:
    named = [*zip(graph.input_names, graph.inputs, strict=True)]
    named += zip(graph.output_names, graph.outputs, strict=True)
    return next(name for name, v in named if v == value)


class CRunner:
    """The accelerator's C++ as it was packaged, compiled by g++ and run."""

    def __init__(self, part: Loaded) -> None:
        files = {
            str(path.relative_to(part.folder)): path.read_bytes()
            for path in sorted((part.folder / "src").iterdir())
        }
        self._program = CSimulation(files)
        self._ports: Sequence[Mapping[str, Any]] = part.manifest["ports"]
        self._orders = {
            row["port"]: part.weights[f"order/{row['port']}"].numpy().astype(np.int64) for row in self._ports
        }
        self._inputs = part.graph.input_names
        self._outputs = part.graph.output_types()

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        named = dict(zip(self._inputs, inputs, strict=True))
        given = {
            row["port"]: to_stream(named[row["value"]], self._orders[row["port"]], row["bits"])
            for row in self._ports
            if row["input"]
        }
        types = {row["port"]: row["element"] for row in self._ports}
        results = [row for row in self._ports if not row["input"]]
        made = self._program.run(given, types, [row["port"] for row in results])
        by_name = {
            row["value"]: from_stream(
                made[row["port"]], self._orders[row["port"]], self._outputs[row["value"]]
            )
            for row in results
        }
        return tuple(by_name[name] for name in self._outputs)
