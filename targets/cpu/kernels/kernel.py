"""What every kernel constructor returns, and the epilogue it can fuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr

# The type of an epilogue whose truths are stored as bits, eight of the last axis in a byte.
BITS = "bits"

Array = NDArray[Any]
Pack = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class EpilogueOperand:
    """One extra input of an epilogue.

    `full` has the output's layout and shape, `channel` is a vector over the last axis, `row` one over all
    others, `scalar` has one element; `dtype` is TVM's name of the element type. A `full` operand may be the
    output itself (in place).
    """

    dtype: str
    kind: Literal["full", "channel", "row", "scalar"]


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What happens to an accumulator before it is stored, in registers.

    `apply(acc, operands)` maps the accumulator (f32 or i32, any number of lanes) and the loaded operands
    (each of its own element type, as many lanes) to an expression of type `dtype` with as many lanes. It must
    work for every lane count, one included, and elementwise only. For the type BITS the expression is a
    truth, and vectors must cover whole bytes.
    """

    operands: tuple[EpilogueOperand, ...] = ()
    apply: Callable[[Expr, Sequence[Expr]], Expr] = lambda acc, operands: acc
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A private TIR function over raw pointers that returns int32 zero.

    `inputs` names the parameters in order: activations, packed weight, bias, `epilogue0`..., `output`,
    `workspace` (only when `workspace_bytes` is not zero). Pointers need the alignment of their element
    only, 64 bytes make them faster; the workspace must be aligned to 64 bytes. `pack` turns the constant
    weight into the array that the kernel reads; it is the identity where there is no weight.
    """

    func: Any
    inputs: tuple[str, ...]
    workspace_bytes: int = 0
    pack: Pack = np.ascontiguousarray


class Output:
    """Where results go: declares the epilogue's operands and the output, and stores through the epilogue."""

    def __init__(self, code: Code, epilogue: Epilogue, elements: int, channels: int) -> None:
        self._code = code
        self._epilogue = epilogue
        rows = elements // max(channels, 1)
        sizes = {"full": elements, "channel": channels, "row": rows, "scalar": 1}
        self.names = tuple(f"epilogue{i}" for i in range(len(epilogue.operands))) + ("output",)
        self._operands: list[tuple[EpilogueOperand, Buffer]] = [
            (operand, code.pointer(name, operand.dtype, sizes[operand.kind]))
            for name, operand in zip(self.names, epilogue.operands, strict=False)
        ]
        self._bits = epilogue.dtype == BITS
        if self._bits:
            self._buffer = code.pointer("output", "uint8", rows * -(-channels // 8))
        else:
            self._buffer = code.pointer("output", epilogue.dtype, elements)
        self._spare = -channels % 8
        self._channels = channels

    def store(self, index: Expr, channel: Expr, acc: Expr) -> None:
        """Stores the epilogue of `acc` at `index`; `channel` is the index on the last axis."""
        value = self.value(index, channel, acc)
        if not self._bits:
            self._code.store(self._buffer, index, value)
            return
        if self._spare:
            index = emit.floordiv(index - channel, self._channels) * (self._channels + self._spare) + channel
        lanes = emit.lanes_of(value)
        self.store_byte(emit.floordiv(index, 8), tirx.call_intrin(f"uint{lanes}", "tirx.reinterpret", value))

    def store_byte(self, at: Expr, bits: Expr) -> None:
        """Stores bits, 8 or a multiple, at a byte of the output."""
        count = int(bits.ty.dtype.bits) // 8
        if count > 1:
            bits = tirx.reinterpret(f"uint8x{count}", bits)
        self._code.store(self._buffer, at, bits)

    def value(self, index: Expr, channel: Expr, acc: Expr) -> Expr:
        """The epilogue of `acc`."""
        lanes = emit.lanes_of(acc)
        row = emit.floordiv(index - channel, self._channels)
        operands = []
        for operand, buffer in self._operands:
            if operand.kind in ("scalar", "row"):
                value = self._code.load(buffer, row if operand.kind == "row" else 0, 1)
                operands.append(emit.splat(value, lanes))
            else:
                at = index if operand.kind == "full" else channel
                operands.append(self._code.load(buffer, at, lanes))
        return self._epilogue.apply(self._code.let(acc), operands)


class Workspace:
    """Hands out parts of the workspace, in elements, each on a 64-byte boundary."""

    def __init__(self, elements: int = 0) -> None:
        self.elements = elements

    def take(self, elements: int) -> int:
        """Where a part of that many elements begins."""
        start = self.elements + -self.elements % 64
        self.elements = start + elements
        return start
