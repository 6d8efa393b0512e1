"""Layers compiled to a program for VTA: instructions, DRAM image, and where inputs and outputs lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hardy.compiler.errors import TargetError
from hardy.targets.fpga.board import Memory, find_memory
from hardy.targets.fpga.config import Config, find_config
from hardy.targets.fpga.cycles import Mark, estimate
from hardy.targets.fpga.isa import Gemm, Instruction, encode
from hardy.targets.fpga.lower.constants import Constants, constant_input, constants
from hardy.targets.fpga.lower.geometry import axes
from hardy.targets.fpga.lower.layer import Layer, Shape
from hardy.targets.fpga.lower.layout import Region, packed_shape
from hardy.targets.fpga.lower.memory import Image, Lifetime, share
from hardy.targets.fpga.lower.plan import Plan, Tiling
from hardy.targets.fpga.lower.pool import check_pool
from hardy.targets.fpga.lower.schedule import Job, schedule
from hardy.targets.fpga.lower.search import search, signature
from hardy.targets.fpga.lower.tile import Tensor
from hardy.targets.fpga.lower.tokens import insert_tokens
from hardy.targets.fpga.lower.uops import place_uops
from hardy.targets.fpga.simulator import simulate
from hardy.targets.fpga.simulator.hazards import PUBLISHED_SPACING

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Call:
    """A layer applied to named tensors (its input, then its residuals), giving another."""

    layer: Layer
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Network:
    """Layers in order with the tensors between them; `inputs` have shapes, `outputs` are names."""

    inputs: Mapping[str, Shape]
    calls: tuple[Call, ...]
    outputs: tuple[str, ...]

    def shapes(self) -> dict[str, Shape]:
        """The shape of every tensor. Raises TargetError where a layer does not fit its tensors."""
        shapes = dict(self.inputs)
        for call in self.calls:
            layer = call.layer
            if len(call.inputs) != 1 + len(layer.residuals):
                raise TargetError(
                    f"the layer takes {1 + len(layer.residuals)} tensors, got {list(call.inputs)}",
                    where=layer.name,
                )
            for name, shape in zip(
                call.inputs, [layer.shape] + [layer.conv_shape] * len(layer.residuals), strict=True
            ):
                if name not in shapes:
                    raise TargetError(f"no input and no layer before gives {name!r}", where=layer.name)
                if shapes[name] != shape:
                    raise TargetError(
                        f"the layer takes {shape}, and {name!r} is {shapes[name]}", where=layer.name
                    )
            if call.output in shapes:
                raise TargetError(f"{call.output!r} is given twice", where=layer.name)
            shapes[call.output] = layer.stored_shape
        for name in self.outputs:
            if name not in shapes or name in self.inputs:
                raise TargetError(f"the output {name!r} is the result of no layer")
        return shapes


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled program.

    `layers[n]` is the number of the layer that instruction n serves. `spread` names layers with so few
    accumulators to a tile that micro-ops on spare ones keep the others apart (kernels.py).
    """

    config: Config
    network: Network
    plans: tuple[Plan, ...]
    instructions: tuple[Instruction, ...]
    layers: tuple[int, ...]
    spread: tuple[str, ...]
    dram: Array
    inputs: Mapping[str, Region]
    outputs: Mapping[str, Region]

    def marks(self) -> tuple[Mark, ...]:
        """The instructions of each layer, for the cycle model: from its first computation to the next one's.

        Loads that were written early lie in the layer before.
        """
        starts: dict[int, int] = {}
        for number, (i, layer) in enumerate(zip(self.instructions, self.layers, strict=True)):
            if isinstance(i, Gemm) and layer not in starts:
                starts[layer] = number
        begins = [0, *(starts[n] for n in range(1, len(self.network.calls)))]
        ends = [*begins[1:], len(self.instructions)]
        names = (call.layer.name for call in self.network.calls)
        return tuple(Mark(n, b, e) for n, b, e in zip(names, begins, ends, strict=True))

    @property
    def code(self) -> bytes:
        """The instructions' bytes."""
        return encode(self.instructions, self.config)

    def load(self, inputs: Mapping[str, Array]) -> Array:
        """The DRAM image with these inputs in it: i8 of the network's shapes."""
        image = self.dram.copy()
        for name, region in self.inputs.items():
            x = inputs[name]
            if x.dtype != np.int8 or x.shape != region.shape:
                raise TargetError(
                    f"the input {name!r} is i8{list(region.shape)}, got {x.dtype}{list(x.shape)}"
                )
            region.write(image, x, self.config)
        return image

    def read(self, image: Array) -> dict[str, Array]:
        """The outputs in a DRAM image after a run."""
        return {name: region.read(image, self.config) for name, region in self.outputs.items()}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for these inputs, through the functional simulator, held to the published bitstream."""
        image = simulate(self.code, self.load(inputs), self.config, spacing=PUBLISHED_SPACING)
        return self.read(image)


def compile_layers(
    network: Network,
    config: Config | str = "pynq-z1",
    memory: Memory | str = "axi64",
    *,
    tilings: Sequence[Tiling] | None = None,
) -> Program:
    """The program of a network: one stream of instructions, without a barrier between layers.

    Tilings are searched for a memory unless they are given, one a layer. Raises TargetError for what does not
    fit, with the buffer that is too small.
    """
    config = find_config(config) if isinstance(config, str) else config
    memory = find_memory(memory) if isinstance(memory, str) else memory
    network.shapes()
    found: dict[Any, Tiling] = {}
    plans = []
    for number, call in enumerate(network.calls):
        layer = call.layer
        check_pool(layer.name, axes(layer))
        values = constants(layer, config)
        if tilings is not None:
            tiling = tilings[number]
        else:
            key = signature(layer, values)
            if key not in found:
                found[key] = search(layer, values, config, memory, partial(measure, memory=memory)).tiling
            tiling = found[key]
        plan = Plan(layer, values, config, tiling)
        plan.require_fit()
        plans.append(plan)
    return assemble(network, plans, config, memory)


def alone(layer: Layer) -> Network:
    """A network of one layer: its input is `x`, its residuals `r0`, `r1`, ..., its result `y`."""
    residuals = {f"r{i}": layer.conv_shape for i in range(len(layer.residuals))}
    return Network({"x": layer.shape, **residuals}, (Call(layer, ("x", *residuals), "y"),), ("y",))


def measure(plan: Plan, memory: Memory) -> float:
    """The cycles of a plan's layer alone, in the cycle model."""
    program = assemble(alone(plan.layer), [plan], plan.config, memory)
    return estimate(program.instructions, plan.config, memory).cycles


