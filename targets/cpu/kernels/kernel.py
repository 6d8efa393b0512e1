"""What every kernel constructor returns, and the epilogue it can fuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hardy.targets.cpu.kernels import emit
from hardy.targets.cpu.kernels.emit import Buffer, Code, Expr

Array = NDArray[Any]
Pack = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class EpilogueOperand:
    """One extra input of an epilogue.

    `full` has the output's layout and shape, `channel` is a vector over the last axis, `scalar` has one
    element; `dtype` is TVM's name of the element type. A `full` operand may be the output itself (in place).
    """

    dtype: str
    kind: Literal["full", "channel", "scalar"]


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What happens to an accumulator before it is stored, in registers.

    `apply(acc, operands)` maps the accumulator (f32 or i32, any number of lanes) and the loaded operands
    (each of its own element type, as many lanes) to an expression of type `dtype` with as many lanes. It must
    work for every lane count, one included, and elementwise only.
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
        sizes = {"full": elements, "channel": channels, "scalar": 1}
        self.names = tuple(f"epilogue{i}" for i in range(len(epilogue.operands))) + ("output",)
        self._operands: list[tuple[EpilogueOperand, Buffer]] = [
            (operand, code.pointer(name, operand.dtype, sizes[operand.kind]))
            for name, operand in zip(self.names, epilogue.operands, strict=False)
        ]
        self._buffer = code.pointer("output", epilogue.dtype, elements)

    def store(self, index: Expr, channel: Expr, acc: Expr) -> None:
        """Stores the epilogue of `acc` at `index`; `channel` is the index on the last axis."""
        lanes = emit.lanes_of(acc)
        at = {"full": index, "channel": channel}
        operands = [
            emit.splat(self._code.load(buffer, 0, 1), lanes)
            if operand.kind == "scalar"
            else self._code.load(buffer, at[operand.kind], lanes)
            for operand, buffer in self._operands
        ]
        value = self._epilogue.apply(self._code.let(acc), operands)
        self._code.store(self._buffer, index, value)


class Workspace:
    """Hands out parts of the workspace, in elements, each on a 64-byte boundary."""

    def __init__(self, elements: int = 0) -> None:
        self.elements = elements

    def take(self, elements: int) -> int:
        """Where a part of that many elements begins."""
        start = self.elements + -self.elements % 64
        self.elements = start + elements
        return start
