"""The ops that a dataflow accelerator computes: which nodes it takes, and how each becomes (part of) a
layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardy.compiler.ir import Constant, Input, Node, Op
from hardy.compiler.ops.activation import Clamp, Relu
from hardy.compiler.ops.binary import BinaryConv, BinaryMatmul, PackBits
from hardy.compiler.ops.elementwise import Add, Cast, Max, Min, Mul, Neg, ShiftLeft, Sub
from hardy.compiler.ops.pool import MaxPool
from hardy.compiler.ops.quant import IntegerConv, IntegerMatmul, Requantize, RequantizeShift
from hardy.compiler.ops.reduce import ReduceSum
from hardy.compiler.ops.shape import Reshape, Transpose
from hardy.targets.fpga.dataflow import elementwise, products
from hardy.targets.fpga.dataflow.draft import Traced
from hardy.targets.target import YES, Support, no

if TYPE_CHECKING:
    from hardy.targets.fpga.dataflow.trace import Tracer


@dataclass(frozen=True)
class Entry:
    """`check` says whether a node of the op is taken, `build` makes it a value of the accelerator."""

    check: Callable[[Node], Support]
    build: Callable[[Tracer, Node], Traced]


TABLE: dict[type[Op], Entry] = {
    IntegerConv: Entry(products.check_conv, products.conv),
    IntegerMatmul: Entry(products.check_matmul, products.matmul),
    BinaryConv: Entry(products.check_binary, products.binary_conv),
    BinaryMatmul: Entry(products.check_binary, products.binary_matmul),
    ReduceSum: Entry(products.check_sum, products.reduce_sum),
    MaxPool: Entry(elementwise.check_pool, elementwise.max_pool),
    RequantizeShift: Entry(elementwise.check_shift, elementwise.requantize_shift),
    PackBits: Entry(elementwise.check_parameter, elementwise.pack_bits),
    Add: Entry(elementwise.check_integers, elementwise.add),
    Sub: Entry(elementwise.check_integers, elementwise.add),
    Mul: Entry(elementwise.check_with_constant, elementwise.scale),
    ShiftLeft: Entry(elementwise.check_shift_left, elementwise.scale),
    Neg: Entry(elementwise.check_integers, elementwise.scale),
    Max: Entry(elementwise.check_with_constant, elementwise.limit),
    Min: Entry(elementwise.check_with_constant, elementwise.limit),
    Relu: Entry(elementwise.check_integers, elementwise.clamp),
    Clamp: Entry(elementwise.check_integers, elementwise.clamp),
    Cast: Entry(elementwise.check_integers, elementwise.cast),
    Reshape: Entry(elementwise.check_integers, elementwise.reshape),
    Transpose: Entry(elementwise.check_integers, elementwise.transpose),
}


def supports(node: Node) -> Support:
    """Whether the accelerator computes this node; inputs and constants are neutral."""
    if isinstance(node.op, Input | Constant):
        return YES
    entry = TABLE.get(type(node.op))
    if entry is not None:
        return entry.check(node)
    if isinstance(node.op, Requantize):
        return no(
            "it multiplies by an f32 scale; quantize with power-of-two scales and zero points of 0, "
            "which gives requantize_shift"
        )
    return no(f"the accelerator has no {node.op.name}")
