"""FPGA boards with VTA, the tensor accelerator, as targets.

`fpga:pynq-z1` is a board with its published configuration, `fpga:pynq-z1/1x8` with another one;
`fpga:zcu104+cpu:avx2` names the host. `fpga:dataflow:zcu104` is a dedicated accelerator (dataflow/target.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hardy.compiler.errors import TargetError
from hardy.compiler.ir import Graph, Node
from hardy.compiler.ops.group import Group
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.targets import target as interface
from hardy.targets.fpga.board import Board, find_board
from hardy.targets.fpga.config import Config, find_config
from hardy.targets.fpga.form_layers import KIND, FormLayers
from hardy.targets.fpga.lower.layer import Layer
from hardy.targets.fpga.scheme import SCHEME
from hardy.targets.hosted import HostedTarget, parse_host
from hardy.targets.target import YES, Device, Loaded, Package, Runner, Support, Target, no

DATAFLOW = "dataflow"
DEFAULT_BOARD = "pynq-z1"


@dataclass(frozen=True)
class FpgaTarget(HostedTarget):
    """A board with VTA. What VTA cannot do runs on `host`."""

    board: Board
    config: Config
    host: Target

    kind = "fpga"
    summary = "VTA instruction streams for FPGA boards, simulated bit by bit; the rest runs on a host"

    @classmethod
    def create(cls, argument: str) -> Target:
        kind, _, rest = argument.partition(":")
        if kind == DATAFLOW:
            from hardy.targets.fpga.dataflow.target import DataflowTarget

            return DataflowTarget.create(rest)
        device, host = parse_host(argument)
        name, _, config = device.partition("/")
        board = find_board(name or DEFAULT_BOARD)
        return cls(board, find_config(config or board.config), host)

    @property
    def name(self) -> str:
        own = "" if self.config.name == self.board.config else f"/{self.config.name}"
        return f"fpga:{self.board.name}{own}+{self.host.name}"

    @property
    def device_name(self) -> str:
        return f"vta:{self.config.name}"

    def describe(self) -> Device:
        config, board = self.config, self.board
        clock = board.clock_mhz * 1e6
        buffers = (
            ("inputs", config.inp_depth * config.inp_bytes),
            ("weights", config.wgt_depth * config.wgt_bytes),
            ("accumulators", config.acc_depth * config.acc_bytes),
        )
        # One element of each buffer a cycle.
        widths = (config.inp_bytes, config.wgt_bytes, config.acc_bytes)
        memories = [
            interface.Memory(name, size, width * clock)
            for (name, size), width in zip(buffers, widths, strict=True)
        ]
        dram = interface.Memory("memory", 512 << 20, board.memory.bytes_per_cycle * clock)
        return Device(
            name=f"{board.name} with VTA {config.bitstream}",
            kind="fpga",
            features=(board.part, f"{board.clock_mhz} MHz"),
            memories=(*memories, dram),
            peak={DType.i8: 2 * config.batch * config.block**2 * clock},
            quantization=SCHEME,
            sparsity=("channels",),
            channel_multiple=config.block,
        )

    def takes(self, node: Node) -> Support:
        if isinstance(node.op, Group) and node.op.kind == KIND:
            return YES
        floats = [v.type for v in (*node.operands, *node.values) if v.type.dtype.is_float]
        if floats:
            return no(f"VTA computes with integers, this is {floats[0]}")
        return no("it is part of no layer of VTA; see `no_layer` in the report of form_layers")

    def passes(self) -> tuple[Pass, ...]:
        from hardy.passes.lower_quantization import LowerQuantization
        from hardy.passes.pipelines import CLEANUP, DEFAULT

        return (*DEFAULT, LowerQuantization(), *CLEANUP, FormLayers(fits=self._misfit))

    def _misfit(self, layer: Layer) -> str:
        """Why the configuration cannot run a layer; empty where it can."""
        from hardy.targets.fpga.lower.constants import constants
        from hardy.targets.fpga.lower.geometry import axes
        from hardy.targets.fpga.lower.plan import Plan, Tiling
        from hardy.targets.fpga.lower.pool import check_pool

        try:
            check_pool(layer.name, axes(layer))
            Plan(layer, constants(layer, self.config), self.config, Tiling(1, 1, 1, 1)).require_fit()
        except TargetError as error:
            return error.message
        return ""

    def lower_part(self, graph: Graph) -> Package:
        from hardy.targets.fpga.package import package

        return package(graph, self.config, self.board)

    def load_part(self, part: Loaded) -> Runner:
        from hardy.targets.fpga.runner import VtaRunner

        return VtaRunner(part, self.config)

    def device_files(self) -> Mapping[str, bytes]:
        """The accelerator as HLS C++; TargetError where its configuration does not fit the board."""
        from hardy.targets.fpga.hls.generate import generate

        return generate(self.config, self.board)

    def draw_part(self, part: Loaded, path: Path) -> None:
        from hardy.targets.fpga.package import draw_timeline

        draw_timeline(part, self.config, self.board, path)

    def advice(self, graph: Graph) -> str:
        return (
            "quantize the model in the device's scheme: --preset int8 --calibration DATA, "
            "or preset='int8', calibration=data in Python"
        )

    def remark(self) -> str:
        return f"no {self.board.name} here: VTA is simulated bit by bit, the rest runs on {self.host.name}"
