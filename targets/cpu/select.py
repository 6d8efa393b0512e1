"""Chooses kernels: turns a graph of groups and nodes into a flat program of calls."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch

from hardy.compiler.errors import UnsupportedError
from hardy.compiler.ir import Constant, Graph, Input, Node, Value
from hardy.compiler.literal import Literal
from hardy.compiler.ops import shape as s
from hardy.compiler.types import TensorType
from hardy.targets.cpu.isa import Isa
from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Code
from hardy.targets.cpu.kernels.kernel import Array
from hardy.targets.cpu.lower import arith
from hardy.targets.cpu.program import Call, KernelFunction, Program, Ref


def storage_size(t: TensorType) -> int:
    """Bytes of a tensor in memory."""
    return t.size * arith.storage_bytes(t.dtype)


def as_bytes(literal: Literal) -> Array:
    array: Array = literal.tensor.reshape(-1).view(torch.uint8).numpy()
    return array


def viewed(node: Node) -> int | None:
    """The byte offset at which a node's result lies inside its operand, None where it has to be computed."""
    op = node.op
    if isinstance(op, s.Reshape):
        return 0
    if isinstance(op, s.Transpose):
        shape = node.operands[0].type.shape
        moved = [p for p in op.permutation if shape[p] != 1]
        return 0 if moved == sorted(moved) else None
    if isinstance(op, s.BroadcastTo):
        return 0 if node.type.size == node.operands[0].type.size else None
    if isinstance(op, s.Slice):
        return _slice_offset(op, node.operands[0].type)
    return None


def _slice_offset(op: s.Slice, t: TensorType) -> int | None:
    """Only the first axis that is longer than one may be cut, in steps of one."""
    cut = [
        a
        for a, n in enumerate(t.shape)
        if (op.starts[a], op.stops[a]) != (0, n) or (op.steps[a] != 1 and n > 1)
    ]
    if not cut:
        return 0
    axis = cut[0]
    if len(cut) > 1 or op.steps[axis] != 1 or any(n != 1 for n in t.shape[:axis]):
        return None
    inner = TensorType(t.dtype, t.shape[axis + 1 :])
    return op.starts[axis] * storage_size(inner)


class Selector:
    """The program under construction: lowering rules ask it for places and give it calls."""

    def __init__(self, graph: Graph, isa: Isa, threads: int = 1) -> None:
        self.graph = graph
        self.isa = isa
        self.threads = threads
        self.program = Program(tuple(v.type for v in graph.inputs), tuple(v.type for v in graph.outputs))
        self._places: dict[Value, Ref] = {v: Ref("tensor", i) for i, v in enumerate(graph.inputs)}
        self._kernels: dict[Hashable, KernelFunction] = {}
        self._node: Node | None = None
        self._output_of = self._claim_outputs()

    def _claim_outputs(self) -> dict[Value, int]:
        """The output tensor into which each value is computed directly, through views of the same size."""
        claimed: dict[Value, int] = {}
        for number, value in enumerate(self.graph.outputs):
            while (
                value.type.size
                and viewed(value.node) == 0
                and value.type.size == value.node.operands[0].type.size
            ):
                value = value.node.operands[0]
            if not isinstance(value.op, Input | Constant):
                claimed.setdefault(value, number)
        return claimed

    def run(self, lower: Callable[[Selector, Node], None]) -> Program:
        for node in self.graph.nodes:
            if isinstance(node.op, Input | Constant):
                continue
            if all(v.type.size == 0 for v in node.values):
                for value in node.values:
                    self.target(value)
                continue
            offset = viewed(node)
            if offset is not None:
                self._places[node.values[0]] = self.source(node.operands[0]).at(offset)
                continue
            self._node = node
            lower(self, node)
            missing = [v for v in node.values if v not in self._places]
            if missing:
                raise UnsupportedError(
                    f"cpu left result {missing[0].index} of {node.op.name} uncomputed", where=node.source
                )
        for number, value in enumerate(self.graph.outputs):
            place = self._output(number)
            if value.type.size and self.source(value) != place:
                self.copy(self.source(value), place, storage_size(value.type))
        return self.program

    def _output(self, number: int) -> Ref:
        return Ref("tensor", len(self.graph.inputs) + number)

    def source(self, value: Value) -> Ref:
        """Where a value can be read."""
        literal = value.literal
        if literal is not None:
            key = ("literal", literal.digest)
            return self.program.constants.add(key, lambda: as_bytes(literal), literal.type)
        return self._places[value]

    def constant(self, key: Hashable, make: Callable[[], Array]) -> Ref:
        """A constant made at compile time; `key` says what it is."""
        return self.program.constants.add(key, make)

    def target(self, value: Value) -> Ref:
        """Where a value is to be written."""
        if value not in self._places:
            number = self._output_of.get(value)
            size = storage_size(value.type)
            self._places[value] = self.program.buffer(size) if number is None else self._output(number)
        return self._places[value]

    def view(self, value: Value, place: Ref) -> None:
        """Say that a value already lies at a place."""
        self._places[value] = place

    def scratch(self, nbytes: int) -> Ref:
        """A buffer for intermediate results."""
        return self.program.buffer(nbytes)

    def kernel(self, key: Hashable, label: str, make: Callable[[str], KernelFunction]) -> KernelFunction:
        """The kernel for `key`, made under a fresh name based on `label` the first time."""
        key = (self.isa.name, self.threads, key)
        if key not in self._kernels:
            made = make(f"{label}_{len(self._kernels)}")
            self._kernels[key] = self.program.kernels[made.name] = made
        return self._kernels[key]

    def call(self, kernel: KernelFunction, reads: Sequence[Ref], writes: Sequence[Ref]) -> None:
        """Append a call; the kernel's parameters are reads, writes and its workspace, in this order."""
        args = [*reads, *writes]
        if kernel.workspace:
            args.append(self.scratch(kernel.workspace))
        written = tuple(range(len(reads), len(args)))
        node = self._node
        source, op = (node.source, node.op.name) if node else ("", "copy")
        self.program.calls.append(Call(kernel, tuple(args), written, source, op))

    def copy(self, source: Ref, target: Ref, nbytes: int) -> None:
        """Copy bytes."""

        def make(name: str) -> KernelFunction:
            code = Code()
            x, y = code.pointer("x", "uint8", nbytes), code.pointer("y", "uint8", nbytes)
            start = 0
            for width in (self.isa.vector_bits // 8, 1):
                count = (nbytes - start) // width
                if count:
                    with code.loop(count) as i:
                        code.store(y, i * width + start, emit.load(x, i * width + start, width))
                start += count * width
            return KernelFunction(name, code.finish())

        self.call(self.kernel(("copy", nbytes), f"copy_{nbytes}", make), [source], [target])
