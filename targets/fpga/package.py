"""A stage for VTA as plain files: the instruction stream, the DRAM image, and what people read about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hardy.compiler.artifact.manifest import plain
from hardy.compiler.ir import Graph, Value
from hardy.compiler.ops.group import Group
from hardy.compiler.types import DType
from hardy.targets.fpga.board import Board
from hardy.targets.fpga.chains import layer_of
from hardy.targets.fpga.config import Config
from hardy.targets.fpga.cycles import estimate, layers, table
from hardy.targets.fpga.cycles.layers import Layer as LayerCycles
from hardy.targets.fpga.cycles.timeline import draw
from hardy.targets.fpga.disassemble import disassemble
from hardy.targets.fpga.isa import decode
from hardy.targets.fpga.lower.layout import Region
from hardy.targets.fpga.lower.program import Call, Network, compile_layers
from hardy.targets.fpga.pictures import as_picture
from hardy.targets.fpga.readme import readme
from hardy.targets.target import Loaded, Package

INSTRUCTIONS = "instructions.bin"
DRAM = "dram.bin"
LISTING = "disassembly.txt"
LAYERS = "layers.txt"
README = "README.md"
_HEAD = "Cycles as the cycle model estimates them; no board was measured.\n\n"


def network_of(graph: Graph) -> Network:
    """The layers of a graph whose nodes are all layers, with the tensors between them."""
    names: dict[Value, str] = dict(zip(graph.inputs, graph.input_names, strict=True))
    names |= {v: n for n, v in zip(graph.output_names, graph.outputs, strict=True)}
    calls = []
    for number, node in enumerate(graph.nodes):
        if not isinstance(node.op, Group):
            continue
        (result,) = node.values
        name = names.setdefault(result, f"tensor {number}")
        chain = layer_of(node.op.body)
        operands = dict(zip(node.op.body.inputs, node.operands, strict=True))
        calls.append(Call(chain.layer, tuple(names[operands[v]] for v in chain.reads), name))
    inputs = {n: as_picture(v) for n, v in zip(graph.input_names, graph.inputs, strict=True)}
    return Network(inputs, tuple(calls), graph.output_names)


def package(graph: Graph, config: Config, board: Board) -> Package:
    """Compile a stage of layers."""
    program = compile_layers(network_of(graph), config, board.memory)
    timing = estimate(program.instructions, config, board.memory)
    rows = layers(timing, program.instructions, program.marks())
    code = program.code
    manifest = {
        "config": config.name,
        "bitstream": config.bitstream,
        "instructions": len(program.instructions),
        "estimate": {
            "memory": plain(board.memory),
            "cycles": timing.cycles,
            "seconds": board.seconds(timing.cycles),
            "gemm_use": round(timing.gemm_use, 4),
            "layers": [
                {**_row(row), "tiling": str(used.tiling)}
                for row, used in zip(rows, program.plans, strict=True)
            ],
        },
        "inputs": [_place(n, program.inputs[n]) for n in graph.input_names],
        "outputs": [
            {**_place(n, program.outputs[n]), "wide": v.type.dtype is DType.i32}
            for n, v in zip(graph.output_names, graph.outputs, strict=True)
        ],
    }
    files = {
        INSTRUCTIONS: code,
        DRAM: program.dram.tobytes(),
        LAYERS: (_HEAD + table(rows)).encode(),
        LISTING: disassemble(program.instructions).encode(),
        README: readme(manifest, board).encode(),
    }
    return Package(files, {}, manifest)


def _row(row: LayerCycles) -> dict[str, Any]:
    return {
        "layer": row.name,
        "cycles": row.cycles,
        "gemm_use": round(row.gemm_use, 4),
        "alu_share": round(row.alu_share, 4),
        "bytes": sum(row.bytes.values()),
        "limit": row.limit,
    }


def draw_timeline(part: Loaded, config: Config, board: Board, path: Path) -> None:
    """The three queues of a packaged program over time, as SVG or PNG."""
    program = decode((part.folder / INSTRUCTIONS).read_bytes(), config)
    draw(estimate(program, config, board.memory), program, path)


def _place(name: str, region: Region) -> dict[str, Any]:
    return {"name": name, "offset": region.offset, "shape": list(region.shape)}
