"""An accumulator machine as a hardy target.

The machine has one accumulator and a memory of numbered tensors. An instruction combines the
accumulator with at most one memory cell: `load 0`, `matmul 1 0,0`, `store 2`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hardy.compiler.errors import ArtifactError, TargetError
from hardy.compiler.ir import Constant, Graph, Input, Node, Op, Value
from hardy.compiler.ops import elementwise, linear, reduce, shape, transcendental
from hardy.compiler.pipeline import Pass
from hardy.compiler.types import DType
from hardy.passes.decompose import Decompose
from hardy.targets.target import YES, Device, Loaded, Package, Runner, Stage, Support, Target, no

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Instruction:
    """`opcode address immediates`, with `-` for what is left out."""

    opcode: str
    address: int | None = None
    immediates: tuple[int, ...] = ()

    def __str__(self) -> str:
        address = "-" if self.address is None else str(self.address)
        return f"{self.opcode} {address} {','.join(map(str, self.immediates)) or '-'}"

    @staticmethod
    def parse(line: str) -> Instruction:
        opcode, address, immediates = line.split()
        return Instruction(
            opcode,
            None if address == "-" else int(address),
            () if immediates == "-" else tuple(map(int, immediates.split(","))),
        )


def divide(x: Array, y: Array) -> Array:
    """Integers truncate towards zero, as hardy's `div` says; NumPy's `//` rounds down."""
    if x.dtype.kind == "f":
        return np.divide(x, y)
    return np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))


def matmul(x: Array, y: Array, transpose_x: int, transpose_y: int) -> Array:
    return (x.swapaxes(-1, -2) if transpose_x else x) @ (y.swapaxes(-1, -2) if transpose_y else y)


# What the machine does: with the accumulator alone, and with a cell as the second operand.
ALONE: dict[str, Callable[..., Array]] = {
    "neg": np.negative,
    "abs": np.abs,
    "floor": np.floor,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sum": lambda x, keep, *axes: x.sum(axes, keepdims=bool(keep), dtype=x.dtype),
    "greatest": lambda x, keep, *axes: x.max(axes, keepdims=bool(keep)),
    "reshape": lambda x, *sizes: x.reshape(sizes),
    "transpose": lambda x, *order: x.transpose(order),
    "broadcast": lambda x, *sizes: np.broadcast_to(x, sizes),
}
WITH_CELL: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": divide,
    "max": np.maximum,
    "min": np.minimum,
    "matmul": matmul,
}


def execute(program: Sequence[Instruction], memory: dict[int, Array]) -> None:
    """Run a program; `memory` holds inputs and constants before, and everything stored after."""
    accumulator: Array = np.zeros(())
    with np.errstate(all="ignore"):
        for i in program:
            if i.opcode == "load":
                accumulator = memory[_cell(i)]
            elif i.opcode == "store":
                memory[_cell(i)] = accumulator
            elif i.opcode in ALONE:
                accumulator = np.asarray(ALONE[i.opcode](accumulator, *i.immediates))
            else:
                accumulator = np.asarray(WITH_CELL[i.opcode](accumulator, memory[_cell(i)], *i.immediates))


def _cell(instruction: Instruction) -> int:
    if instruction.address is None:
        raise ArtifactError(f"{instruction.opcode} needs an address")
    return instruction.address


# How each op is lowered: its opcode and immediates. What is not in the table is not supported.
TABLE: dict[type[Op], Callable[[Any], tuple[str, tuple[int, ...]]]] = {
    elementwise.Add: lambda op: ("add", ()),
    elementwise.Sub: lambda op: ("sub", ()),
    elementwise.Mul: lambda op: ("mul", ()),
    elementwise.Div: lambda op: ("div", ()),
    elementwise.Max: lambda op: ("max", ()),
    elementwise.Min: lambda op: ("min", ()),
    elementwise.Neg: lambda op: ("neg", ()),
    elementwise.Abs: lambda op: ("abs", ()),
    elementwise.Floor: lambda op: ("floor", ()),
    transcendental.Exp: lambda op: ("exp", ()),
    transcendental.Log: lambda op: ("log", ()),
    elementwise.Sqrt: lambda op: ("sqrt", ()),
    transcendental.Tanh: lambda op: ("tanh", ()),
    linear.Matmul: lambda op: ("matmul", (int(op.transpose_a), int(op.transpose_b))),
    reduce.ReduceSum: lambda op: ("sum", (int(op.keepdims), *op.axes)),
    reduce.ReduceMax: lambda op: ("greatest", (int(op.keepdims), *op.axes)),
    shape.Reshape: lambda op: ("reshape", op.shape),
    shape.Transpose: lambda op: ("transpose", op.permutation),
    shape.BroadcastTo: lambda op: ("broadcast", op.shape),
}
TYPES = (DType.f32, DType.f64, DType.i32, DType.i64)


def supports(node: Node) -> Support:
    for t in (*(v.type for v in node.operands), *node.types):
        if t.dtype not in TYPES:
            return no(f"the accumulator holds {', '.join(d.value for d in TYPES)}, not {t.dtype}")
    if isinstance(node.op, Input | Constant):
        return YES
    if type(node.op) not in TABLE:
        return no(f"the machine has no instruction for {node.op.name}")
    if isinstance(node.op, reduce.ReduceMax) and node.operands[0].type.size == 0:
        return no("the machine has no greatest of no elements")
    return YES


@dataclass(frozen=True)
class Program:
    """Instructions, and which cells are inputs, constants and outputs."""

    code: tuple[Instruction, ...]
    inputs: tuple[int, ...]
    constants: Mapping[int, torch.Tensor]
    outputs: tuple[int, ...]

    def __str__(self) -> str:
        cells = f"inputs {self.inputs} constants {tuple(self.constants)} outputs {self.outputs}"
        return "\n".join([f"; {cells}", *map(str, self.code)]) + "\n"


def select(graph: Graph) -> Program:
    """Each value gets a cell; each node becomes load, operation, store."""
    cells: dict[Value, int] = {}
    constants: dict[int, torch.Tensor] = {}
    code: list[Instruction] = []
    held: Value | None = None
    for node in graph.nodes:
        (result,) = node.values
        cells[result] = len(cells)
        if isinstance(node.op, Constant):
            constants[cells[result]] = node.op.literal.tensor
        if isinstance(node.op, Input | Constant):
            continue
        opcode, immediates = TABLE[type(node.op)](node.op)
        first, *rest = node.operands
        if first != held:
            code.append(Instruction("load", cells[first]))
        code.append(Instruction(opcode, cells[rest[0]] if rest else None, immediates))
        code.append(Instruction("store", cells[result]))
        held = result
    inputs = tuple(cells[v] for v in graph.inputs)
    return Program(tuple(code), inputs, constants, tuple(cells[v] for v in graph.outputs))


PROGRAM = "program.txt"


def assemble(program: Program) -> Package:
    text = "".join(f"{i}\n" for i in program.code)
    return Package(
        files={PROGRAM: text.encode()},
        weights={str(cell): tensor for cell, tensor in program.constants.items()},
        manifest={"inputs": list(program.inputs), "outputs": list(program.outputs)},
    )


@dataclass(frozen=True)
class AccumulatorRunner:
    """The machine with a program and its constants in memory."""

    code: tuple[Instruction, ...]
    constants: Mapping[int, Array]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        given = {cell: t.numpy() for cell, t in zip(self.inputs, inputs, strict=True)}
        memory = {**self.constants, **given}
        execute(self.code, memory)
        return tuple(torch.from_numpy(np.array(memory[cell])) for cell in self.outputs)


class AccumulatorTarget(Target):
    """An accumulator machine, simulated with NumPy."""

    kind = "accumulator"
    summary = "an accumulator machine, simulated with NumPy"

    @classmethod
    def create(cls, argument: str) -> AccumulatorTarget:
        if argument:
            raise TargetError(f"the accumulator machine has no variant {argument!r}")
        return cls()

    @property
    def name(self) -> str:
        return "accumulator"

    def describe(self) -> Device:
        return Device(name="accumulator machine", kind="simulator")

    def supports(self, node: Node) -> Support:
        return supports(node)

    def passes(self) -> tuple[Pass, ...]:
        return (Decompose(supports),)

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("select", select, lambda program: {"program.txt": str(program)}),
            Stage("assemble", assemble, lambda package: package.files),
        )

    def load(self, artifact: Loaded) -> Runner:
        lines = (artifact.folder / PROGRAM).read_text().splitlines()
        return AccumulatorRunner(
            tuple(map(Instruction.parse, lines)),
            {int(cell): tensor.numpy() for cell, tensor in artifact.weights.items()},
            tuple(artifact.manifest["inputs"]),
            tuple(artifact.manifest["outputs"]),
        )