def assemble(
    network: Network, plans: Sequence[Plan], config: Config, memory: Memory, *, overlap: bool = True
) -> Program:
    """The program of layers whose tiles are chosen; `overlap` as in `schedule`."""
    shapes = network.shapes()
    image = Image()
    constant = image.add(constant_input(config), config.inp_bytes)
    weights = [image.add(_weights(plan), config.wgt_bytes) for plan in plans]
    vectors = [image.add(plan.constants.vectors, config.acc_bytes) for plan in plans]
    offsets = _activations(network, shapes, image, config)

    def tensor(name: str) -> Tensor:
        n, c, rows, columns, _, _ = packed_shape(shapes[name], config)
        return Tensor(offsets[name] // config.inp_bytes, n, c, rows, columns)

    jobs = [
        Job(plan, tensor(call.inputs[0]), tuple(map(tensor, call.inputs[1:])), tensor(call.output), w, v)
        for call, plan, w, v in zip(network.calls, plans, weights, vectors, strict=True)
    ]
    drafts = schedule(jobs, config, memory, constant, overlap=overlap)
    uop_base = image.reserve(0, config.uop_bytes) // config.uop_bytes
    placed, words = place_uops(drafts, config, uop_base)
    image.add(words, config.uop_bytes)
    finished = insert_tokens(placed, config, image.size)
    return Program(
        config,
        network,
        tuple(plans),
        tuple(d.instruction for d in finished),
        tuple(d.layer for d in finished),
        tuple(network.calls[n].layer.name for n in sorted({d.layer for d in drafts if d.spread})),
        image.array(),
        {name: Region(offsets[name], shape) for name, shape in network.inputs.items()},
        {name: Region(offsets[name], shapes[name]) for name in network.outputs},
    )


def _weights(plan: Plan) -> Array:
    """A layer's weight elements in the order in which they are loaded."""
    c: Constants = plan.constants
    block = plan.config.block
    parts = [c.extras]
    for g in plan.groups:
        for number, chunk in enumerate(plan.chunks):
            if number == len(plan.chunks) - 1:
                parts.append(c.spelled[g.start : g.stop].reshape(-1, block, block))
            if c.uniform is None:
                values = c.weights.values[g.start : g.stop, chunk.start : chunk.stop]
                parts.append(values.reshape(-1, block, block))
    return np.concatenate(parts)


def _activations(
    network: Network, shapes: Mapping[str, Shape], image: Image, config: Config
) -> dict[str, int]:
    """The first byte of every tensor. Inputs and outputs live throughout; the others share room."""
    first = dict.fromkeys(network.inputs, -1)
    last: dict[str, int] = {}
    for number, call in enumerate(network.calls):
        first[call.output] = number
        for name in (*call.inputs, call.output):
            last[name] = number
    end = len(network.calls)
    lifetimes = []
    for name in first:
        size = int(np.prod(packed_shape(shapes[name], config)))
        kept = name in network.inputs or name in network.outputs
        lifetimes.append(Lifetime(name, size, -1 if kept else first[name], end if kept else last[name]))
    offsets, total = share(lifetimes, config.inp_bytes)
    base = image.reserve(total, config.inp_bytes)
    return {str(name): base + offset for name, offset in offsets.items()}
