"""Cycles of ResNet-18 on VTA, layer by layer, beside the least that any program needs.

    python -m benchmarks.vta_cycles [--memory axi64 slow] [--config pynq-z1] [--json]

The cycles are those of the cycle model (docs/vta.md), not measured on a board. The whole network is one
program; a layer's cycles run from the end of the layer before, as the compute queue sees it, so that weights
loaded ahead count where they hide. `alone` is the layer as a program of its own, from a cold start to its
last store. `plain` is that in fixed 7x7 tiles with one place for each kind of data, so that loads,
computation and stores take turns.

The bound is max(GEMM + ALU, DMA). GEMM: one cycle for each product of a vector with a whole block of weights
that reads real inputs, and for each vector of a residual; `with padding` takes a bound that counts products
with padding too, as multiply-accumulates of networks are counted; programs here can stay below it.
ALU: shift and limits at two cycles each for every vector of results, and the maxima of a pool. DMA: every
byte of inputs, weights and results once, and one latency.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.vta_networks import resnet18
from hardy.targets.fpga.board import Memory, find_memory
from hardy.targets.fpga.config import find_config
from hardy.targets.fpga.cycles import estimate, layers
from hardy.targets.fpga.lower.plan import Plan
from hardy.targets.fpga.lower.program import Network, alone, assemble, compile_layers, measure
from hardy.targets.fpga.lower.search import plain, signature, work
from hardy.targets.fpga.queues import Queue


@dataclass(frozen=True)
class Row:
    """A layer, or the network."""

    name: str
    tiling: str
    cycles: int
    bound: int
    bound_with_padding: int
    alone: float
    plain: float
    gemm: int
    alu: int
    nbytes: int
    limit: str

    @property
    def ratio(self) -> float:
        return self.cycles / self.bound


def rows(network: Network, config_name: str, memory: Memory) -> list[Row]:
    """A row for each layer, and the sum."""
    config = find_config(config_name)
    program = compile_layers(network, config, memory)
    timing = estimate(program.instructions, config, memory)
    owner = np.asarray(program.layers)
    compute = timing.queue == Queue.COMPUTE
    parts = layers(timing, program.instructions, program.marks())
    known: dict[Any, tuple[float, float]] = {}
    result: list[Row] = []
    before = 0
    for number, (call, plan, part) in enumerate(zip(network.calls, program.plans, parts, strict=True)):
        mine = owner == number
        end = int(timing.end[mine & compute].max())
        least = work(call.layer, plan.constants, config)
        key = signature(call.layer, plan.constants)
        if key not in known:
            known[key] = measure(plan, memory), _plain(plan, memory)
        result.append(
            Row(
                call.layer.name,
                str(plan.tiling),
                end - before,
                least.bound(memory),
                max(least.gemm + least.padding + least.alu, least.dma(memory)),
                *known[key],
                part.parts["gemm"],
                part.parts["alu"],
                int(timing.nbytes[mine].sum()),
                part.limit,
            )
        )
        before = end
    return [*result, _total(result, timing.cycles)]


def _plain(plan: Plan, memory: Memory) -> float:
    fixed = plain(plan.layer, plan.constants, plan.config)
    program = assemble(alone(plan.layer), [fixed], plan.config, memory, overlap=False)
    return estimate(program.instructions, plan.config, memory).cycles


def _total(result: Sequence[Row], cycles: int) -> Row:
    def total(field: str) -> int:
        return int(sum(getattr(row, field) for row in result))

    fields = ("bound", "bound_with_padding", "alone", "plain", "gemm", "alu", "nbytes")
    return Row("whole", "", cycles, **{field: total(field) for field in fields}, limit="")


def show(console: Console, memory: Memory, result: Sequence[Row]) -> None:
    title = f"memory {memory.name}: {memory.bytes_per_cycle} bytes a cycle, latency {memory.latency}, "
    table = Table(title=title + f"{memory.outstanding} outstanding", show_lines=False)
    for name in (
        *("layer", "cycles", "bound", "ratio", "with padding", "alone", "plain"),
        *("GEMM", "ALU", "KB", "limit", "tile"),
    ):
        table.add_column(name, justify="left" if name in ("layer", "limit", "tile") else "right")
    for row in result:
        table.add_row(
            row.name,
            f"{row.cycles:,}",
            f"{row.bound:,}",
            f"{row.ratio:.3f}",
            f"{row.cycles / row.bound_with_padding:.3f}",
            f"{row.alone / row.bound:.3f}",
            f"{row.plain / row.bound:.2f}",
            f"{row.gemm / row.cycles:.0%}",
            f"{row.alu / row.cycles:.0%}",
            f"{row.nbytes / 1000:,.0f}",
            row.limit,
            row.tiling,
        )
    table.caption = (
        "ratio, with padding, alone and plain are over the bound; GEMM and ALU are shares of cycles"
    )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--memory", nargs="+", default=["axi64", "slow"])
    parser.add_argument("--config", default="pynq-z1")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    network = resnet18()
    found = {name: rows(network, arguments.config, find_memory(name)) for name in arguments.memory}
    if arguments.json:
        print(json.dumps({name: [asdict(row) for row in result] for name, result in found.items()}, indent=1))
        return
    console = Console(width=170)
    for name, result in found.items():
        show(console, find_memory(name), result)


if __name__ == "__main__":
    main()
